"""`mmkit.toml`: defaults for options, found from the working directory upwards.

A table named after a command sets that command's options; a key above the tables sets the option of every command
that has it. Keys are the long options' names. What the command line says wins. An option that may be repeated takes a
list, or a single value as it stands.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmkit.errors import UsageError

FILE_NAME = "mmkit.toml"
# Options whose relative value may mean a place beside the file that names it.
_PLACES = frozenset(
    {"model", "adapter", "image_root", "cache", "captions", "answers", "few_shot", "weights", "templates"}
    | {"groups", "route", "heldout", "text_model", "image_model", "judge_model", "statements"}
)


def find(start: Path) -> Path | None:
    """The nearest mmkit.toml at or above `start`."""
    return next((d / FILE_NAME for d in (start, *start.parents) if (d / FILE_NAME).is_file()), None)


@dataclass(frozen=True, slots=True)
class Option:
    """Where an option's value goes, and whether it may be given several times."""

    parameter: str
    repeatable: bool = False


def load(path: Path, options: Mapping[str, Mapping[str, Option]]) -> dict[str, dict[str, Any]]:
    """Defaults by command and parameter. `options` are each command's, by name.

    Raises UsageError, naming file and key, for what is not TOML or names no command or option.
    """
    import tomllib

    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {error}") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    defaults: dict[str, dict[str, Any]] = {command: {} for command in options}
    for key, value in content.items():
        if isinstance(value, dict):
            continue
        having = [command for command, names in options.items() if _name(key) in names]
        if not having:
            raise UsageError(f"{path}: no command has an option {key!r}")
        for command in having:
            option = options[command][_name(key)]
            defaults[command][option.parameter] = _default(_name(key), option, value, path.parent)
    for command, table in content.items():
        if not isinstance(table, dict):
            continue
        if command not in options:
            raise UsageError(f"{path}: [{command}] is no command of mmkit")
        for key, value in table.items():
            if _name(key) not in options[command]:
                raise UsageError(f"{path}: mmkit {command} has no option {key!r}")
            option = options[command][_name(key)]
            defaults[command][option.parameter] = _default(_name(key), option, value, path.parent)
    return defaults


def _name(key: str) -> str:
    return key.replace("-", "_")


def _default(name: str, option: Option, value: Any, directory: Path) -> Any:
    if not option.repeatable:
        return _placed(name, value, directory)
    return [_placed(name, each, directory) for each in (value if isinstance(value, list) else [value])]


def _placed(name: str, value: Any, directory: Path) -> Any:
    if name in _PLACES and isinstance(value, str):
        beside = directory / value
        if not Path(value).is_absolute() and (beside.exists() or value.startswith(".")):
            # Seen from here, and not from the root of the disk: the model's name goes into lineage, and what a recipe
            # writes should not depend on where it was unpacked.
            return os.path.relpath(beside)
    return value
