"""Where models run: picking a device by name, and what its instructions are slow at."""

from __future__ import annotations

import logging
from typing import Literal

import torch

from babelrs.errors import BabelRSError

log = logging.getLogger("train")


def pick_device(name: str = "auto") -> torch.device:
    """The device of a name such as ``cpu`` or ``cuda:1``; ``auto`` is the first GPU where there is one.

    Raises:
        BabelRSError: There is no such device.
    """
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BabelRSError(f"The device {name} cannot be used: {str(error).splitlines()[0]}", "Use cpu.") from None
    return device


def warn_of_slow_precision(precision: Literal["no", "bf16", "fp16"], device: torch.device) -> None:
    """Say so where this CPU lacks the instructions of the precision: convolutions then take many times longer."""
    supported = {
        "no": True,
        "bf16": torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        "fp16": torch.ops.mkldnn._is_mkldnn_fp16_supported(),
    }
    if device.type == "cpu" and not supported[precision]:
        log.warning("this CPU has no %s instructions: --precision no will be several times faster", precision)
