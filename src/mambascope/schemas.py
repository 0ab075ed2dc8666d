"""Checking what a file claims to hold: JSON text against a schema, and what is wrong with it in words."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

#: How deep lists and objects may lie in each other; what we write is far shallower.
DEEPEST = 50

#: The longest value shown in a message, in characters.
SHOWN = 40


Schema = TypeVar("Schema", bound=BaseModel)


class DamagedError(ValueError):
    """A text is not what its file should hold; the message says where and why."""


def read_json(text: str | bytes) -> Any:
    """Return the value that a JSON text (in UTF-8, if it is bytes) stands for.

    Raises:
        DamagedError: if it is not JSON, or lists and objects lie too deep in each other.
    """
    try:
        value = json.loads(text.decode("utf-8") if isinstance(text, bytes) else text)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"it is not JSON: {error}") from error
    if not _shallow(value, DEEPEST):
        raise DamagedError(f"its lists and objects lie more than {DEEPEST} deep in each other")
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
        found = repr(first["input"])
        found = found if len(found) <= SHOWN else found[: SHOWN - 1] + "…"
        said = first["msg"].removeprefix("Value error, ")
        said = said[:1].lower() + said[1:]
        raise DamagedError(f"{where}: {said}, found {found}" if where else said) from error


def _shallow(value: Any, levels: int) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels >= 0 and all(_shallow(one, levels - 1) for one in inside)
