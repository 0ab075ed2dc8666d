"""The one place where methods are run: for rows, one per readout of a text, or for the maps of every position."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mambascope.attribution import WHOLE_MODEL
from mambascope.brief import brief
from mambascope.memory import require_room
from mambascope.methods.ablation import batches, copies
from mambascope.methods.latim import Precision
from mambascope.methods.method import AnyReadout, Method, MethodResult
from mambascope.methods.reference_code import Variant
from mambascope.readouts import OneEach, Readout
from mambascope.trace import Trace

#: From one position in this many on, a map of all positions costs less than their rows one by one.
MANY = 8

#: The precision of scores, for estimates of their size.
SCORES = torch.empty(0, dtype=torch.float32)

Step = Callable[[], None]


@dataclass(frozen=True, eq=False)
class Rows:
    """A method's scores for several readouts of one text, or for every position.

    Attributes:
        scores: A row per readout (or position), in each layer or for the whole model.
        layers: The layers' numbers, or `WHOLE_MODEL` alone.
        over_layers: Whether the model's rows are the mean of the layers' or their sum.
        diagnostics: The evidence for each readout's row, from methods that have evidence of their own; one for the maps
            of all positions.
        pixels: Scores of a picture's pixels, where there is one readout and the method goes down to pixels.
    """

    scores: Float[Tensor, "layer T L"]
    layers: tuple[int | str, ...]
    over_layers: Literal["mean", "sum"]
    diagnostics: tuple[Mapping[str, Any], ...] = ()
    pixels: Float[Tensor, "H W"] | None = None

    __repr__ = brief

    @property
    def whole(self) -> Float[Tensor, "T L"]:
        """The model's rows."""
        return self.scores.sum(dim=0) if self.over_layers == "sum" else self.scores.mean(dim=0)


def score(
    trace: Trace,
    method: Method,
    readouts: Sequence[AnyReadout],
    *,
    layers: Sequence[int] | None = None,
    variant: Variant = "published",
    step: Step = lambda: None,
) -> Rows:
    """Return a method's rows for readouts of one text; a readout of several positions has the mean of their rows.

    Args:
        trace: A capture of one text.
        method: The method.
        readouts: What is explained.
        layers: The layers to score, for a method that scores layers; by default all of them.
        variant: The paper's formulas, or what its code does.
        step: Called after each layer, or once if the method explains the whole model.

    Raises:
        MapTooLargeError: if the rows would not fit in memory.
    """
    numbers = range(len(trace.layers)) if layers is None else layers
    held = len(numbers) if method.scope == "layer" or method.split else 1
    require_room(
        (held, len(readouts), trace.shape[1]),
        SCORES,
        "explain fewer positions, or shorten the text",
    )
    if method.scope == "layer":
        scores = []
        for number in numbers:
            scores.append(_layer_rows(trace, method, number, readouts, variant).to(trace.device))
            step()
        return Rows(torch.stack(scores), tuple(numbers), "mean")
    rows = _model_rows(trace, method, readouts, variant)
    step()
    return rows


def score_every(
    trace: Trace,
    method: Method,
    *,
    layers: Sequence[int] | None = None,
    precision: Precision = "own",
    step: Step = lambda: None,
) -> Rows:
    """Return a method's rows for every position: its maps; in another precision, with how far they are off.

    Raises:
        MapTooLargeError: if they would not fit in memory.
    """
    numbers = range(len(trace.layers)) if layers is None else layers
    length = trace.shape[1]
    require_room(
        (len(numbers), length, length),
        SCORES,
        "explain one position, or shorten the text",
        copies=2,
    )
    if method.scope == "model":
        assert method.whole_map is not None
        whole = method.whole_map(trace)
        step()
        return Rows(whole, (WHOLE_MODEL,), "sum")
    assert method.map is not None
    maps, errors = [], []
    for number in numbers:
        found = method.map(trace, number, **in_precision(precision))
        if method.map_error is not None and precision != "own":
            errors.append(float(method.map_error(trace, found, number)))
        maps.append(found[0].to(trace.device))
        step()
    evidence = ({"products": precision, "products_error": max(errors)},) if errors else ()
    return Rows(torch.stack(maps), tuple(numbers), "mean", evidence)


def in_precision(precision: Precision) -> dict[str, str]:
    """Return the option that a method's map takes for products in this precision; none for its own."""
    return {} if precision == "own" else {"precision": precision}


def _layer_rows(
    trace: Trace, method: Method, layer: int, readouts: Sequence[AnyReadout], variant: Variant
) -> Float[Tensor, "T L"]:
    if variant == "published" and (method.row is None or _many(trace, readouts)):
        assert method.map is not None
        return _at(method.map(trace, layer)[0], readouts)
    assert method.row is not None
    options = {} if variant == "published" else {"variant": variant}
    rows = {
        place: method.row(trace, layer, place, **options)[0]
        for place in dict.fromkeys(place for readout in readouts for place in readout.positions)
    }
    return torch.stack([torch.stack([rows[place] for place in one.positions]).mean(dim=0) for one in readouts])


def _model_rows(trace: Trace, method: Method, readouts: Sequence[AnyReadout], variant: Variant) -> Rows:
    many = len(readouts) > max(1, trace.shape[1] // MANY)
    if variant == "published" and method.whole_map is not None and many:
        return Rows(_at(method.whole_map(trace)[0], readouts)[None], (WHOLE_MODEL,), "sum")
    numbers = [readout for readout in readouts if isinstance(readout, Readout)]
    if len(readouts) == len(numbers) > 1 and method.score_many is not None:
        found = method.score_many(trace, numbers)
    elif len(readouts) == len(numbers) > 1 and method.score_copies is not None:
        found = _side_by_side(trace, method.score_copies, numbers)
    else:
        assert method.score is not None
        found = [method.score(trace, readout, variant) for readout in readouts]
    scores = torch.stack([one.scores for one in found], dim=1)
    pixels = found[0].pixels if len(found) == 1 else None
    return Rows(scores, _axis(scores), found[0].over_layers, tuple(one.diagnostics for one in found), pixels)


def _side_by_side(
    trace: Trace, results: Callable[[Trace, OneEach], list[MethodResult]], readouts: Sequence[Readout]
) -> list[MethodResult]:
    """Return the results of a method that explains a batch, run on copies of one text, each with its own readout."""
    found = []
    for start, stop in batches(len(readouts), trace.shape[1], None):
        run = dataclasses.replace(trace, inputs=copies(dict(trace.inputs), stop - start))
        found += results(run, OneEach(tuple(readouts[start:stop])))
    return found


def _axis(scores: Float[Tensor, "layer T L"]) -> tuple[int | str, ...]:
    return (WHOLE_MODEL,) if len(scores) == 1 else tuple(range(len(scores)))


def _many(trace: Trace, readouts: Sequence[AnyReadout]) -> bool:
    """Return whether so many rows are wanted that a map costs no more."""
    return sum(len(readout.positions) for readout in readouts) > trace.shape[1] // MANY


def _at(scores: Float[Tensor, "L L"], readouts: Sequence[AnyReadout]) -> Float[Tensor, "T L"]:
    """Return each readout's row of a map."""
    return torch.stack([scores[list(readout.positions)].mean(dim=0) for readout in readouts])
