"""Raw counts to the uint8 image the model sees, by a per-sensor profile that travels with the model.

A profile says, for every number type a sensor delivers, which physical scale to use (counts as they are, or decibels)
and which window of that scale becomes 0..255: none (8-bit images pass unchanged), fixed (calibrated backscatter, so
that a value means the same in every scene), or percentiles of the frame (thermal counts, whose offset drifts).
The same code runs in training and on board.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from babelrs.errors import BabelRSError, collected
from babelrs.images import Frame, ImageError
from babelrs.sensors import Sensor

TRANSFORMS = ("none", "amplitude_to_db", "intensity_to_db")
WINDOWS = ("none", "fixed", "percentile")
DTYPES = ("uint8", "uint16", "float32")

_DB_FACTOR = {"amplitude_to_db": 20.0, "intensity_to_db": 10.0}
_GRAY_TOLERANCE = {"uint8": 2}  # counts by which the bands of a gray image saved as colour may differ (JPEG rounding)
_BLOCK_PIXELS = 1 << 20
_LOGGER = logging.getLogger(__name__)

Counts = npt.NDArray[Any]
Window = tuple[float, float]


@dataclass(frozen=True)
class Stretch:
    """How counts of one number type become 0..255.

    Attributes:
        transform: ``none``, ``amplitude_to_db`` (20 log10) or ``intensity_to_db`` (10 log10); counts of 0 and below
            have no decibels and are invalid.
        window: ``none`` (uint8 only: unchanged), ``fixed`` or ``percentile`` (of the frame's valid pixels, all bands).
        low: What becomes 0: counts or dB for ``fixed``, percent for ``percentile``.
        high: What becomes 255, alike.
        min_span: Least width of a percentile window, counts or dB; a narrower one is widened about its middle, so
            that the noise of a flat frame is not blown up to full contrast.
    """

    transform: str = "none"
    window: str = "none"
    low: float = 0.0
    high: float = 255.0
    min_span: float = 0.0

    @property
    def faults(self) -> list[str]:
        """What is wrong with the values, in words; empty if nothing is."""
        found = []
        if self.transform not in TRANSFORMS:
            found.append(f"transform {self.transform!r} is none of {', '.join(TRANSFORMS)}")
        if self.window not in WINDOWS:
            found.append(f"window {self.window!r} is none of {', '.join(WINDOWS)}")
        numbers = (self.low, self.high, self.min_span)
        if not all(isinstance(value, (int, float)) and np.isfinite(value) for value in numbers):
            return [*found, f"low, high and min_span {numbers} are not all finite numbers"]
        if not self.low < self.high:
            found.append(f"low {self.low} is not below high {self.high}")
        if self.window == "percentile" and (self.low < 0 or self.high > 100):
            found.append(f"percentiles {self.low} and {self.high} are not within 0..100")
        if self.window == "none" and self.transform != "none":
            found.append(f"transform {self.transform!r} needs a window")
        if self.min_span < 0:
            found.append(f"min_span {self.min_span} is negative")
        return found


@dataclass(frozen=True)
class RadiometryProfile:
    """A sensor's stretches by number type, stored with the model.

    Attributes:
        sensor: The sensor.
        stretches: A :class:`Stretch` for each of ``uint8``, ``uint16``, ``float32`` that is accepted.
        nodata: The count that means "no measurement" where a frame does not say so itself.

    Raises:
        BabelRSError: A value is out of range; all faults are listed.
    """

    sensor: Sensor
    stretches: Mapping[str, Stretch]
    nodata: float | None = None

    def __post_init__(self) -> None:
        faults = [f"{name}: {fault}" for name, stretch in self.stretches.items() for fault in stretch.faults]
        faults += [f"{name}: not one of {', '.join(DTYPES)}" for name in self.stretches if name not in DTYPES]
        faults += [
            f"{name}: window 'none' is for uint8 only"
            for name, stretch in self.stretches.items()
            if stretch.window == "none" and name != "uint8"
        ]
        if not self.stretches:
            faults.append("no stretch for any number type")
        if faults:
            raise collected(f"The radiometry profile of {self.sensor} is wrong", faults, "Correct the profile.")

    def to_dict(self) -> dict[str, Any]:
        """The profile as plain values for JSON."""
        stretches = {
            name: {item.name: getattr(stretch, item.name) for item in fields(Stretch)}
            for name, stretch in self.stretches.items()
        }
        return {"sensor": self.sensor.value, "nodata": self.nodata, "stretches": stretches}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RadiometryProfile:
        """The profile that :meth:`to_dict` described.

        Raises:
            BabelRSError: A field is missing, unknown or out of range.
        """
        known = {item.name for item in fields(Stretch)}
        stretches = values.get("stretches")
        if set(values) != {"sensor", "nodata", "stretches"} or not isinstance(stretches, Mapping):
            raise BabelRSError(
                f"A radiometry profile has the fields {sorted(values)}.", "It needs sensor, nodata, stretches."
            )
        for name, stretch in stretches.items():
            if not isinstance(stretch, Mapping) or not set(stretch) <= known:
                raise BabelRSError(
                    f"The stretch for {name} is {stretch!r}.", f"Its fields are {', '.join(sorted(known))}."
                )
        nodata = values["nodata"]
        if nodata is not None and not isinstance(nodata, (int, float)):
            raise BabelRSError(f"nodata is {nodata!r}.", "Give a number or null.")
        sensor = Sensor.parse(values["sensor"])
        return cls(sensor, {name: Stretch(**stretch) for name, stretch in stretches.items()}, nodata)


_UNCHANGED = Stretch()

DEFAULT_PROFILES: Mapping[Sensor, RadiometryProfile] = {
    # 16-bit visible counts: one window over all bands keeps the colour balance.
    Sensor.RGB: RadiometryProfile(
        Sensor.RGB,
        {
            "uint8": _UNCHANGED,
            "uint16": Stretch("none", "percentile", 0.5, 99.5, min_span=64.0),
            "float32": Stretch("none", "percentile", 0.5, 99.5, min_span=0.01),
        },
    ),
    # float32 SAR is calibrated backscatter in dB. A fixed window gives a ship the same gray level in every scene and
    # tile, and leaves empty sea dark; percentiles would stretch its speckle to full contrast. 40 dB in 255 steps of
    # 0.16 dB hold the noise floor of Sentinel-1 (about -25 dB) and bright corner returns (about +10 dB).
    # uint16 amplitudes are not calibrated, so their window follows the frame; 99.9 percent keeps targets unsaturated.
    Sensor.SAR: RadiometryProfile(
        Sensor.SAR,
        {
            "uint8": _UNCHANGED,
            "uint16": Stretch("amplitude_to_db", "percentile", 1.0, 99.9, min_span=20.0),
            "float32": Stretch("none", "fixed", -30.0, 10.0),
        },
    ),
    # Thermal counts drift with the camera's temperature, so the window follows the frame. 100 counts are some 3 K at
    # the usual 0.03 to 0.04 K a count; float32 is degrees (K or Celsius).
    Sensor.IR: RadiometryProfile(
        Sensor.IR,
        {
            "uint8": _UNCHANGED,
            "uint16": Stretch("none", "percentile", 0.5, 99.5, min_span=100.0),
            "float32": Stretch("none", "percentile", 0.5, 99.5, min_span=3.0),
        },
    ),
}


def valid_mask(frame: Frame, profile: RadiometryProfile) -> npt.NDArray[np.bool_]:
    """Which pixels are measurements, ``(H, W)``.

    Invalid are NaN and infinities (in any band), pixels whose every band is nodata, transparent pixels (alpha 0), and
    counts without decibels where the profile asks for decibels.

    Raises:
        ImageError: The frame's bands or number type do not fit the sensor.
    """
    return _valid(_bands(frame, profile.sensor), frame, profile)


def fit_window(frame: Frame, profile: RadiometryProfile) -> Window:
    """The window of counts or dB that becomes 0..255, from the valid pixels of a whole frame.

    Fit it once and pass it to :func:`to_uint8` for every part of a scene. A frame without valid pixels, and a stretch
    without a window, give ``(0, 255)``.

    Raises:
        ImageError: The frame's bands or number type do not fit the sensor.
    """
    bands, stretch = _bands(frame, profile.sensor), _stretch(frame, profile)
    if stretch.window == "fixed":
        _warn_if_linear(frame, stretch, bands)
        return float(stretch.low), float(stretch.high)
    if stretch.window == "none":
        return 0.0, 255.0
    valid = _valid(bands, frame, profile)
    counts = bands.reshape(-1) if valid.all() else bands[valid].reshape(-1)
    if counts.size == 0:
        return 0.0, 255.0
    low, high = _percentiles(counts, stretch)
    widened = max(high - low, stretch.min_span, 1e-6 * max(1.0, abs(low), abs(high)))
    middle = 0.5 * (low + high)
    return (low, high) if widened == high - low else (middle - 0.5 * widened, middle + 0.5 * widened)


def to_uint8(frame: Frame, profile: RadiometryProfile, window: Window | None = None) -> npt.NDArray[np.uint8]:
    """The image the model sees.

    Args:
        frame: Raw counts.
        profile: The sensor's profile.
        window: From :func:`fit_window` of the whole scene; ``None`` fits it to this frame.

    Returns:
        ``(H, W, C)`` uint8, C = 3 for RGB and 1 for SAR and infrared; invalid pixels are 0.

    Raises:
        ImageError: The frame's bands or number type do not fit the sensor.
    """
    return to_uint8_with_mask(frame, profile, window)[0]


def to_uint8_with_mask(
    frame: Frame, profile: RadiometryProfile, window: Window | None = None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """:func:`to_uint8` and :func:`valid_mask` at once, for less than the price of both.

    Raises:
        ImageError: The frame's bands or number type do not fit the sensor.
    """
    bands, stretch = _bands(frame, profile.sensor), _stretch(frame, profile)
    if stretch.window == "none":
        image = bands.astype(np.uint8)
    else:
        image = _apply(bands, stretch, *(fit_window(frame, profile) if window is None else window))
    valid = _valid(bands, frame, profile)
    if not valid.all():
        image[~valid] = 0
    return np.repeat(image, 3, axis=2) if image.shape[2] < profile.sensor.num_channels else image, valid


def needs_window(dtype: str, profile: RadiometryProfile) -> bool:
    """Whether images of this number type depend on a window, fitted or fixed; not so where counts pass unchanged."""
    return dtype not in profile.stretches or profile.stretches[dtype].window != "none"


def _warn_if_linear(frame: Frame, stretch: Stretch, bands: Counts) -> None:
    """A window that begins below 0 dB over data without a negative value: most likely linear backscatter."""
    if stretch.transform == "none" and stretch.low < 0 and bands.min() >= 0:
        _LOGGER.warning("%s: no value below 0: linear backscatter where the model takes dB?", frame.source)


def _stretch(frame: Frame, profile: RadiometryProfile) -> Stretch:
    name = frame.pixels.dtype.name
    if name not in profile.stretches:
        accepted = ", ".join(profile.stretches)
        what = f"{profile.sensor} pixels are {name}; the model takes {accepted}."
        raise ImageError("pixel type", frame.source, what, "Convert the image.")
    return profile.stretches[name]


def _bands(frame: Frame, sensor: Sensor) -> Counts:
    """The bands the sensor uses, ``(H, W, 1)`` or ``(H, W, 3)``; refuses what cannot be of this sensor."""
    pixels = frame.pixels
    if pixels.ndim not in (2, 3) or pixels.size == 0:
        what = f"pixels of shape {pixels.shape}."
        raise ImageError("empty", frame.source, what, "Give (H, W) or (H, W, C), not empty.")
    planes = pixels[..., None] if pixels.ndim == 2 else pixels
    data = planes[..., :-1] if frame.has_alpha and planes.shape[2] > 1 else planes
    count = int(data.shape[2])
    if count == 1:
        return data
    if sensor is Sensor.RGB and count in (3, 4):
        return data[..., :3]
    if sensor is not Sensor.RGB and count == 3 and _is_gray(data):
        return data[..., :1]
    found = f"{count} bands that differ" if count == 3 else f"{count} data bands"
    need = "3 (or 1: gray)" if sensor is Sensor.RGB else "1 (or 3 equal ones: gray)"
    what = f"{found}, where sensor {sensor} takes {need}."
    raise ImageError(
        "band count", frame.source, what, "Check the sensor, or extract the band with `gdal_translate -b`."
    )


def _is_gray(data: Counts) -> bool:
    tolerance = _GRAY_TOLERANCE.get(data.dtype.name, 0)
    first, others = data[..., 0], (data[..., 1], data[..., 2])
    if tolerance == 0:
        return all(bool(np.array_equal(first, other, equal_nan=data.dtype.kind == "f")) for other in others)
    wide = first.astype(np.int16)
    return all(int(np.abs(wide - other).max()) <= tolerance for other in others)


def _valid(bands: Counts, frame: Frame, profile: RadiometryProfile) -> npt.NDArray[np.bool_]:
    valid = np.ones(bands.shape[:2], np.bool_)
    if bands.dtype.kind == "f":
        valid &= _every_band(np.isfinite(bands))
    nodata = profile.nodata if frame.nodata is None else frame.nodata
    if nodata is not None and np.isfinite(nodata):
        with np.errstate(over="ignore"):
            wanted = np.float32(nodata) if bands.dtype == np.float32 else nodata
        valid &= ~_every_band(bands == wanted)
    if frame.has_alpha and frame.pixels.ndim == 3:
        valid &= frame.pixels[..., -1] > 0
    if _stretch(frame, profile).transform != "none":
        valid &= _every_band(bands > 0)
    return valid


def _every_band(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """``mask.all(axis=2)``, several times faster for a few bands."""
    every = mask[..., 0]
    for band in range(1, mask.shape[2]):
        every = every & mask[..., band]
    return every


def _physical(counts: Counts, stretch: Stretch) -> npt.NDArray[np.float64]:
    """Counts on the stretch's scale, float64; where there are no decibels, minus infinity."""
    values = counts.astype(np.float64)
    if stretch.transform == "none":
        return values
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(values > 0, _DB_FACTOR[stretch.transform] * np.log10(values), -np.inf)


def _percentiles(counts: Counts, stretch: Stretch) -> Window:
    """NumPy's linear percentiles of the transformed counts; integers by a histogram, without sorting."""
    ranks = np.array([stretch.low, stretch.high]) / 100.0 * (counts.size - 1)
    below, above = np.floor(ranks).astype(np.int64), np.ceil(ranks).astype(np.int64)
    if counts.dtype.kind == "u":
        ends = np.cumsum(_histogram(counts))
        ordered = np.searchsorted(ends, np.concatenate([below, above]), side="right")
    else:
        picked = np.concatenate([below, above])
        ordered = np.partition(counts, np.unique(picked))[picked]
    values = _physical(np.asarray(ordered), stretch)
    low, high = values[:2] + (values[2:] - values[:2]) * (ranks - below)
    return float(low), float(high)


def _histogram(counts: Counts) -> npt.NDArray[np.int64]:
    """How often each unsigned count occurs; in blocks, since ``np.bincount`` makes 8 bytes of every count."""
    total = np.zeros(np.iinfo(counts.dtype).max + 1, np.int64)
    for start in range(0, counts.size, _BLOCK_PIXELS):
        total += np.bincount(counts[start : start + _BLOCK_PIXELS], minlength=total.size)
    return total


def _apply(bands: Counts, stretch: Stretch, low: float, high: float) -> npt.NDArray[np.uint8]:
    if bands.dtype.kind == "u":
        levels = np.arange(np.iinfo(bands.dtype).max + 1)
        return _levels(_physical(levels, stretch), low, high)[bands]
    image = np.empty(bands.shape, np.uint8)
    rows = max(1, _BLOCK_PIXELS // max(1, bands.shape[1] * bands.shape[2]))
    for start in range(0, bands.shape[0], rows):
        part = slice(start, start + rows)
        image[part] = _levels(_physical(bands[part], stretch), low, high)
    return image


def _levels(values: npt.NDArray[np.float64], low: float, high: float) -> npt.NDArray[np.uint8]:
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = (values - low) * (255.0 / (high - low))
        return np.rint(np.clip(np.nan_to_num(scaled, nan=0.0, posinf=255.0, neginf=0.0), 0.0, 255.0)).astype(np.uint8)
