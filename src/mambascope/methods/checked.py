"""Arguments that mean the same in every public function of methods, checked before anything runs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from mambascope.arguments import callback, count, flag, real_number
from mambascope.errors import InputError
from mambascope.numbering import shown, whole_number
from mambascope.trace import check_trace, check_whole
from mambascope.trace.rules import PropagationRules
from mambascope.trace.running import own_precision

P = ParamSpec("P")
R = TypeVar("R")


def _rules(rules: Any, name: str) -> None:
    if not isinstance(rules, PropagationRules):
        raise InputError(f"{name} must be propagation rules, such as methods.LRP, found {shown(rules)}")


def _seed(seed: Any, name: str) -> None:
    number = whole_number(seed, name)
    if not -(2**63) <= number < 2**64:
        raise InputError(f"{name} must be a whole number of 64 bits, found {shown(seed)}")


#: What is checked of each argument, by its name; a default is right as it is.
CHECKS: dict[str, Callable[[Any, str], object]] = {
    "trace": lambda trace, _: check_trace(trace),
    "other": lambda trace, _: check_trace(trace),
    "batch": count,
    "steps": count,
    "samples": count,
    "seed": _seed,
    "noise": real_number,
    "discard": real_number,
    "normalise": flag,
    "absolute": flag,
    "pixels": flag,
    "rules": _rules,
    "progress": callback,
}


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Return the function with those of its arguments checked that `CHECKS` names; it raises InputError for them.

    A function of no single layer goes through the whole model, so it raises UnsupportedModelError for a trace that
    lacks mixers. It computes in the precision of the model whatever mode the caller set, see `own_precision`.
    """
    signature = inspect.signature(function)
    goes_through = "layer" not in signature.parameters

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            if name in CHECKS and value is not signature.parameters[name].default:
                CHECKS[name](value, name)
            if name in ("trace", "other") and goes_through:
                check_whole(value, function.__name__.replace("_", "-"))
        with own_precision():
            return function(*args, **kwargs)

    return called
