"""Passes in which calls of the functions that mix tokens are answered: of scans, delta rules, convolutions, attention.

A mixer that calls no such function, calls it more or less often than its family says, or may look ahead is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import torch
from torch import nn

from mambascope.families import AttentionFamily, Family, MixerFamily, find_mixers
from mambascope.families.family import Reading
from mambascope.families.patch_points import PatchPoint, intercepting
from mambascope.models.convolutions import causal_convolution
from mambascope.trace.scanning import intact, scan_points

#: Readings of a scan that goes through a text from its start to its end.
FORWARDS = (Reading("forwards", torch.arange),)

#: What is done with one call: given its function, the mixer that calls, the original and its arguments.
Answer = Callable[[PatchPoint, str, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


class Apart(Exception):
    """The calls of a pass are not those that the families describe."""


@contextmanager
def mixing(own: nn.Module, answer: Answer, only: Collection[str] | None = None) -> Iterator[None]:
    """Have every call of a function that mixes tokens answered inside the block, without gradients.

    Args:
        own: A private copy of a model, with attention in its eager form.
        answer: What is done with a call.
        only: Names of the mixers whose calls are answered; None for all. Others run as they are.

    Raises:
        Apart: if such a mixer calls no such function, calls it more or less often than its family says, or looks ahead.
    """
    mixers = find_mixers(own)
    calls = _Calls(answer, None if only is None else scan_points(family for _, _, family in mixers))
    points = set(calls.others or ())
    with ExitStack() as stack:
        for name, mixer, family in mixers:
            if only is None or name in only:
                points |= _points(family)
                stack.callback(mixer.register_forward_pre_hook(calls.entering(name)).remove)
                stack.callback(mixer.register_forward_hook(calls.leaving(family)).remove)
        stack.enter_context(torch.no_grad())
        stack.enter_context(intercepting(calls, points))
        yield


@dataclass
class _Calls:
    """The interceptor of such a pass: it knows which mixer is running.

    Attributes:
        answer: What is done with a call.
        others: The families of the scans that other mixers may call, which then run as they are; None if there are no
            others.
        mixer: The name of the mixer.
        made: The functions that it has called so far.
    """

    answer: Answer
    others: Mapping[PatchPoint, Family] | None = None
    mixer: str = ""
    made: list[PatchPoint] = field(default_factory=list)

    def called(
        self, point: PatchPoint, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Return the result of a call."""
        if self.others is not None and not self.mixer:
            return intact(self.others, point, original, args, kwargs)
        self.made.append(point)
        return self.answer(point, self.mixer, original, args, kwargs)

    def entering(self, name: str) -> Callable[..., None]:
        """Return a hook that notes which mixer begins."""

        def enter(*_: Any) -> None:
            self.mixer = name
            self.made.clear()

        return enter

    def leaving(self, family: MixerFamily) -> Callable[..., None]:
        """Return a hook that counts the calls of a mixer that has run."""

        def leave(mixer: nn.Module, *_: Any) -> None:
            expected = family.heads(mixer) if isinstance(family, Family) else 1
            made = self.made.count(_mixing_point(family))
            if made != expected:
                raise Apart(f"{self.mixer} called its function {made} times")
            self.mixer = ""

        return leave


def goes_forwards(family: MixerFamily) -> TypeGuard[Family]:
    """Return whether mixers of a family go through a text from its start to its end, so that none looks ahead."""
    return isinstance(family, Family) and family.readings == FORWARDS and family.convolve is causal_convolution


def attention_points(mixers: Iterable[tuple[str, nn.Module, MixerFamily]]) -> set[PatchPoint]:
    """Return the functions that the softmax attention layers among some mixers call, those that exist."""
    points = {family.attention_point for _, _, family in mixers if isinstance(family, AttentionFamily)}
    return {point for point in points if point.exists()}


def _points(family: MixerFamily) -> set[PatchPoint]:
    """Return the functions that mixers of a family call: the one in which they mix tokens, and their convolution."""
    point = _mixing_point(family)
    return {point, family.conv_point} if isinstance(family, Family) and family.conv_point.exists() else {point}


def _mixing_point(family: MixerFamily) -> PatchPoint:
    """Return the function in which mixers of a family mix tokens.

    Raises:
        Apart: if there is none, or it may look ahead.
    """
    if isinstance(family, AttentionFamily) and family.attention_point.exists():
        return family.attention_point
    if goes_forwards(family):
        return family.scan_point
    raise Apart(f"{family.name} does not mix tokens in a function, forwards")
