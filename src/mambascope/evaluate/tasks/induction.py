"""Induction: random tokens, then the same again. Do the scores point at the token that came next the first time?

A text is `span` random tokens, written twice. The token at position i of the second half was also at i - span, and to
predict the next token the model must find the one that followed there: the gold source of the prediction after token i
is i - span + 1. Candidates are the first half. `guessed` is how often the model predicts the repetition; where it does
not, there is little for a score to find.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mambascope import readouts
from mambascope.errors import InputError
from mambascope.evaluate.metrics.registry import Metric
from mambascope.evaluate.score_rows import RANKING, ranking_rows, score_rows
from mambascope.evaluate.task import MainTable, Row, Sample
from mambascope.evaluate.variants import check_supported
from mambascope.readouts import logits_of
from mambascope.trace import capture
from mambascope.trace.embedding import token_table


@dataclass(frozen=True)
class Induction:
    """The induction task.

    Attributes:
        span: The number of tokens that are repeated.
        count: The number of texts.
        first: The lowest token id drawn, above the special tokens and single bytes of usual vocabularies.
    """

    name: str = "induction"
    default_models: Sequence[str] = ("tiny-mamba", "tiny-mamba2")
    metrics: Sequence[Metric | str] = (
        *RANKING,
        Metric("guessed", "higher", "share of the repetition that the model predicts"),
    )
    main: Sequence[MainTable] = (MainTable((*RANKING, "guessed")),)
    span: int = 24
    count: int = 50
    first: int = 300

    def samples(self, limit: int | None) -> Sequence[Sample]:
        """Return seeds as samples; the tokens that they draw depend on the model's vocabulary."""
        return [Sample(str(number), {"seed": number}) for number in range(self.count)][:limit]

    def data_hash(self) -> str:
        """Return a hash of the settings that determine the texts."""
        return hashlib.sha256(f"{self.span} {self.count} {self.first}".encode()).hexdigest()

    def check(self, loaded: Any, methods: Sequence[str]) -> None:
        """Raise if a method cannot read the model, or its vocabulary is too small."""
        check_supported(loaded[0], methods)
        tokens = token_table(loaded[0]).num_embeddings
        if tokens < self.first + self.span:
            raise InputError(f"induction draws {self.span} tokens from id {self.first} on, and this model has {tokens}")

    def evaluate(self, loaded: Any, sample: Sample, methods: Sequence[str], seed: int) -> list[Row]:
        """Return the metrics of every method in every layer, averaged over the second half's tokens."""
        model, _ = loaded
        generator = torch.Generator().manual_seed(int(sample.data["seed"]))
        tokens = token_table(model).num_embeddings - self.first
        once = (self.first + torch.randperm(tokens, generator=generator)[: self.span]).tolist()
        ids = once + once
        inputs: dict[str, Any] = {"input_ids": torch.tensor([ids], device=model.device)}
        trace = capture(model, **inputs)
        targets = list(
            range(self.span, 2 * self.span - 1)
        )  # not the last token: what follows it is not in the first half
        numbers = [readouts.token(target, ids[target + 1]) for target in targets]
        gold = torch.zeros(len(targets), len(ids), dtype=torch.bool)
        gold[torch.arange(len(targets)), torch.arange(len(targets)) + 1] = True
        valid = (torch.arange(len(ids)) < self.span).expand(len(targets), -1)
        guessed = logits_of(trace.outputs)[0, targets].argmax(dim=-1).cpu() == torch.tensor(ids[self.span + 1 :])
        rows = [Row(name, "guessed", float(guessed.float().mean())) for name in methods]
        for scored in score_rows(model, inputs, methods, numbers, trace):
            rows += ranking_rows(scored._replace(rows=scored.rows.cpu()), gold, valid)
        return rows
