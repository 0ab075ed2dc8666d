"""Read a JSON file that someone else wrote, or say in one sentence why it cannot be used."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from mambascope.errors import CheckpointError
from mambascope.numbering import shown

#: How many objects or lists may be inside each other.
DEEPEST = 32

#: Size of the largest file that is read, in bytes; the largest public tokenizers have a tenth of it.
LARGEST = 300_000_000

Schema = TypeVar("Schema", bound=BaseModel)


def one_line(error: BaseException) -> str:
    """Return the message of another library's error on one line, for use in one of our sentences."""
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in str(error)).split()).rstrip(".")
    return (text if len(text) <= 400 else text[:399] + "…") or type(error).__name__


def is_file(path: Path) -> bool:
    """Return whether this is a regular file; False also for names that no file can have."""
    return os.path.isfile(path)


def is_folder(path: Path) -> bool:
    """Return whether this is a folder; False also for names that no folder can have."""
    return os.path.isdir(path)


def read_json(path: Path, schema: type[Schema] | None = None) -> dict[str, Any]:
    """Return the object in a JSON file.

    Args:
        path: The file.
        schema: What the object must be like; by default anything.

    Raises:
        CheckpointError: if the file cannot be read, is not valid JSON, names a setting twice, is not an object, has too
            many objects inside each other, or is not as the schema says.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise CheckpointError(f"{path} has more than {LARGEST:,} bytes, too many for a file of settings")
        found = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except RecursionError as error:
        raise CheckpointError(_too_deep(path)) from error
    except ValueError as error:
        raise CheckpointError(
            f"{path} is not valid JSON ({one_line(error)}); it may be half-written: copy or download it again"
        ) from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds a JSON {type(found).__name__} where an object of settings was expected")
    _check_depth(found, path)
    return found if schema is None else checked(found, schema, str(path))


def checked(found: dict[str, Any], schema: type[Schema], name: str) -> dict[str, Any]:
    """Return settings as a schema converts them; raises CheckpointError, which names the first wrong one, otherwise."""
    try:
        return schema.model_validate(found).model_dump(exclude_unset=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "one of its settings"
        reason = first["msg"].removeprefix("Value error, ")
        told = reason if first["type"] == "value_error" else f"{place}: {reason}, found {shown(first['input'])}"
        raise CheckpointError(f"{name} cannot be used: {one_line(ValueError(told))}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{shown(twice)} is given twice")
    return found


def _check_depth(found: Any, path: Path) -> None:
    level = [found]
    for _ in range(DEEPEST):
        inner = (value.values() if isinstance(value, dict) else value for value in level)
        level = [value for values in inner for value in values if isinstance(value, (dict, list))]
        if not level:
            return
    raise CheckpointError(_too_deep(path))


def _too_deep(path: Path) -> str:
    return f"{path} has more than {DEEPEST} objects or lists inside each other, which no file of settings has"
