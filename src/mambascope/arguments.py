"""Arguments as users pass them: read if they have one meaning, refused in one sentence if not."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import nn

from mambascope.errors import InputError
from mambascope.numbering import plain_value, shown, whole_number


def flag(value: Any, name: str) -> bool:
    """Return True or False; raises InputError for anything else, which Python would take for one of them."""
    if not isinstance(value, bool):
        raise InputError(f"{name} must be True or False, found {shown(value)}")
    return value


def count(value: Any, name: str) -> int:
    """Return a whole number of at least 1; raises InputError for anything else."""
    number = whole_number(value, name)
    if number < 1:
        raise InputError(f"{name} must be 1 or more, found {number}")
    return number


def real_number(value: Any, name: str) -> float:
    """Return a finite number; raises InputError for anything else, True and False among them."""
    plain = plain_value(value)
    if isinstance(plain, bool) or not isinstance(plain, (int, float)) or not math.isfinite(plain):
        raise InputError(f"{name} must be a finite number, found {shown(value)}")
    return float(plain)


def choice(value: Any, options: Iterable[Any], name: str) -> Any:
    """Return the value if it is one of the options; else raises InputError, which lists them."""
    listed = tuple(options)
    if not any(type(value) is type(option) and value == option for option in listed):
        raise InputError(f"unknown {name} {shown(value)}; choose one of {', '.join(map(str, listed))}")
    return value


def callback(value: Any, name: str) -> None:
    """Raise InputError unless this is a function or None."""
    if value is not None and (not callable(value) or isinstance(value, (type, nn.Module))):
        raise InputError(f"{name} must be a function, such as lambda done, total: …, found {shown(value)}")
