"""Single-bit flips in the weights that an engine computes with: where they fall, and what each does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from babelrs.boxes import rotated_iou
from babelrs.bundle import Bundle, SelfTest, read_selftest
from babelrs.detections import Detections
from babelrs.errors import BabelRSError, DeviceError
from babelrs.postprocess import detections_from_outputs
from babelrs.sensors import Sensor
from runtime.engines import Outputs
from runtime.engines.onnxruntime import OnnxRuntimeEngine
from runtime.integrity.canary import bits_of
from runtime.integrity.outputs import output_fault
from runtime.integrity.weights import Region, slices_of
from runtime.selftest import judged

LEAST_IOU, MOST_SCORE_DIFFERENCE = 0.95, 0.03
"""Detections are the same where boxes of a class overlap more and scores differ less."""
RUN_DTYPES = ("float32", "float16", "int8", "uint8", "int32")
"""Weights, scales and biases. Others are shapes and indices: one flipped may ask for any amount of memory, so the CRC
is tried on it, and no inference."""

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Flip:
    """One bit.

    Attributes:
        region: Place of the region among all of the graph's.
        byte: Place in the region.
        bit: From 0, the byte's least.
    """

    region: int
    byte: int
    bit: int


def draw_flips(regions: Sequence[Region], count: int, rng: np.random.Generator) -> list[Flip]:
    """Bits, each of all as likely as any other."""
    ends = np.cumsum([len(region.content) for region in regions])
    places = rng.integers(0, 8 * int(ends[-1]), count)
    which = np.searchsorted(ends, places // 8, side="right")
    starts = ends - [len(region.content) for region in regions]
    return [
        Flip(int(region), int(place // 8 - starts[region]), int(place % 8))
        for region, place in zip(which, places, strict=True)
    ]


def bit_kind(dtype: str, byte: int, bit: int) -> tuple[str, int]:
    """What a bit of a little-endian number is (``sign``, ``exponent``, ``mantissa`` or ``integer``), and its number."""
    size = np.dtype(dtype).itemsize
    position = 8 * (byte % size) + bit
    mantissa_bits = {"float32": 23, "float16": 10}.get(dtype)
    if mantissa_bits is None:
        return "integer", position
    if position == 8 * size - 1:
        return "sign", position
    return ("exponent" if position >= mantissa_bits else "mantissa"), position


def layer_group(region: Region) -> str:
    """The part of the model that a region belongs to, by the names of the tensor and of the node that reads it."""
    for name in (region.name, region.reader):
        path = re.sub(r"^(detector\.|/)", "", name).replace("/", ".")
        if found := re.match(r"backbone\.(?:stem|blocks)", path):
            return found[0].split(".")[1]
        if found := re.match(r"(?:aggregate|pyramid|backbone)\b", path):
            return found[0]
        if re.match(r"(?:heads\.)?(?:rgb|sar|ir)\b", path):
            return "head"
    return "other"


def same_detections(found: Detections, wanted: Detections) -> bool:
    """Whether each detection of either has one like it in the other, and there are as many."""
    if len(found) != len(wanted):
        return False
    alike = rotated_iou(found.boxes, wanted.boxes) > LEAST_IOU
    alike &= np.abs(found.scores[:, None] - wanted.scores[None]) < MOST_SCORE_DIFFERENCE
    alike &= found.labels[:, None] == wanted.labels[None]
    return bool(alike.any(axis=0).all() and alike.any(axis=1).all())


class Target:
    """A sensor's graph to flip bits of, with what it must give.

    Args:
        bundle: The bundle.
        sensor: Whose graph.
        images: Prepared tiles ``(N, H, W, C)`` that detections are compared on; without any, the self-test's input.
        threads: CPU threads.

    Raises:
        BabelRSError: The weights cannot be addressed.
    """

    def __init__(self, bundle: Bundle, sensor: Sensor, images: Pixels | None, threads: int) -> None:
        self.sensor, self._entry = sensor, bundle.manifest.entry(sensor)
        self._engine = OnnxRuntimeEngine(bundle.folder, self._entry, threads, owned=True)
        self.regions = self._engine.weights
        if not self.regions:
            raise BabelRSError(f"{bundle.folder}: the {sensor} graph's weights cannot be addressed.", "Run on the CPU.")
        self._slices = {region.name: slices_of([region]) for region in self.regions}
        self._selftest: SelfTest = read_selftest(bundle, sensor)
        own = self._selftest.pixels[:0] if images is None else images
        self._pixels = np.concatenate([self._selftest.pixels, own])
        sound = self._engine.infer(self._pixels)
        self._wanted, self._bits = self._detections(sound), bits_of(_first(sound))

    def try_flip(self, flip: Flip, infer: bool = True) -> dict[str, object]:
        """Flip, look, flip back.

        Returns:
            ``crc``: whether the CRC of exactly its slice differs. Where an inference was run, also ``changed``: whether
            any detection did, ``output`` and ``selftest``: whether the output check and the self-test's tolerances
            notice, and ``exact``: whether the self-test does as it runs in flight, to the bit.
        """
        region = self.regions[flip.region]
        kind, position = bit_kind(region.dtype, flip.byte, flip.bit)
        what = {"sensor": str(self.sensor), "tensor": region.name, "group": layer_group(region), "dtype": region.dtype}
        region.content[flip.byte] ^= 1 << flip.bit
        try:
            differing = sum(not each.is_intact() for each in self._slices[region.name])
            found: dict[str, object] = {**what, "kind": kind, "bit": position, "crc": differing == 1}
            if infer and region.dtype in RUN_DTYPES:
                found |= self._consequences()
        finally:
            region.content[flip.byte] ^= 1 << flip.bit
        return found

    def _consequences(self) -> dict[str, object]:
        try:
            outputs = self._engine.infer(self._pixels)
        except DeviceError:
            return {"changed": True, "output": True, "selftest": True, "exact": True}
        fault = output_fault(outputs, self._entry, len(self._pixels))
        canary = _first(outputs)
        detections = self._detections(outputs)
        changed = not all(map(same_detections, detections, self._wanted))
        missed, differs = not judged(canary, self._selftest).passed, bits_of(canary) != self._bits
        return {"changed": changed, "output": bool(fault), "selftest": missed, "exact": missed or differs}

    def _detections(self, outputs: Outputs) -> list[Detections]:
        """By image; those of the self-test's input are left out where there are others."""
        entry, first = self._entry, min(1, len(self._pixels) - 1)
        return [
            detections_from_outputs(*row, entry.classes, self.sensor, entry.score_threshold, entry.nms_iou)
            for row in list(zip(*outputs, strict=True))[first:]
        ]


def _first(outputs: Outputs) -> Outputs:
    """The outputs of a batch's first image, the self-test's."""
    return outputs[0][:1], outputs[1][:1], outputs[2][:1]
