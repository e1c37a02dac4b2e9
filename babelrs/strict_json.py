"""JSON without what makes two readers disagree or one of them fail: doubles, NaN, huge numbers, depth, half characters.

Python's own reader takes all of these, and what they do shows up later: in a sum that is NaN, a float that overflows,
an output that cannot be encoded, or a recursion that ends the program.
"""

from __future__ import annotations

import json
import math
from typing import Any

MOST_DEPTH = 32
"""Objects and lists in each other; a manifest has six."""
_LEAST, _MOST = -(1 << 63), (1 << 63) - 1


def parse_json(text: str) -> Any:
    """Parse JSON text.

    Raises:
        ValueError: It is no JSON, names a key of an object twice, nests deeper than ``MOST_DEPTH``, or holds a number
            that is not finite, an integer beyond 64 bits, or half of a surrogate pair.
    """
    try:
        values = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=_finite,
        )
    except RecursionError:
        raise ValueError(f"nested deeper than {MOST_DEPTH}") from None
    _check(values)
    return values


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the key {name[:80]!a} stands twice in an object")
        found[name] = value
    return found


def _integer(text: str) -> int:
    value = int(text) if len(text) <= 20 else _MOST + 1
    if not _LEAST <= value <= _MOST:
        raise ValueError(f"the integer {text[:24]}... has more than 64 bits")
    return value


def _finite(text: str) -> float:
    value = float(text) if len(text) <= 400 else math.inf  # as many digits as the least float64 has; more take long
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:24]} is not finite")
    return value


def _check(values: Any) -> None:
    """Refuse depth and half characters, level by level: a walk that cannot itself recurse too deep."""
    level = [values]
    for _ in range(MOST_DEPTH + 1):
        inner: list[Any] = []
        for each in level:
            if isinstance(each, str):
                _encodable(each)
            elif isinstance(each, dict):
                inner += [*each, *each.values()]
            elif isinstance(each, list):
                inner += each
        if not inner:
            return
        level = inner
    raise ValueError(f"nested deeper than {MOST_DEPTH}")


def _encodable(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"a text holds half of a surrogate pair, {error.object[error.start]!a}") from None
