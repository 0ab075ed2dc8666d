"""Copying: a random string, a separator, the string again. Do the scores point at the symbol that is copied?

This is the protocol of LaTIM (Pitorro & Treviso, arXiv 2502.15612, section 5.1). A model reads `s_1 … s_n | s_1 … s_n`;
from the separator on, it predicts the next symbol of the copy after each position. The gold source of the symbol
predicted after position n + k (counted from 0, the separator at n) is position k, where that symbol is in the first
string: one further than the source of the symbol at position n + k itself. Candidates are the positions of the first
string. A symbol that the model copies wrong may come from elsewhere; `correct` is the share of its symbols that are
right.
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
from mambascope.numbering import shown
from mambascope.readouts import logits_of
from mambascope.trace import capture

SYMBOLS = "abcdefghijklmnopqrstuvwxyz"
SEPARATOR = "|"


@dataclass(frozen=True)
class Copying:
    """The copying task.

    Attributes:
        lengths: The numbers of symbols of the strings.
        per_length: The number of strings of each length.
        seed: The seed of the strings, which are the same in every run.
    """

    name: str = "copying"
    default_models: Sequence[str] = ("zoo:copying-mamba", "zoo:copying-mamba2")
    metrics: Sequence[Metric | str] = (
        *RANKING,
        Metric("correct", "higher", "share of symbols that the model copies right"),
    )
    main: Sequence[MainTable] = (MainTable((*RANKING, "correct")),)
    lengths: tuple[int, ...] = (8, 16, 32, 48)
    per_length: int = 25
    seed: int = 0

    def samples(self, limit: int | None) -> Sequence[Sample]:
        """Return the strings; lengths take turns, so that a limit keeps some of each."""
        generator = torch.Generator().manual_seed(self.seed)
        samples = []
        for number in range(self.per_length):
            for length in self.lengths:
                symbols = torch.randint(len(SYMBOLS), (length,), generator=generator).tolist()
                text = "".join(SYMBOLS[symbol] for symbol in symbols)
                samples.append(Sample(f"{length}-{number}", {"text": text}))
        return samples[:limit]

    def data_hash(self) -> str:
        """Return a hash of all strings."""
        text = "\n".join(str(sample.data["text"]) for sample in self.samples(None))
        return hashlib.sha256(text.encode()).hexdigest()

    def check(self, loaded: Any, methods: Sequence[str]) -> None:
        """Raise if a method cannot read the model, or its tokenizer has no token for a symbol."""
        model, tokenizer = loaded
        check_supported(model, methods)
        self._ids(tokenizer, SYMBOLS + SEPARATOR)

    def evaluate(self, loaded: Any, sample: Sample, methods: Sequence[str], seed: int) -> list[Row]:
        """Return the metrics of every method in every layer, averaged over the string's symbols."""
        model, tokenizer = loaded
        text = str(sample.data["text"])
        n = len(text)
        ids = self._ids(tokenizer, text + SEPARATOR + text)
        inputs: dict[str, Any] = {"input_ids": torch.tensor([ids], device=model.device)}
        trace = capture(model, **inputs)
        targets = list(range(n, 2 * n))
        numbers = [readouts.token(target, ids[target + 1]) for target in targets]
        gold = torch.zeros(n, len(ids), dtype=torch.bool)
        gold[torch.arange(n), torch.arange(n)] = True
        valid = (torch.arange(len(ids)) < n).expand(n, -1)
        right = logits_of(trace.outputs)[0, targets].argmax(dim=-1).cpu() == torch.tensor(ids[n + 1 :])
        correct = float(right.float().mean())
        rows = [Row(name, "correct", correct) for name in methods]
        for scored in score_rows(model, inputs, methods, numbers, trace):
            rows += ranking_rows(scored._replace(rows=scored.rows.cpu()), gold, valid)
        return rows

    def _ids(self, tokenizer: Any, text: str) -> list[int]:
        if tokenizer is None:
            raise InputError("copying needs a tokenizer with a token for each letter and for the separator '|'")
        ids = tokenizer.convert_tokens_to_ids(list(text))
        missing = [symbol for symbol, token in zip(text, ids, strict=True) if token in (None, tokenizer.unk_token_id)]
        if missing:
            raise InputError(
                f"this model's tokenizer has no token {shown(missing[0])}; copying needs one for every letter"
            )
        return ids
