"""Mixers of classes that no family names, read as a known family's because they are built like it.

A mixer is recognised by what can be seen of it: it calls the functions of its module that the family's mixers call, and
it has the parts that the family reads. Whether it also computes the same is for the self-check of a capture to say.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from types import CodeType, FunctionType
from typing import Any

from torch import nn

from mambascope.families import mambavision
from mambascope.families.attention import AttentionFamily
from mambascope.families.family import Family, MixerFamily, nothing_beside, own_input, unscaled
from mambascope.families.patch_points import PatchPoint

#: Names of the decay rates, which a state-space mixer has whatever else it is.
RATES = ("A_log", "A_logs")

Template = Family | AttentionFamily


def recognise(mixer: nn.Module, families: Iterable[MixerFamily]) -> MixerFamily | None:
    """Return the family of a mixer that no family names; None if it is built like none of them.

    Of several families that it is built like, the one with most parts is taken. A factor of the output, or parts in
    parallel, are not taken over: they belong to the block, which is another one here.

    Args:
        mixer: Any module.
        families: The known families; those that name `parts` can be recognised.
    """
    if isinstance(getattr(mixer, "A_log", None), nn.Parameter):
        vision = mambavision.recognise(mixer)
        if vision is not None:
            return replace(
                vision, found=_words((vision.scan_point,), mambavision.PARTS, mambavision.FAMILY.mixer_class)
            )
    fitting = [family for family in _templates(families) if _is_like(mixer, family)]
    if not fitting:
        return None
    family = max(fitting, key=lambda one: len(one.parts))
    points, _ = _calls(mixer, family)
    return replace(
        family,
        mixer_class=type(mixer).__name__,
        module=points[0].module,
        scale=unscaled,
        beside=nothing_beside,
        residual=own_input,
        renews=False,
        found=_words(points, family.parts, family.mixer_class),
    )


def shortfall(mixer: nn.Module, families: Iterable[MixerFamily]) -> str:
    """Return in words what a mixer lacks of those whose functions it calls; empty if it calls none of them."""
    found = []
    for family in _templates(families):
        points, absent = _calls(mixer, family)
        if points and (absent or _lacks(mixer, family)):
            called = " and ".join(point.function for point in points)
            lacks = [*(f"a call of {function}" for function in absent), *_lacks(mixer, family)]
            found.append((len(lacks), f"it calls {called}, but lacks {', '.join(lacks)} of {family.mixer_class}"))
    return min(found, key=lambda one: one[0], default=(0, ""))[1]  # of several as near, the first


def _templates(families: Iterable[MixerFamily]) -> Iterator[Template]:
    return (family for family in families if isinstance(family, Template) and family.parts and not family.found)


def _is_like(mixer: nn.Module, family: Template) -> bool:
    """Return whether a mixer calls all that a family's mixers call and has all their parts."""
    excluded = isinstance(family, AttentionFamily) and family.excludes(mixer)
    return not excluded and not _calls(mixer, family)[1] and not _lacks(mixer, family)


def _functions(family: Template) -> tuple[str, ...]:
    """Return the names of the functions that a family's mixers call, the one that mixes tokens first."""
    if isinstance(family, AttentionFamily):
        return (family.attention_function,)
    return (family.scan_function, family.conv_function)


def _calls(mixer: nn.Module, family: Template) -> tuple[list[PatchPoint], list[str]]:
    """Return which of a family's functions a mixer calls, and which it does not."""
    kind: Any = type(mixer)
    called = _globals(kind)
    points = [PatchPoint(called[name], name) for name in _functions(family) if name in called]
    return points, [name for name in _functions(family) if name not in called]


def _lacks(mixer: nn.Module, family: Template) -> list[str]:
    """Return which of a family's parts a mixer does not have."""
    return [part for part in family.parts if getattr(mixer, part, None) is None]


def _words(points: Iterable[PatchPoint], parts: Iterable[str], like: str) -> str:
    calls, last = " and ".join(point.function for point in points), list(parts)[-1]
    return f"it calls {calls} and has {', '.join(list(parts)[:-1])} and {last}, as {like} does"


@cache
def _globals(kind: type) -> dict[str, str]:
    """Return the functions of their own file that a class's methods name, each with the name of that file's module."""
    methods: dict[str, Any] = {}
    for base in kind.__mro__:
        if base is nn.Module:
            break
        for name, value in vars(base).items():
            methods.setdefault(name, value)
    found: dict[str, str] = {}
    for value in methods.values():
        method = inspect.unwrap(value) if isinstance(value, FunctionType) else None
        if isinstance(method, FunctionType):
            names = (name for name in _names(method.__code__) if callable(method.__globals__.get(name)))
            found = dict.fromkeys(names, method.__globals__["__name__"]) | found
    return found


def _names(code: CodeType) -> Iterator[str]:
    """Yield every name that a function's code looks up, also in the functions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
