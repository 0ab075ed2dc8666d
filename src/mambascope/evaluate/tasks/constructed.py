"""Constructed models: is what a score says true, where the truth is known without training?

The models (`mambascope.models.constructed`) copy, recall, overwrite, count, add, subtract and do induction, by weights
that were written down. For each text it is known which tokens the answer is made of, with which sign, which tokens only
guide the reading, such as the key that is asked for, and which must get nothing. What is explained is the logit of the
answer, after the last token.

The sources' share and the idle tokens' share of all |score| leave the rest to the guides, which is not judged; nor are
guides among those that sources are ranked against. A method that gives nothing to any token has found no source, so
its shares are 0. A method that cannot read an architecture has no rows for its models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mambascope import readouts
from mambascope.errors import UnsupportedModelError
from mambascope.evaluate.metrics.ranking import recall_at_k
from mambascope.evaluate.metrics.registry import Metric, find_metric
from mambascope.evaluate.metrics.span_mass import sign_agreement, span_mass, span_rank
from mambascope.evaluate.score_rows import ScoredRows, score_rows
from mambascope.evaluate.task import MainTable, Row, Sample
from mambascope.evaluate.variants import check_supported, find_variant
from mambascope.models.constructed import MECHANISMS, Case, constructed_models, mechanism_of
from mambascope.trace import capture


@dataclass(frozen=True)
class Constructed:
    """The task.

    Attributes:
        lengths: The numbers of tokens of the texts.
        per_length: The number of texts of each length.
    """

    name: str = "constructed"
    default_models: Sequence[str] = tuple(constructed_models())
    metrics: Sequence[Metric] = (
        find_metric("recall_at_k").titled("share of the K sources that are among the K highest, guides left out"),
        find_metric("span_mass").titled("share of the scores' size on the sources"),
        find_metric("idle_mass").titled("share of the scores' size on tokens that must get nothing"),
        find_metric("sign_agreement").titled("share of the sources whose score has the right sign"),
        find_metric("span_rank").titled("rank of the best source among all tokens, guides too"),
    )
    main: Sequence[MainTable] = (MainTable(("recall_at_k", "span_mass", "idle_mass", "sign_agreement")),)
    lengths: tuple[int, ...] = (6, 8, 10)
    per_length: int = 10

    def samples(self, limit: int | None) -> Sequence[Sample]:
        """Return lengths and seeds, lengths taking turns; the text depends on the model's mechanism."""
        return [
            Sample(f"{length}-{number}", {"length": length, "seed": number})
            for number in range(self.per_length)
            for length in self.lengths
        ][:limit]

    def data_hash(self) -> str:
        """Return a hash of all texts and answers of all mechanisms."""
        texts = [self._case(name, sample) for name in MECHANISMS for sample in self.samples(None)]
        described = [(one.tokens, one.answer, sorted(one.signs.items()), sorted(one.guides)) for one in texts]
        return hashlib.sha256(repr(described).encode()).hexdigest()

    def check(self, loaded: Any, methods: Sequence[str]) -> None:
        """Raise if the model is not a constructed one, or no method can read it."""
        model = loaded[0]
        mechanism_of(model.name_or_path)
        if not readable(model, methods):
            check_supported(model, methods)

    def evaluate(self, loaded: Any, sample: Sample, methods: Sequence[str], seed: int) -> list[Row]:
        """Return the metrics of every method that can read the model, in each layer and for the whole model."""
        model = loaded[0]
        mechanism = mechanism_of(model.name_or_path)
        case = self._case(mechanism.name, sample)
        return judge(model, mechanism.ids(case), mechanism.machine.ids[case.answer], case, methods)

    def _case(self, mechanism: str, sample: Sample) -> Case:
        generator = torch.Generator().manual_seed(int(sample.data["seed"]))
        return MECHANISMS[mechanism].draw(int(sample.data["length"]), generator)


def judge(model: Any, ids: Sequence[int], answer: int, case: Case, methods: Sequence[str]) -> list[Row]:
    """Return the metrics of every method that can read a model, in each layer and for the whole model.

    Args:
        model: A model that answers the case.
        ids: The case's tokens in the model's vocabulary.
        answer: The token whose logit is explained, after the last one.
        case: What is known of the text.
        methods: Names of methods; those that cannot read the model have no rows.

    Raises:
        InputError: if there is no method of that name.
    """
    inputs: dict[str, Any] = {"input_ids": torch.tensor([list(ids)], device=model.device)}
    trace = capture(model, **inputs)
    explained = readouts.token(case.target, answer)
    rows = []
    for name in readable(model, methods):
        try:
            for scored in score_rows(model, inputs, [name], [explained], trace):
                rows += _rows(scored, case)
        except UnsupportedModelError:  # what a method finds out only from the text, such as gradients without mean
            continue
    return rows


def readable(model: Any, methods: Sequence[str]) -> list[str]:
    """Return the methods that can read the model; raises InputError for a name that is none."""
    able = []
    for name in methods:
        find_variant(name)
        try:
            check_supported(model, [name])
        except UnsupportedModelError:
            continue
        able.append(name)
    return able


def _rows(scored: ScoredRows, case: Case) -> list[Row]:
    """Return one method's metrics in one layer."""
    scores = scored.rows[0].detach().double().cpu()
    source, idle, signs = torch.zeros(3, len(scores), dtype=torch.float64)
    for place, sign in case.signs.items():
        source[place], signs[place] = 1, sign
    idle[list(case.idle)] = 1
    sizes, gold = scores.abs(), source.bool()
    values = {
        "recall_at_k": float(recall_at_k(sizes, gold, gold | idle.bool())),
        "span_mass": float(span_mass(sizes, gold).nan_to_num(0)),
        "span_rank": float(span_rank(sizes, gold)),
        "idle_mass": float(span_mass(sizes, idle.bool()).nan_to_num(0)) if case.idle else 0.0,
    }
    if find_variant(scored.method)[0].signed:
        values["sign_agreement"] = float(sign_agreement(scores, signs))
    return [Row(scored.method, name, value, scored.layer) for name, value in values.items()]
