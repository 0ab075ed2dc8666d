"""Renamed options: an old name is refused with a sentence that gives the new one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from mambascope.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")


def formerly(**renamed: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that refuses the former names of a function's options: `@formerly(compat="variant")`.

    The decorated function raises InputError if it is called with one of them.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            for old, new in renamed.items():
                if old in kwargs:
                    raise InputError(f"{old}=… is now called {new}=…")
            return function(*args, **kwargs)

        return called

    return decorate
