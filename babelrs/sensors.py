"""The three sensors that share the backbone."""

from __future__ import annotations

from enum import Enum

from babelrs.errors import BabelRSError


class Sensor(str, Enum):
    """A sensor modality; spelled ``rgb``, ``sar`` and ``ir`` on command lines and in files."""

    RGB = "rgb"
    SAR = "sar"
    IR = "ir"

    def __str__(self) -> str:
        return self.value

    @property
    def num_channels(self) -> int:
        """Bands of the uint8 image the model takes: 3 for RGB, 1 for SAR and infrared."""
        return 3 if self is Sensor.RGB else 1

    @classmethod
    def parse(cls, value: Sensor | str) -> Sensor:
        """The sensor that ``value`` names, in any letter case.

        Raises:
            BabelRSError: ``value`` names no sensor.
        """
        try:
            return cls(str(value).strip().lower())
        except ValueError:
            names = ", ".join(member.value for member in cls)
            raise BabelRSError(f"Unknown sensor {str(value)!r}.", f"Use one of: {names}.") from None
