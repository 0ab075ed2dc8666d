"""Retrieval: numbers hidden in a novel's text, with a question for one of them at its end. Do the scores find it?

The task follows RULER's needles (Hsieh et al., arXiv 2404.06654): sentences such as "The secret of the doctor is
47192." are hidden between the sentences of a held-out novel, and the text ends with one of them again, whose digits the
model must predict. The length, the number of needles and the place of the needle in question vary; with one needle it
is the passkey task (Mohtashami & Jaggi, arXiv 2305.16300). The rows are those that predict each digit; the span is the
digits in the needle, and the candidates are all tokens before the question. Reported are the share of the scores' size
on the span and the rank of its best token, and the model's own accuracy: no score can show what the model does not
find.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mambascope import readouts
from mambascope.errors import InputError
from mambascope.evaluate.data.haystacks import drawn_text, haystacks, hidden
from mambascope.evaluate.metrics.registry import Metric, find_metric
from mambascope.evaluate.metrics.span_mass import span_mass, span_rank
from mambascope.evaluate.score_rows import score_rows
from mambascope.evaluate.task import MainTable, Row, Sample
from mambascope.evaluate.variants import check_supported
from mambascope.inputs.tokens import text_ids
from mambascope.readouts import logits_of
from mambascope.trace import capture

KEYS = ("doctor", "brother", "child", "church", "daughter", "father", "friend", "garden", "gentleman", "horse", "house",
        "husband", "letter", "master", "mother", "school", "sister", "table", "window", "woman")  # fmt: skip
DIGITS = 5
#: Steps of the golden section stay evenly spread over 0 to 1, however many there are.
GOLDEN = 0.618034


@dataclass(frozen=True)
class Retrieval:
    """The retrieval task.

    Attributes:
        lengths: The numbers of tokens in a text, including the question.
        needles: The numbers of needles in a text.
        each: The number of texts for every length and number of needles; the places of the needle in question are
            spread evenly over them.
        source: A user's own haystacks: a folder of `.txt` files, or one such file.
    """

    name: str = "retrieval"
    default_models: Sequence[str] = ("zoo:retrieval-mamba2",)
    metrics: Sequence[Metric] = (
        find_metric("span_mass").titled("share of the scores' size on the digits that are asked for"),
        find_metric("span_rank").titled("rank of the best of these digits"),
        find_metric("accuracy").titled("share of digits that the model gives right"),
    )
    main: Sequence[MainTable] = (MainTable(("span_mass", "span_rank", "accuracy")),)
    lengths: tuple[int, ...] = (128, 256, 512)
    needles: tuple[int, ...] = (1, 2, 4)
    each: int = 10
    source: str | None = None

    def samples(self, limit: int | None) -> Sequence[Sample]:
        """Return the texts' haystacks, needles and questions; lengths and numbers of needles take turns."""
        texts = haystacks(self.source, max(self.lengths))
        generator = torch.Generator().manual_seed(0)

        def draw(below: int) -> int:
            return int(torch.randint(below, (1,), generator=generator))

        samples = []
        for number in range(self.each):
            for length in self.lengths:
                for count in self.needles:
                    keys = torch.randperm(len(KEYS), generator=generator)[:count].tolist()
                    places = torch.rand(count, generator=generator, dtype=torch.float64).tolist()
                    asked = draw(count)
                    places[asked] = (number + 0.5) * GOLDEN % 1
                    data = {
                        "hay": drawn_text(texts, draw, length),
                        "length": length,
                        "secrets": [[KEYS[key], "".join(str(draw(10)) for _ in range(DIGITS))] for key in keys],
                        "asked": asked,
                        "places": places,
                    }
                    samples.append(Sample(f"{length}-{count}-{number}", data))
        return samples[:limit]

    def data_hash(self) -> str:
        """Return a hash of all texts."""
        return hashlib.sha256(repr([sample.data for sample in self.samples(None)]).encode()).hexdigest()

    def check(self, loaded: Any, methods: Sequence[str]) -> None:
        """Raise if a method cannot read the model, or its tokenizer has no token for a digit."""
        model, tokenizer = loaded
        check_supported(model, methods)
        if tokenizer is None:
            raise InputError("retrieval needs a model with a tokenizer")
        for digit in "0123456789":
            if tokenizer.convert_tokens_to_ids(digit) in (None, tokenizer.unk_token_id):
                raise InputError(f"this model's tokenizer has no token for the digit {digit}; retrieval needs them all")

    def evaluate(self, loaded: Any, sample: Sample, methods: Sequence[str], seed: int) -> list[Row]:
        """Return mass and rank of the span, averaged over the digits, for every method, each layer and the whole model.

        `extra` has the numbers of tokens and needles in the text, and the distance: the number of tokens between the
        needle's digits and the question.
        """
        model, tokenizer = loaded
        ids, span, asked = self.text(tokenizer, sample)
        inputs: dict[str, Any] = {"input_ids": torch.tensor([ids], device=model.device)}
        trace = capture(model, **inputs)
        targets = [place - 1 for place in asked]
        numbers = [readouts.token(target, ids[target + 1]) for target in targets]
        guessed = logits_of(trace.outputs)[0, targets].argmax(dim=-1).tolist()
        right = sum(guess == ids[place] for guess, place in zip(guessed, asked, strict=True)) / DIGITS
        key, digits = sample.data["secrets"][sample.data["asked"]]
        question = len(ids) - len(self._sentence(tokenizer, key, digits))
        gold = torch.zeros(len(ids), dtype=torch.bool)
        gold[span] = True
        before = torch.arange(len(ids)) < question
        about = {
            "length": sample.data["length"],
            "needles": len(sample.data["secrets"]),
            "distance": question - span[-1] - 1,
        }
        rows = [Row(name, "accuracy", right, extra=about) for name in methods]
        for scored in score_rows(model, inputs, methods, numbers, trace):
            sizes = scored.rows.abs().cpu()
            for name, metric in (("span_mass", span_mass), ("span_rank", span_rank)):
                value = float(metric(sizes, gold, before).nanmean())
                rows.append(Row(scored.method, name, value, scored.layer, about))
        return rows

    def text(self, tokenizer: Any, sample: Sample) -> tuple[list[int], list[int], list[int]]:
        """Return a sample's token ids, and the positions of the digits in its needle and of those to predict."""
        data = sample.data
        sentences = [self._sentence(tokenizer, key, digits) for key, digits in data["secrets"]]
        question = sentences[data["asked"]]
        room = data["length"] - sum(map(len, sentences)) - len(question)
        ids, begins = hidden(tokenizer, data["hay"], room, sentences, data["places"])
        first = len(question) - 1 - DIGITS
        span, asked = ([begin + first + k for k in range(DIGITS)] for begin in (begins[data["asked"]], len(ids)))
        return ids + question, span, asked

    def _sentence(self, tokenizer: Any, key: str, digits: str) -> list[int]:
        """Return the token ids of a needle; each digit is one token."""
        begin = text_ids(tokenizer, f" The secret of the {key} is {digits[0]}")
        stop = text_ids(tokenizer, " a.")[-1]
        return [*begin, *tokenizer.convert_tokens_to_ids(list(digits[1:])), stop]
