"""What a page shows beside the result that was asked for: every position's sources, and methods that cost little."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence

from torch import nn

from mambascope.attribution import Attribution
from mambascope.explanation.defaults import DEFAULT_METHOD
from mambascope.families import kinds_of
from mambascope.methods.method import Method
from mambascope.methods.registry import METHODS

#: Seconds that all methods which nobody asked for may take together, by their estimate.
METHOD_SECONDS = 1.0

#: The same for the map of every position, and the longest text or largest picture that gets one unasked.
MAP_SECONDS = 5.0
EVERY_TARGET = 512

#: Forward passes that a map of all positions takes, and what each token adds.
MAP_PASSES, MAP_GROWTH = 3.0, 0.05

#: (methods, every position?) → their results, from one capture.
Explained = Callable[[Sequence[Method], bool], list[Attribution]]


def with_views(
    first: Attribution, others: Iterable[Method], explained: Explained, *, started: float
) -> list[Attribution]:
    """Return a result with the other views of a page behind it: the map of every position, then cheap methods.

    The time of all together stands in the first one's diagnostics as `seconds_in_all`.

    Args:
        first: The result that the page opens with; its capture tells what a forward pass costs.
        others: Methods that can read the model and what is asked; those that stand in a column of `compare` go first.
        explained: Makes the results.
        started: When the work began, as `time.perf_counter` had it.
    """
    tokens, one_pass = len(first.tokens), first.diagnostics["seconds_capture"]
    every = len(first.axes["target"]) > 1
    results = [first]
    map_seconds = (1 + MAP_PASSES + MAP_GROWTH * tokens) * one_pass
    if not every and tokens <= EVERY_TARGET and map_seconds <= MAP_SECONDS:
        results += explained([METHODS[DEFAULT_METHOD]], True)
    held = {one.method for one in results}
    whole_map = every or first.target.pooled > 1  # of many positions together, every row is drawn from
    offered = [one for one in sorted(others, key=lambda one: not one.column) if one.offered and one.name not in held]
    cheap = _affordable(offered, tokens, one_pass, whole_map)
    cheap = [one for one in cheap if not every or one.map is not None or one.whole_map is not None]
    for group in ([one for one in cheap if one.asks], [one for one in cheap if not one.asks]):
        results += explained(group, every) if group else []
    whole = {"seconds_in_all": time.perf_counter() - started}
    return [dataclasses.replace(first, diagnostics={**first.diagnostics, **whole}), *results[1:]]


def readable_methods(model: nn.Module) -> list[Method]:
    """Return the methods that can read every layer of a model."""
    kinds = kinds_of(model)
    return [one for one in METHODS.values() if one.reads(kinds)]


def _affordable(methods: Iterable[Method], tokens: int, one_pass: float, whole_map: bool) -> list[Method]:
    """Return methods whose estimates together stay below `METHOD_SECONDS`; what does not fit in is left out."""
    left = METHOD_SECONDS - 2 * one_pass  # a capture for those that explain a number, and one for the others
    chosen = []
    for one in methods:
        passes = one.passes + one.growth * tokens
        passes = max(passes, MAP_PASSES + MAP_GROWTH * tokens) if whole_map else passes
        if passes * one_pass <= left:
            left -= passes * one_pass
            chosen.append(one)
    return chosen
