"""Which form of a method is judged: `rollout` as its paper's formulas say, `rollout:released` as its code does."""

from __future__ import annotations

from mambascope.errors import InputError
from mambascope.methods.method import Method
from mambascope.methods.registry import METHODS, find_method
from mambascope.methods.released import Compat, check_compat


def find_form(name: str) -> tuple[Method, Compat]:
    """Return the method that a name in an evaluation means, and its form.

    Raises:
        InputError: if there is no such method, or it has no such form.
    """
    plain, colon, form = name.partition(":")
    method = find_method(plain)
    if not colon:
        return method, "published"
    check_compat(form)
    if form == "released" and not method.released:
        able = ", ".join(one.name for one in METHODS.values() if one.released)
        raise InputError(f"{plain} has one form; ':released' is for {able}")
    return method, "released" if form == "released" else "published"
