"""The end for what nobody foresaw: what was accepted is written by then, and the service manager starts anew."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from babelrs.errors import BabelRSError, DeviceError

_MEMORY = "Give it more memory, smaller images or a smaller --batch; --resume goes on where it stopped."
_DEFECT = "--resume goes on where it stopped. If it comes again, report it with what --verbose says."
_LONGEST = 300
_LOGGER = logging.getLogger(__name__)


@contextmanager
def unforeseen_ends_safely() -> Iterator[None]:
    """Turn whatever is no error of the user's into one of the device's: one line, and exit code 3.

    The traceback is logged for whoever asks to see more. To be put around a whole run, whose sinks and journal are
    closed by then.

    Raises:
        DeviceError: Memory ran out, or there is a defect.
    """
    try:
        yield
    except BabelRSError:
        raise
    except Exception as error:
        _LOGGER.info("stopped by a fault that was not foreseen", exc_info=error)
        raise DeviceError(*_described(error)) from error


def _described(error: Exception) -> tuple[str, str]:
    """What it is, where it arose, and what to do."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].name}, line {frames[-1].lineno} of {frames[-1].filename}"
    said = (str(error).strip().splitlines() or [""])[0][:_LONGEST]
    if isinstance(error, MemoryError):
        return f"Stopped: memory ran out in {where}{f' ({said})' if said else ''}.", _MEMORY
    cause = ": ".join(filter(None, [type(error).__name__, said]))
    return f"Stopped by a fault that was not foreseen, in {where}: {cause}.", _DEFECT
