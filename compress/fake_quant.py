"""A detector whose weights and activations are rounded as INT8 engines round them, simulated in PyTorch.

nvidia-modelopt puts a quantizer before every convolution and matrix product and one on its weights. Weights have one
scale a channel, shared by all sensors; activations have one scale a tensor and sensor, from :mod:`compress.histogram`.
Everything else is float16, as in the exported graph: weights and the output of every module are rounded to it.
"""

from __future__ import annotations

import contextlib
import io
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from compress.calibration import CalibrationSet, as_seen_by
from compress.folding import folded
from compress.histogram import LEVELS, Histogram
from compress.parts import part_of, parts_of
from compress.ranges import Ranges, magnitude
from train.data.read_ahead import ahead
from train.models.detector import Detector, normalise

_HALF_LEAST = 2.0**-24
"""The least positive float16."""


class FakeQuantized:
    """A detector with quantizers, all off at first.

    Args:
        detector: The trained model; it is copied, and batch normalisation folded.
        half: Whether what is not INT8 is rounded to float16; float32 otherwise.
    """

    def __init__(self, detector: Detector, half: bool) -> None:
        self.detector, self.half = folded(detector), half
        if half:
            _round_to_half(self.detector)
        mtq = _modelopt()
        with contextlib.redirect_stdout(io.StringIO()):  # it prints how many quantizers it made
            mtq.quantize(self.detector, _SETTINGS, forward_loop=None)
        modules = {name: module for name, module in self.detector.named_modules() if hasattr(module, "input_quantizer")}
        self.points: dict[str, Any] = {name: module.input_quantizer for name, module in modules.items()}
        self._weights: dict[str, Any] = {name: module.weight_quantizer for name, module in modules.items()}
        self.parts = parts_of(self.points)
        self.int8_parts: frozenset[str] = frozenset()
        self.quantize_parts(())

    def quantize_parts(self, parts: Iterable[str]) -> None:
        """Make these parts INT8, and all others float."""
        self.int8_parts = frozenset(parts)
        if unknown := self.int8_parts - set(self.parts):
            raise ValueError(f"no parts {sorted(unknown)}; there are {self.parts}")
        for name in self.points:
            wanted = part_of(name) in self.int8_parts
            for quantizer in (self.points[name], self._weights[name]):
                quantizer.enable() if wanted else quantizer.disable()

    def use(self, ranges: Ranges) -> None:
        """Clip activations to these ranges, one for every point that the sensor's images pass."""
        for name, kept in ranges.items():
            self.points[name].amax = torch.tensor(exact_threshold(magnitude(kept), self.half), dtype=torch.float32)

    def follow_weights(self) -> None:
        """Fit the scales of the weights to what they are now."""
        modules = dict(self.detector.named_modules())
        for name, quantizer in self._weights.items():
            weight: Any = modules[name].weight
            greatest = weight.detach().abs().amax(tuple(range(1, weight.ndim)))
            quantizer.amax = greatest.reshape(quantizer.amax.shape)

    def without_quantizers(self, like: Detector) -> Detector:
        """A float detector with these weights.

        Args:
            like: The detector that this one was made of.
        """
        plain = folded(like)
        own = self.detector.state_dict()
        plain.load_state_dict({name: own[name] for name in plain.state_dict()})
        return plain

    def num_weights(self) -> dict[str, int]:
        """Number of weights of every part."""
        counts: dict[str, int] = dict.fromkeys(self.parts, 0)
        modules = dict(self.detector.named_modules())
        for name in self.points:
            weight = modules[name].weight
            assert isinstance(weight, Tensor)
            counts[part_of(name)] += weight.numel()
        return counts

    def observe(
        self,
        images: CalibrationSet,
        sensor: Sensor,
        through: Sensor | None = None,
        batch_size: int = 4,
        threads: int = 1,
    ) -> dict[str, Histogram]:
        """Histograms of what every quantization point sees of a sensor's calibration images, with all parts float.

        Args:
            images: The images.
            sensor: Whose.
            through: The head they pass; ``None``: the sensor's own.
            batch_size: Images at a time.
            threads: Batches at a time; what is counted does not depend on it.

        Raises:
            BabelRSError: An activation is NaN or infinite; the module and the images are named.
        """
        head = self.detector.heads[(through or sensor).value]
        batches = images.batches(sensor, batch_size)
        found: dict[str, Histogram] = {}
        with self._watched() as counted:

            @torch.no_grad()
            def look(batch: tuple[list[str], npt.NDArray[np.uint8]]) -> dict[str, Histogram]:
                counted.images, counted.found = f"{sensor} images {', '.join(batch[0])}", {}
                seen = as_seen_by(batch[1], (through or sensor).num_channels)
                head(self.detector.features(normalise(torch.from_numpy(seen))))
                return dict(counted.found)

            for part in ahead(look, batches, threads):
                for name, histogram in part.items():
                    found.setdefault(name, Histogram()).merge(histogram)
        return found

    @contextmanager
    def _watched(self) -> Iterator[threading.local]:
        """Within this context all parts are float, and every point's inputs are counted in a thread's ``found``."""
        before, counted = self.int8_parts, threading.local()
        self.quantize_parts(())

        def watcher(name: str) -> Any:
            def watch(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                try:
                    counted.found.setdefault(name, Histogram()).add(inputs[0].detach().numpy())
                except ValueError as error:
                    what = f"The input of {name} holds {error} for the {counted.images}."
                    raise BabelRSError(what, "The weights are damaged or the images broken.") from None

            return watch

        modules = dict(self.detector.named_modules())
        handles = [modules[name].register_forward_pre_hook(watcher(name)) for name in self.points]
        try:
            yield counted
        finally:
            for handle in handles:
                handle.remove()
            self.quantize_parts(before)


def exact_threshold(threshold: float, half: bool) -> float:
    """The threshold whose scale (a 127th of it) the graph can hold: a float16 where activations are float16.

    A point that saw nothing but zeros keeps them whatever its scale is: it gets 1/128.
    """
    if threshold <= 0:
        return LEVELS / 128
    scale = threshold / LEVELS
    return float(np.float16(max(scale, _HALF_LEAST))) * LEVELS if half else threshold


_SETTINGS: dict[str, Any] = {
    "quant_cfg": [
        {"quantizer_name": "*", "enable": False},
        {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": 8, "axis": 0}},
        {"quantizer_name": "*input_quantizer", "cfg": {"num_bits": 8, "axis": None}},
    ],
    "algorithm": "max",
}
"""INT8 as TensorRT computes it: symmetric, a scale for each output channel of weights and for each activation."""


def _modelopt() -> Any:
    """nvidia-modelopt, which is slow to import and warns of other packages' versions."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import modelopt.torch.quantization as mtq
    except ImportError as error:
        raise BabelRSError(
            f"INT8 needs nvidia-modelopt ({error}).", "Install it with: pip install 'babelrs[compress]'"
        ) from None
    return mtq


def _round_to_half(model: nn.Module) -> None:
    """Weights to float16's values, and from now on the output of every module without children too."""
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
    for module in model.modules():
        if not any(True for _ in module.children()) and not isinstance(module, nn.Identity):
            module.register_forward_hook(_half_output)


def _half_output(module: nn.Module, inputs: Any, output: Any) -> Any:
    return output.half().float() if isinstance(output, Tensor) else output
