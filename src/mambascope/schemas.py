"""Checking what a file claims to hold: JSON text against a schema, and what is wrong with it in words."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from mambascope.numbering import shown

#: How many lists and objects may be inside each other; no file that we read needs a tenth of it.
DEEPEST = 32

TOO_DEEP = f"it has more than {DEEPEST} lists or objects inside each other"

Schema = TypeVar("Schema", bound=BaseModel)


class DamagedError(ValueError):
    """A text is not what its file should hold; the message says where and why."""


def read_json(text: str | bytes) -> Any:
    """Return the value that a JSON text (in UTF-8, if it is bytes) stands for.

    Raises:
        DamagedError: if it is not JSON, an object gives a name twice, or too many are inside each other.
    """
    try:
        value = json.loads(text.decode("utf-8") if isinstance(text, bytes) else text, object_pairs_hook=_once)
    except RecursionError as error:
        raise DamagedError(TOO_DEEP) from error
    except ValueError as error:
        raise DamagedError(f"it is not valid JSON ({error})") from error
    if not _shallow(value, DEEPEST):
        raise DamagedError(TOO_DEEP)
    return value


def checked(schema: type[Schema], value: Any) -> Schema:
    """Return a value of JSON as the schema has it: numbers and texts converted where nothing is lost.

    Raises:
        DamagedError: naming the first entry that does not fit, what is wrong with it, and what was found.
    """
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        said = first["msg"].removeprefix("Value error, ")
        if first["type"] == "value_error":  # a sentence of ours, which names what it is about
            raise DamagedError(said) from error
        said = f"{said[:1].lower()}{said[1:]}, found {shown(first['input'])}"
        raise DamagedError(f"{where}: {said}" if where else said) from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{shown(twice)} is given twice")
    return found


def _shallow(value: Any, levels: int) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels >= 0 and all(_shallow(one, levels - 1) for one in inside)
