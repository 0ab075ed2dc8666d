"""A one-line repr for objects that hold tensors: it shows shapes instead of values."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from types import BuiltinFunctionType, FunctionType
from typing import Any

#: Longest line, in characters; a terminal of usual width shows it on two lines at most.
LONGEST = 160
LONGEST_TEXT, FEW = 40, 4


def brief(thing: Any) -> str:
    """Return a dataclass on one line; classes set `__repr__ = brief`.

    Tensors are shown by their shapes (those with one element by its value), plain values as they are, other objects by
    their class; fields that are None, empty or functions are left out.
    """
    told = (_field(one.name, getattr(thing, one.name)) for one in dataclasses.fields(thing) if one.repr)
    return one_line(type(thing).__name__, [words for words in told if words])


def one_line(name: str, parts: Collection[str]) -> str:
    """Return `name(part, part)`, shortened to `LONGEST` characters, without line breaks that names may contain."""
    inside = " ".join(", ".join(parts).split())
    room = LONGEST - len(name) - 2
    return f"{name}({inside if len(inside) <= room else inside[: room - 1] + '…'})"


def shape_of(value: Any) -> str:
    """Return a tensor's shape as `2 × 12 × 64`."""
    return " × ".join(map(str, value.shape))


def _field(name: str, value: Any) -> str:
    """Return one attribute as text; empty if there is nothing to show."""
    if value is None or (isinstance(value, (Collection, str)) and not _is_tensor(value) and len(value) == 0):
        return ""
    if _is_tensor(value):
        if value.ndim == 0 or tuple(value.shape) == (1,):
            return f"{name}={value.item():.4g}"
        return f"{name} {shape_of(value)}"
    if isinstance(value, float):
        return f"{name}={value:.4g}"
    if isinstance(value, (bool, int, str)):
        return f"{name}={_cut(repr(value))}"
    if isinstance(value, (tuple, list, set, frozenset, Mapping)) and not dataclasses.is_dataclass(value):
        return f"{name}={_several(value)}"
    return "" if isinstance(value, (FunctionType, BuiltinFunctionType)) else f"{name}={type(value).__name__}"


def _several(values: Collection[Any]) -> str:
    """Return a few plain values as they are; if there are many, or other objects, how many there are."""
    if isinstance(values, Mapping):
        names = ", ".join(map(str, values))
        return f"{{{names}}}" if len(names) <= LONGEST_TEXT else f"{{{len(values)} entries}}"
    first = next(iter(values))
    if all(isinstance(value, (bool, int, float, str)) for value in values):
        return _cut(str(values)) if len(values) <= FEW else f"{len(values)} {type(first).__name__}s"
    return f"{len(values)} × {type(first).__name__}"


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "ndim") and hasattr(value, "item")


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"
