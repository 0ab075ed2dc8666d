"""Retrieval: numbers told somewhere in a novel's text, one of them asked for at its end. Do the scores find the place?

After RULER's needles (Hsieh et al., arXiv 2404.06654): sentences "The secret of the doctor is 47192." stand between the
sentences of a held-out novel, and the text ends with one of them again, whose digits the model must give. Lengths and
numbers of needles are swept. The rows are those that predict each digit; the span is the digits in the needle that is
asked for, the candidates everything before the question. Reported are the share of the scores' size that lies on the
span and the rank of its best token, beside the model's own accuracy: what it does not find, no score can show.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mambascope.errors import InputError
from mambascope.evaluate.data.folder import data_file
from mambascope.evaluate.data.novels import held_out_novels
from mambascope.evaluate.metrics.span_mass import span_mass, span_rank
from mambascope.evaluate.score_rows import score_rows
from mambascope.evaluate.supported import check_supported
from mambascope.evaluate.task import Metric, Row, Sample
from mambascope.methods.readout import logits_of, token_readout
from mambascope.trace import capture

KEYS = ("doctor", "brother", "child", "church", "daughter", "father", "friend", "garden", "gentleman", "horse", "house",
        "husband", "letter", "master", "mother", "school", "sister", "table", "window", "woman")  # fmt: skip
DIGITS = 5
#: Characters of text that are cut for each token of a haystack, to have enough.
CHARACTERS = 8


@dataclass(frozen=True)
class Retrieval:
    """The task.

    Attributes:
        lengths: Tokens of a text, question included.
        needles: Needles in a text.
        each: Texts of every length and number of needles.
    """

    name: str = "retrieval"
    default_models: Sequence[str] = ("zoo/retrieval-mamba2",)
    metrics: Sequence[Metric] = (
        Metric("span_mass", title="share of the scores' size on the digits that are asked for"),
        Metric("span_rank", higher_is_better=False, title="rank of the best of these digits"),
        Metric("accuracy", title="share of digits that the model gives right"),
    )
    lengths: tuple[int, ...] = (128, 256, 512)
    needles: tuple[int, ...] = (1, 2, 4)
    each: int = 10

    def samples(self, limit: int | None) -> Sequence[Sample]:
        """Return texts' haystacks, needles and questions; lengths and numbers of needles take turns."""
        novels = list(held_out_novels(data_file("lm_novels", "novels.tar.xz")).values())
        generator = torch.Generator().manual_seed(0)

        def draw(below: int) -> int:
            return int(torch.randint(below, (1,), generator=generator))

        samples = []
        for number in range(self.each):
            for length in self.lengths:
                for count in self.needles:
                    novel = novels[draw(len(novels))]
                    start = novel.find(". ", draw(len(novel) - 2 * CHARACTERS * length)) + 1
                    keys = torch.randperm(len(KEYS), generator=generator)[:count].tolist()
                    secrets = [[KEYS[key], "".join(str(draw(10)) for _ in range(DIGITS))] for key in keys]
                    data = {
                        "hay": novel[start : start + CHARACTERS * length],
                        "length": length,
                        "secrets": secrets,
                        "asked": draw(count),
                        "places": torch.rand(count, generator=generator).tolist(),
                    }
                    samples.append(Sample(f"{length}-{count}-{number}", data))
        return samples[:limit]

    def data_hash(self) -> str:
        """Return a hash of all texts."""
        return hashlib.sha256(repr([sample.data for sample in self.samples(None)]).encode()).hexdigest()

    def check(self, loaded: Any, methods: Sequence[str]) -> None:
        """Raise if a method cannot read the model, or it has no tokenizer."""
        check_supported(loaded[0], methods)
        if loaded[1] is None:
            raise InputError("retrieval needs a model with a tokenizer")

    def evaluate(self, loaded: Any, sample: Sample, methods: Sequence[str], seed: int) -> list[Row]:
        """Return mass and rank of the span, averaged over the digits, for every method, layer and the model."""
        model, tokenizer = loaded
        ids, span, asked = self.text(tokenizer, sample)
        inputs: dict[str, Any] = {"input_ids": torch.tensor([ids], device=model.device)}
        trace = capture(model, **inputs)
        targets = [place - 1 for place in asked]
        readouts = [token_readout(target, ids[target + 1]) for target in targets]
        guessed = logits_of(trace.outputs)[0, targets].argmax(dim=-1).tolist()
        right = sum(guess == ids[place] for guess, place in zip(guessed, asked, strict=True)) / DIGITS
        gold = torch.zeros(len(ids), dtype=torch.bool)
        gold[span] = True
        before = torch.arange(len(ids)) < asked[0] - len(self._prefix(tokenizer, KEYS[0]))
        rows = [Row(name, "accuracy", right) for name in methods]
        for scored in score_rows(model, inputs, methods, targets, readouts, trace):
            sizes = scored.rows.abs().cpu()
            for name, metric in (("span_mass", span_mass), ("span_rank", span_rank)):
                rows.append(Row(scored.method, name, float(metric(sizes, gold, before).nanmean()), scored.layer))
        return rows

    def text(self, tokenizer: Any, sample: Sample) -> tuple[list[int], list[int], list[int]]:
        """Return a sample's token ids, the places of the digits in its needle, and those of the digits asked for."""
        data = sample.data
        sentences = [self._sentence(tokenizer, key, digits) for key, digits in data["secrets"]]
        stop = tokenizer(" a.", add_special_tokens=False)["input_ids"][-1]
        room = data["length"] - sum(map(len, sentences)) - len(sentences[data["asked"]])
        hay = tokenizer(data["hay"], add_special_tokens=False, verbose=False)["input_ids"][: max(room, 0)]
        gaps = [0, *(place + 1 for place, token in enumerate(hay) if token == stop)]
        chosen = sorted(gaps[int(share * len(gaps))] for share in data["places"])
        ids, span, done = [], [], 0
        for number, (place, sentence) in enumerate(zip(chosen, sentences, strict=True)):
            ids += hay[done:place]
            if number == data["asked"]:
                span = [len(ids) + len(sentence) - 1 - DIGITS + k for k in range(DIGITS)]
            ids, done = ids + sentence, place
        question = sentences[data["asked"]]
        ids += hay[done:] + question
        return ids, span, [len(ids) - 1 - DIGITS + k for k in range(DIGITS)]

    def _sentence(self, tokenizer: Any, key: str, digits: str) -> list[int]:
        each = [tokenizer(f" 0{digit}", add_special_tokens=False)["input_ids"][-1] for digit in digits]
        stop = tokenizer(" a.", add_special_tokens=False)["input_ids"][-1]
        return [*self._prefix(tokenizer, key), *each, stop]

    def _prefix(self, tokenizer: Any, key: str) -> list[int]:
        return tokenizer(f" The secret of the {key} is 0.", add_special_tokens=False)["input_ids"][:-2]
