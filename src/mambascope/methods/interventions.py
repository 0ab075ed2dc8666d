"""Knockout (Mamba Knockout, arXiv 2505.24244): what changes when the mixers pass nothing from a source to a target.

Ground truth by intervention, to judge faster methods by, beside value zeroing (`mambascope.methods.value_zeroing`) and
occlusion (`mambascope.methods.occlusion`). Each runs the stock model on copies of one text, each of which does without
one source; `mambascope.trace.cutting` says exactly what is cut in which kind of mixer. A knockout of one target that is
also what is read runs that position alone for all sources (`mambascope.trace.single_position`), so that it costs a few
forward passes and not one per source.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mambascope.errors import InputError, UnsupportedModelError
from mambascope.families import Kind
from mambascope.methods.ablation import (
    Effect,
    batches,
    chosen,
    copies,
    measure,
    padding_of,
    require_one_text,
    room,
    runs_of_each,
    spans_in,
)
from mambascope.methods.checked import checked
from mambascope.methods.method import AnyReadout, Method, MethodResult, at_positions, number_of
from mambascope.methods.targets import looks_ahead, positions
from mambascope.numbering import shown
from mambascope.readouts import read, read_at
from mambascope.trace import Trace
from mambascope.trace.intervene import Knockout, intervening
from mambascope.trace.long_position import long_position
from mambascope.trace.mixing import goes_forwards
from mambascope.trace.running import call, in_texts, running
from mambascope.trace.single_position import COPIES, SinglePosition, single_position


@checked
def knockout(
    trace: Trace,
    readout: Callable[[Any], Float[Tensor, " b"]],
    *,
    targets: int | Sequence[int] | None = None,
    sources: Sequence[int] | None = None,
    spans: Sequence[tuple[int, int]] | None = None,
    layers: tuple[int, int] | None = None,
    kinds: Collection[Kind] | None = None,
    batch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Effect:
    """Return how far a readout falls when the mixers of some targets run without one source, for every source.

    Source j gives its value to none of the targets: in a scan neither through alpha nor, if j is itself a target,
    through the skip D; in attention not through p, which stays as it is. The model computes everything else from the
    result. A source is a position in what is mixed, where a convolution has already brought in the K-1 positions before
    it. Of mixers side by side, each is cut.

    If a readout of `mambascope.readouts` reads the one target alone, and no layer looks ahead, cutting its edges
    changes nothing at any other position. The text then runs once, and after it that position alone, in a copy for
    every source: a few forward passes in all, instead of one per source. A model that cannot run so, which is tried
    first, or that has hooks of the caller's, runs the whole text for every source; scores are the same within
    rounding. `Effect.alone` says which it was. Of a long text with few chosen sources or spans the tokens before that
    position run piece by piece, in memory that hardly grows with the text (`mambascope.trace.long_position`).

    Args:
        trace: A capture of one text.
        readout: Given the model's outputs, returns one number per text; see `mambascope.readouts`.
        targets: The positions that lose the source; by default the readout's own. Negative numbers count back from the
            text's own last token.
        sources: The sources to remove, one at a time; negative numbers likewise. None for all; others score NaN.
        spans: Runs of sources, each of which is removed as a whole, instead of single sources: each from its first
            token up to, not including, its last. `Effect.scores` then has one score per span.
        layers: First and last layer of a window, both included; None for all.
        kinds: The kinds of mixer that are cut in a hybrid, such as `{"attention"}`; None for all.
        batch: Copies of the text, or of the one position, per batch; by default as many as fit in memory and make no
            more than 2048 tokens (32768 on other devices than the CPU), or 256.
        progress: Called with (sources done, sources in all) after each batch.

    Raises:
        InputError: if the trace is not of one text, a target, a layer, a kind, a span or the readout cannot be used, or
            both sources and spans are given.
        UnsupportedModelError: if a mixer is one in which nothing can be cut.
        MapTooLargeError: if the states of a long text would not fit in memory.
    """
    model, inputs = trace.model, dict(trace.inputs)
    require_one_text(inputs)
    number, own = in_texts(readout, inputs), getattr(readout, "positions", None)
    targets = own if targets is None else targets
    if targets is None:
        raise InputError("this readout has no positions; pass targets, the positions that lose the source")
    window = layer_window(trace, layers, kinds)
    mixers, length = _mixers(trace, window, kinds), trace.shape[1]
    rows = tuple(sorted(set(positions(trace, targets)[0].tolist())))
    if spans is not None and sources is not None:
        raise InputError("sources are removed one at a time, spans each as a whole; pass one of them")
    runs = None if spans is None else spans_in(spans, trace.attention_mask, length)
    asked = chosen(sources, trace.attention_mask, length)
    with running(model, eager=True) as own:
        device = trace.layers[0].x.device

        def cut(lost: Sequence[range]) -> Any:
            """Return the outputs for copies of the text, each without a run of sources."""
            with intervening(own, Knockout(mixers, runs_of_each(lost, length, device), rows)):
                return call(own, copies(inputs, len(lost)))

        position: SinglePosition | None = None
        without: Callable[[Sequence[range]], Any] = cut
        if len(rows) == 1 and _reads_one(trace, readout, rows[0]):
            few = runs if asked is None else [range(source, source + 1) for source in asked]
            if few is not None:
                position = long_position(own, inputs, trace.outputs, rows[0], length, mixers, few)
            if position is None and _runs_alone(trace):
                position = single_position(own, inputs, trace.outputs, rows[0], length, mixers)
        if position is not None:
            without, batch = position.without, COPIES if batch is None else batch
        ahead = position is None and any(looks_ahead(trace, layer) for layer in window)
        most = room(own, length)
        effect = _measured(
            number,
            trace.outputs if position is None else position.outputs,
            without,
            length=length,
            reach=length if ahead else max(rows) + 1,  # later ones give the targets nothing
            sources=asked,
            runs=runs,
            padding=padding_of(inputs),
            split=lambda left: batches(len(left), length, batch, most),
            progress=progress,
        )
        if position is None:
            return effect
        return replace(effect, value=float(read(number, trace.outputs)), outputs=trace.outputs, alone=position.error)


def _measured(
    number: Callable[[Any], Tensor],
    outputs: Any,
    without: Callable[[Sequence[range]], Any],
    *,
    length: int,
    reach: int,
    sources: Sequence[int] | None,
    runs: Sequence[range] | None,
    padding: Tensor | None,
    split: Callable[[list[int]], Iterable[tuple[int, int]]],
    progress: Callable[[int, int], None] | None,
) -> Effect:
    """Return the effect of each source, or of each run of sources; other arguments are as in `measure`."""
    if runs is None:
        (effect,) = measure(
            [number],
            outputs,
            lambda cut: without([range(source, source + 1) for source in cut.tolist()]),
            length=length,
            reach=reach,
            sources=sources,
            padding=padding,
            split=split,
            progress=progress,
        )
        return effect
    within_reach = [place for place, run in enumerate(runs) if run.start < reach]
    (effect,) = measure(
        [number],
        outputs,
        lambda cut: without([runs[place] for place in cut.tolist()]),
        length=len(runs),
        reach=len(runs),
        sources=within_reach,
        padding=None,
        split=split,
        progress=progress,
    )
    effect.scores[[place for place, run in enumerate(runs) if run.start >= reach]] = 0
    return effect


def _reads_one(trace: Trace, readout: Any, place: int) -> bool:
    """Return whether a readout reads this position alone, in a model that is known as a whole."""
    read_there = read_at(readout)
    if not read_there or trace.missing:
        return False
    return set(positions(trace, read_there)[0].tolist()) == {place}


def _runs_alone(trace: Trace) -> bool:
    """Return whether the computation of no position enters that of an earlier one.

    Where padding looks ahead, as it may in attention, no scan may read it.
    """
    if any(looks_ahead(trace, layer) for layer in range(len(trace.layers))):
        return False
    scans = [branch for branch in trace.branches if not goes_forwards(branch.family)]
    unmasked = any(branch.kind != "attention" and branch.captured.mask is None for branch in trace.branches)
    return not unmasked or all(branch.operator().scan.causal for branch in scans)


def layer_window(trace: Trace, layers: tuple[int, int] | None, kinds: Collection[Kind] | None) -> list[int]:
    """Return the numbers of the layers of a window of layers that have a mixer of these kinds."""
    if layers is not None and (not isinstance(layers, Sequence) or len(layers) != 2):
        raise InputError(f"a window of layers must be its first and last layer, found {shown(layers)}")
    if kinds is not None and (isinstance(kinds, str) or not isinstance(kinds, Collection)):
        raise InputError(f"kinds must be a collection such as {{'attention'}}, found {shown(kinds)}")
    first, last = (0, len(trace.layers) - 1) if layers is None else (trace.index(layer) for layer in layers)
    if first > last:
        raise InputError(f"the window of layers {first} to {last} is empty; pass its first layer, then its last")
    held = {number: trace.layers[number].kinds for number in range(first, last + 1)}
    found = [number for number, own in held.items() if kinds is None or not set(kinds).isdisjoint(own)]
    if not found:
        asked, there = (", ".join(sorted(set(names))) for names in (kinds or (), itertools.chain(*held.values())))
        raise InputError(f"there is no mixer of the kinds {asked} to cut in layers {first} to {last}: they are {there}")
    return found


def _mixers(trace: Trace, window: Sequence[int], kinds: Collection[Kind] | None) -> frozenset[str]:
    """Return the names of the mixers that are cut in a window.

    Raises:
        UnsupportedModelError: if one of them also runs outside the window, where it would be cut as well.
    """
    inside = [branch for number in window for branch in trace.layers[number].branches]
    names = [branch.name for branch in inside if kinds is None or branch.kind in kinds]
    everywhere = [branch.name for branch in trace.branches]
    for name in names:
        if names.count(name) != everywhere.count(name):
            raise UnsupportedModelError(
                f"{name} runs in several layers, also outside the window, and can only be cut in all of them; widen "
                "the window of layers"
            )
    return frozenset(names)


def _knocked_out(trace: Trace, readout: AnyReadout, variant: str) -> MethodResult:
    effect = knockout(trace, number_of(readout))
    return _result(trace, effect, effect.scores)


def _spans_knocked_out(trace: Trace, readout: AnyReadout, spans: Sequence[tuple[int, int]]) -> MethodResult:
    effect = knockout(trace, number_of(readout), spans=spans)
    scores = effect.scores.new_zeros(trace.shape[1])
    scores[[stop - 1 for _, stop in spans]] = effect.scores
    return _result(trace, effect, scores)


def _result(trace: Trace, effect: Effect, scores: Float[Tensor, " L"]) -> MethodResult:
    ran = {} if effect.alone is None else {"alone_error": effect.alone}
    return MethodResult(at_positions(trace, scores[None]), {"value": effect.value, **ran})


METHODS = [
    Method(
        "knockout",
        "drop of the logit when the mixers pass nothing from one token to the target",
        "Mamba Knockout 2025, arXiv 2505.24244",
        signed=True,
        needs="interventions",
        cost="quadratic",
        growth=1.0,  # at most; where the position runs alone, four passes or so in all
        score=_knocked_out,
        score_spans=_spans_knocked_out,
        asks=True,
        from_inputs=True,
    ),
]
