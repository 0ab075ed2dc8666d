"""Whether interventions find what scores predict: the top sources of each target are removed, one at a time.

Two things are done to a source, and what the number explained loses is measured:

* cut: the mixers pass nothing from it to the positions that are explained (`mambascope.methods.knockout`);
* zeroed: its embedding is zero for the whole text (`mambascope.methods.occlusion`).

The result keeps these beside its scores, with Spearman's rank correlation of each with the scores over these sources;
of their sizes, for scores without sign.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mambascope.attribution import Attribution
from mambascope.errors import InputError, MambascopeError
from mambascope.explanation.question import Question, resolve
from mambascope.explanation.subject import Subject
from mambascope.methods.interventions import knockout
from mambascope.methods.method import number_of
from mambascope.methods.occlusion import occlusion
from mambascope.models.picture_models import StagedModel
from mambascope.ranks import rank_correlation
from mambascope.readouts import read_at
from mambascope.trace.embedding import embedded

#: The interventions, by their methods' names.
INTERVENTIONS = ("knockout", "occlusion")

#: How many top sources of each target a page measures unasked, and the seconds that this may take, as estimated.
UNASKED = 8
SECONDS = 5.0

#: What a knockout costs in forward passes where one position runs alone; elsewhere it is one pass for each source.
ALONE_PASSES = 4


def verified(
    subject: Subject, results: Sequence[Attribution], question: Question, sources: int | None
) -> list[Attribution]:
    """Return results that also say what removing their top sources does to the number that they explain.

    `diagnostics["verified"]` lists, for every target of the first result: its `position`, what was `asked` and its
    `value`; the `sources` removed, in order, and their `scores`; by how much each lowered the value, `knockout` and
    `occlusion` (None for a class token that is added after embedding, which cannot be zeroed); and the
    `rank_correlation` of these with the scores. All results have the same sources: the top ones of each of them.

    Args:
        subject: The model and what it reads.
        results: Results of different methods.
        question: The question that the first one answers.
        sources: How many top sources of each result and target to remove; None for what a page does unasked, which is
            nothing where it would take long or cannot be done.

    Raises:
        InputError: if the model has no head, or tokens of its own at every stage.
        UnsupportedModelError: as `methods.knockout` does.
    """
    if sources is None:
        try:
            return _verified(subject, results, question, UNASKED, SECONDS)
        except MambascopeError:
            return list(results)
    return _verified(subject, results, question, sources, float("inf"))


def _verified(
    subject: Subject, results: Sequence[Attribution], question: Question, count: int, seconds: float
) -> list[Attribution]:
    if isinstance(subject.model, StagedModel):
        raise InputError(
            f"sources cannot be removed from a {type(subject.model).__name__}, whose stages have tokens of their own"
        )
    trace = subject.trace()
    resolved = resolve(subject, trace, question)
    targets = [
        (place, number_of(readout), tops)
        for place, readout in zip(resolved.places, resolved.readouts, strict=True)
        if (tops := _top(results, place, count))
    ]
    if sum(_passes(readout, len(tops)) for _, readout, tops in targets) * trace.seconds > seconds:
        return list(results)
    started, found = time.perf_counter(), []
    first = trace.shape[1] - embedded(trace.model, dict(trace.inputs)).shape[1]  # a class token is added later
    for place, readout, tops in targets:
        cut = knockout(trace, readout, sources=tops)
        drops = {"knockout": cut.scores, "occlusion": torch.full_like(cut.scores, torch.nan)}
        within = [top - first for top in tops if top >= first]
        if within:
            drops["occlusion"][first:] = occlusion(trace, readout, sources=within).scores
        found.append((place, readout.label, cut.value, tops, {name: drop[tops] for name, drop in drops.items()}))
    took = time.perf_counter() - started
    return [_with(one, [_entry(one, *target) for target in found if target[0] in one.axes["target"]], took)
            for one in results]  # fmt: skip


def _passes(readout: Any, sources: int) -> int:
    """Return about how many forward passes it takes to remove sources."""
    alone = len(set(read_at(readout) or ())) == 1
    return sources + (min(ALONE_PASSES, sources) if alone else sources)


def _top(results: Iterable[Attribution], place: int, count: int) -> list[int]:
    """Return the top sources of a target in all results that explain it, in order."""
    found = {
        source.position
        for one in results
        if place in one.axes["target"]
        for source in one.top(count, _row(one, place))
        if source.score
    }
    return sorted(found)


def _row(result: Attribution, place: int) -> int | None:
    """Return how a result calls the row of a target: by its position, or as the mean of all rows."""
    return None if place == result.target.position and result.target.pooled > 1 else place


def _entry(
    result: Attribution, place: int, asked: str, value: float, tops: list[int], drops: Mapping[str, Tensor]
) -> dict[str, Any]:
    scores = result.row(_row(result, place))[tops]
    return {
        "position": place,
        "asked": asked,
        "value": value,
        "sources": tops,
        "scores": scores.tolist(),
        **{name: [None if drop.isnan() else float(drop) for drop in drops[name]] for name in INTERVENTIONS},
        "rank_correlation": {name: _agreement(scores, drops[name].cpu(), result.signed) for name in INTERVENTIONS},
    }


def _agreement(scores: Float[Tensor, " n"], drops: Float[Tensor, " n"], signed: bool) -> float | None:
    """Return the rank correlation of scores and drops; None where there are too few, or they have no order."""
    measured = ~drops.isnan()
    pair = [values[measured] if signed else values[measured].abs() for values in (scores, drops)]
    if len(pair[0]) < 3:
        return None
    found = rank_correlation(*pair)
    return None if found != found else found


def _with(result: Attribution, entries: list[dict[str, Any]], seconds: float) -> Attribution:
    if not entries:
        return result
    return replace(result, diagnostics={**result.diagnostics, "verified": entries, "seconds_verified": seconds})
