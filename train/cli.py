"""Settings from a YAML file and the command line, checked whole: all faults are listed and nothing starts."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from babelrs.errors import BabelRSError, collected

Config = TypeVar("Config", bound=BaseModel)


def load_config(kind: type[Config], arguments: Sequence[str]) -> Config:
    """The settings that ``--config FILE.yaml`` and overrides such as ``--optimizer.lr 1e-4`` give.

    A list takes its values one after the other (``--data.sensors rgb ir``); a switch takes ``true`` or ``false``, or
    nothing for ``true`` and its name with ``no-`` for ``false``; ``none`` unsets what may be unset. ``--help`` prints
    every field with its unit and default.

    Raises:
        BabelRSError: The file cannot be read, or any setting is unknown or wrong; every fault is listed.
    """
    if "--help" in arguments or "-h" in arguments:
        _print_help(kind)
    overrides = _parse(arguments)
    settings = _read_yaml(overrides.pop("config")) if "config" in overrides else {}
    for name, values in overrides.items():
        path, value = name.replace("-", "_").split("."), values
        if not values and (positive := _negated(kind, path)):
            path, value = positive, ["false"]
        _put(settings, path, _value(_annotation(kind, path), value))
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        faults = [
            _fault(".".join(map(str, each["loc"])), each["msg"].removeprefix("Value error, "), each["input"])
            for each in error.errors()
        ]
        raise collected(
            "The settings are wrong; nothing was started", faults, "Correct them; --help lists all fields."
        ) from None


def _fault(setting: str, what: str, given: Any) -> str:
    """A line about one setting with its value; settings that contradict each other are named by what is wrong."""
    where = f"{setting}: " if setting else ""
    return f"{where}{what}" if isinstance(given, dict) else f"{where}{what} (got {_shown(given)})"


def start_logging(level: int = logging.INFO) -> None:
    """Send a command's log lines to standard error, each with its time."""
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", stream=sys.stderr)


def _print_help(kind: type[BaseModel]) -> None:
    import tyro

    tyro.cli(
        kind,
        args=["--help"],
        description=f"{kind.__doc__} Settings come from --config FILE.yaml; every option below overrides it.",
        config=(tyro.conf.EnumChoicesFromValues,),
    )


def _parse(arguments: Sequence[str]) -> dict[str, list[str]]:
    """The values of every ``--name value...``."""
    found: dict[str, list[str]] = {}
    name = ""
    for argument in arguments:
        if argument.startswith("--"):
            name, _, value = argument[2:].partition("=")
            found[name] = [value] if value else []
        elif not name:
            raise BabelRSError(f"Unexpected argument {argument!r}.", "Give options as --name value.")
        else:
            found[name].append(argument)
    return found


def _annotation(kind: type[BaseModel], path: Sequence[str]) -> Any:
    """The type of the setting that ``path`` names; ``None`` where there is no such setting."""
    field = kind.model_fields.get(path[0])
    annotation = field.annotation if field else None
    if len(path) == 1 or not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return annotation if len(path) == 1 else None
    return _annotation(annotation, path[1:])


def _negated(kind: type[BaseModel], path: Sequence[str]) -> list[str] | None:
    """The switch that ``--section.no-switch`` turns off; ``None`` where there is none."""
    if not path[-1].startswith("no_"):
        return None
    positive = [*path[:-1], path[-1].removeprefix("no_")]
    return positive if _annotation(kind, positive) is bool else None


def _value(annotation: Any, values: list[str]) -> Any:
    """What a setting of this type is given; too many or too few values stay a list, which validation refuses."""
    if annotation is bool and not values:
        return True
    choices = (annotation, *get_args(annotation)) if NoneType in get_args(annotation) else (annotation,)
    if NoneType in choices and [value.lower() for value in values] == ["none"]:
        return None
    return values if len(values) != 1 or any(get_origin(choice) is tuple for choice in choices) else values[0]


def _read_yaml(paths: Sequence[str]) -> dict[str, Any]:
    import yaml

    if len(paths) != 1:
        raise BabelRSError(f"--config has {len(paths)} values.", "Give one YAML file.")
    path = Path(paths[0])
    try:
        loaded = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BabelRSError(f"Cannot read the settings file {path}: {error}.", "Give a readable YAML file.") from None
    if not isinstance(loaded or {}, dict):
        raise BabelRSError(f"{path} holds a {type(loaded).__name__}.", "A settings file is a mapping of sections.")
    return loaded or {}


def _put(settings: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for key in path[:-1]:
        inner = settings.setdefault(key, {})
        if not isinstance(inner, dict):
            raise BabelRSError(
                f"--{'.'.join(path)}: {key} holds {inner!r}, not a section.", "Correct the settings file."
            )
        settings = inner
    settings[path[-1]] = value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
