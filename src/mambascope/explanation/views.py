"""What a page offers besides the result asked for: every position's sources, and methods that cost little."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence

from mambascope.attribution import Attribution
from mambascope.explanation.answering import answer
from mambascope.explanation.defaults import DEFAULT_METHOD
from mambascope.explanation.question import Question
from mambascope.explanation.stages import explains_stage
from mambascope.explanation.subject import Subject
from mambascope.families import kinds_of
from mambascope.methods.method import Method
from mambascope.methods.registry import METHODS
from mambascope.models.picture_models import StagedModel
from mambascope.numbering import Layers

#: Seconds that all methods nobody asked for may take together, as estimated.
METHOD_SECONDS = 1.0

#: The same for the map of every position, and the most tokens for which one is made unasked.
MAP_SECONDS = 5.0
EVERY_POSITION = 512

#: What a map of all positions costs in forward passes, and what each token adds.
MAP_PASSES, MAP_GROWTH = 3.0, 0.05


def with_views(
    subject: Subject,
    first: Attribution,
    question: Question,
    *,
    layer: Layers = "all",
    stage: int | None = None,
    started: float,
) -> list[Attribution]:
    """Return a result followed by the other views of its page: the map of every position, then cheap methods.

    The time that all of them took is in the first one's diagnostics, as `seconds_in_all`.

    Args:
        subject: The model and what it reads.
        first: The result that the page opens with; the time of its capture stands for that of a forward pass.
        question: The question that it answers.
        layer, stage: As in `explain`.
        started: When the work began, by `time.perf_counter`.
    """
    tokens, one_pass = len(first.tokens), first.diagnostics["seconds_capture"]
    rows = len(first.axes["target"])
    every = rows == tokens > 1
    results = [first]
    map_seconds = (1 + MAP_PASSES + MAP_GROWTH * tokens) * one_pass
    if not every and tokens <= EVERY_POSITION and map_seconds <= MAP_SECONDS:
        alone = dataclasses.replace(subject, following=None)
        results += answer(alone, [METHODS[DEFAULT_METHOD]], Question(positions="all"), layer=layer, stage=stage)
    held = {one.method for one in results}
    whole_map = every or first.target.pooled > 1  # a readout of many positions needs all their rows
    others = sorted(viewable(subject, question, layer, stage), key=lambda one: not one.column)
    offered = [one for one in others if one.offered and one.name not in held]
    cheap = affordable(offered, tokens, one_pass, rows=rows, whole_map=whole_map)
    cheap = [one for one in cheap if not every or one.map is not None or one.whole_map is not None]
    plain = dataclasses.replace(question, target=None, foil=None)
    for group, asked in (([one for one in cheap if one.asks], question), ([m for m in cheap if not m.asks], plain)):
        results += answer(subject, group, asked, layer=layer, stage=stage) if group else []
    whole = {"seconds_in_all": time.perf_counter() - started}
    return [dataclasses.replace(first, diagnostics={**first.diagnostics, **whole}), *results[1:]]


def viewable(subject: Subject, question: Question, layer: Layers, stage: int | None) -> list[Method]:
    """Return the methods that can read every layer of the model and can answer the question."""
    kinds, model = kinds_of(subject.model), subject.model
    able = [one for one in METHODS.values() if one.reads(kinds) and (layer == "all" or one.scope == "layer")]
    if isinstance(model, StagedModel) and stage is not None:
        able = [one for one in able if explains_stage(model, one, stage)]
    logits = subject.trace().logits
    if logits is None:
        able = [one for one in able if not one.asks]
    a_place = question.positions is not None and logits is not None and logits.ndim == 2  # where a class is not read
    return [one for one in able if one.by_place or not a_place]


def affordable(
    methods: Iterable[Method], tokens: int, one_pass: float, *, rows: int = 1, whole_map: bool = False
) -> Sequence[Method]:
    """Return methods whose estimated times add up to at most `METHOD_SECONDS`; those that do not fit are left out."""
    left = METHOD_SECONDS - 2 * one_pass  # one capture for methods that explain a number, one for the others
    chosen = []
    for one in methods:
        passes = (one.passes + one.growth * tokens) * (rows if one.asks else 1)
        passes = max(passes, MAP_PASSES + MAP_GROWTH * tokens) if whole_map else passes
        if passes * one_pass <= left:
            left -= passes * one_pass
            chosen.append(one)
    return chosen
