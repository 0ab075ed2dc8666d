"""Which variant of a method is judged: `rollout` is the paper's formulas, `rollout:reference-code` its code."""

from __future__ import annotations

from mambascope.errors import InputError
from mambascope.methods.method import Method
from mambascope.methods.reference_code import Variant, check_variant
from mambascope.methods.registry import METHODS, find_method


def find_form(name: str) -> tuple[Method, Variant]:
    """Return the method that a name in an evaluation means, and its form.

    Raises:
        InputError: if there is no such method, or it has no such form.
    """
    plain, colon, form = name.partition(":")
    method = find_method(plain)
    if not colon:
        return method, "published"
    check_variant(form)
    if form == "reference-code" and not method.reference_code:
        able = ", ".join(one.name for one in METHODS.values() if one.reference_code)
        raise InputError(f"{plain} has one form; ':reference-code' is for {able}")
    return method, "reference-code" if form == "reference-code" else "published"
