"""Read a JSON file that someone else wrote, or say in one sentence why it cannot be used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from mambascope import schemas
from mambascope.errors import CheckpointError
from mambascope.schemas import DamagedError

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
        found = schemas.read_json(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except DamagedError as error:
        raise CheckpointError(
            f"{path} cannot be used: {one_line(error)}; it may be half-written: copy or download it again"
        ) from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds a JSON {type(found).__name__} where an object of settings was expected")
    return found if schema is None else checked(found, schema, str(path))


def checked(found: dict[str, Any], schema: type[Schema], name: str) -> dict[str, Any]:
    """Return settings as a schema converts them; raises CheckpointError, which names the first wrong one, otherwise."""
    try:
        return schemas.checked(schema, found).model_dump(exclude_unset=True)
    except DamagedError as error:
        raise CheckpointError(f"{name} cannot be used: {one_line(error)}") from error
