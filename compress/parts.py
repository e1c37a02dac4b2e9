"""The parts of a detector that quantization is decided for: stem stages, transformer blocks, pyramid, heads."""

from __future__ import annotations

import re
from collections.abc import Iterable

_PATTERNS: tuple[tuple[str, str], ...] = (
    (r"backbone\.stem\.stages\.(\d+)\.", "stem {}"),
    (r"backbone\.(?:vit\.)?(?:blocks|layers|encoder\.layers)\.(\d+)\.", "block {}"),
    (r"backbone\.(?:project|vit\.patch_embed|vit\.embeddings)\b", "patches"),
    (r"backbone\.(?:spatial_prior|stem)\b", "prior"),
    (r"backbone\.", "backbone"),
    (r"aggregate\b", "aggregate"),
    (r"pyramid\.", "pyramid"),
    (r"heads\.(\w+)\.", "head {}"),
)
"""Names of modules, and the part that each belongs to; the first that fits counts."""


def part_of(module: str) -> str:
    """The part that the module of this dotted name in :class:`train.models.detector.Detector` belongs to.

    Stages and blocks are counted from 1, as taps are.

    Raises:
        ValueError: The name belongs to no part.
    """
    for pattern, name in _PATTERNS:
        if found := re.match(pattern, module):
            return name.format(*(str(int(group) + 1) if group.isdigit() else group for group in found.groups()))
    raise ValueError(f"module {module!r} belongs to no part of the detector")


def parts_of(modules: Iterable[str]) -> tuple[str, ...]:
    """The parts of these modules, each once, in the order in which they come."""
    return tuple(dict.fromkeys(map(part_of, modules)))


def is_head(part: str) -> bool:
    """Whether a part is a head, which starts out in float16."""
    return part.startswith("head ")


def serves(part: str, sensor: str) -> bool:
    """Whether a sensor's images pass a part: all but the other sensors' heads."""
    return not is_head(part) or part == f"head {sensor}"
