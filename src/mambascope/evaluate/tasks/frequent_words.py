"""Frequent words: a few words repeated in a novel's text. Which of their mentions does the model's answer come from?

The task follows RULER's extraction of frequent words (Hsieh et al., arXiv 2404.06654), in a form that language models
of any size can answer: twelve sentences such as "The word is garden." are hidden between those of a held-out novel,
with two words (eight and four times) or four words (six, three, two and one times), and the text ends with "The word
is". The number explained is the logit of the mentioned word that the model finds likeliest; the span is all mentions of
that word, and the candidates are all tokens before the question. Reported are the share of the scores' size on the span
and the rank of its best token, and the model's own accuracy: whether the likeliest of *all* tokens is the most frequent
word. The last word mentioned is never the most frequent one, so repeating it is always wrong.
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
from mambascope.evaluate.tasks.retrieval import KEYS
from mambascope.evaluate.variants import check_supported
from mambascope.inputs.tokens import text_ids
from mambascope.numbering import shown
from mambascope.readouts import logits_of
from mambascope.trace import capture

CUE = " The word is"
#: How often each of two or four words is mentioned.
COUNTS = {2: (8, 4), 4: (6, 3, 2, 1)}


@dataclass(frozen=True)
class FrequentWords:
    """The frequent words task.

    Attributes:
        lengths: The numbers of tokens in a text, including the question.
        words: The numbers of different words in a text.
        each: The number of texts for every length and number of words.
        source: A user's own haystacks: a folder of `.txt` files, or one such file.
    """

    name: str = "frequent-words"
    default_models: Sequence[str] = ("zoo:retrieval-mamba2",)
    metrics: Sequence[Metric] = (
        find_metric("span_mass").titled("share of the scores' size on the tellings of the answer"),
        find_metric("span_rank").titled("rank of the best of these tellings"),
        find_metric("accuracy").titled("share of texts of which the model gives the most frequent word"),
    )
    main: Sequence[MainTable] = (MainTable(("span_mass", "span_rank", "accuracy")),)
    lengths: tuple[int, ...] = (128, 256, 512)
    words: tuple[int, ...] = (2, 4)
    each: int = 15
    source: str | None = None

    def samples(self, limit: int | None) -> Sequence[Sample]:
        """Return the texts' haystacks and words, the most frequent word first; lengths take turns."""
        texts = haystacks(self.source, max(self.lengths))
        generator = torch.Generator().manual_seed(1)

        def draw(below: int) -> int:
            return int(torch.randint(below, (1,), generator=generator))

        samples = []
        for number in range(self.each):
            for length in self.lengths:
                for count in self.words:
                    keys = torch.randperm(len(KEYS), generator=generator)[:count].tolist()
                    told = [key for key, times in zip(keys, COUNTS[count], strict=True) for _ in range(times)]
                    last = COUNTS[count][0] + draw(len(told) - COUNTS[count][0])
                    rest = [key for place, key in enumerate(told) if place != last]
                    order = torch.randperm(len(rest), generator=generator).tolist()
                    data = {
                        "hay": drawn_text(texts, draw, length),
                        "length": length,
                        "words": [KEYS[key] for key in keys],
                        "told": [KEYS[key] for key in [*(rest[place] for place in order), told[last]]],
                        "places": torch.rand(len(told), generator=generator, dtype=torch.float64).sort()[0].tolist(),
                    }
                    samples.append(Sample(f"{length}-{count}-{number}", data))
        return samples[:limit]

    def data_hash(self) -> str:
        """Return a hash of all texts."""
        return hashlib.sha256(repr([sample.data for sample in self.samples(None)]).encode()).hexdigest()

    def check(self, loaded: Any, methods: Sequence[str]) -> None:
        """Raise if a method cannot read the model, or its tokenizer has no single token for a word."""
        model, tokenizer = loaded
        check_supported(model, methods)
        if tokenizer is None:
            raise InputError("frequent-words needs a model with a tokenizer")
        for word in KEYS:
            self._token(tokenizer, word)

    def evaluate(self, loaded: Any, sample: Sample, methods: Sequence[str], seed: int) -> list[Row]:
        """Return mass and rank of the answer's mentions, for every method, each layer and the whole model.

        `extra` has the number of tokens and of different words in the text, and the answer.
        """
        model, tokenizer = loaded
        ids, told = self.text(tokenizer, sample)
        inputs: dict[str, Any] = {"input_ids": torch.tensor([ids], device=model.device)}
        trace = capture(model, **inputs)
        last = len(ids) - 1
        logits = logits_of(trace.outputs)[0, last]
        words = sample.data["words"]
        tokens = [self._token(tokenizer, word) for word in words]
        answer = words[int(logits[tokens].argmax())]
        right = float(int(logits.argmax()) == tokens[0])
        readout = readouts.token(last, self._token(tokenizer, answer))
        gold = torch.zeros(1, len(ids), dtype=torch.bool)
        gold[0, [place for place, word in zip(told, sample.data["told"], strict=True) if word == answer]] = True
        before = torch.arange(len(ids)) <= last - len(text_ids(tokenizer, CUE))
        about = {"length": sample.data["length"], "words": len(words), "answer": answer}
        rows = [Row(name, "accuracy", right, extra=about) for name in methods]
        for scored in score_rows(model, inputs, methods, [readout], trace):
            sizes = scored.rows.abs().cpu()
            for name, metric in (("span_mass", span_mass), ("span_rank", span_rank)):
                rows.append(Row(scored.method, name, float(metric(sizes, gold, before)), scored.layer, about))
        return rows

    def text(self, tokenizer: Any, sample: Sample) -> tuple[list[int], list[int]]:
        """Return a sample's token ids, and the position of each mention, in order."""
        data = sample.data
        cue = text_ids(tokenizer, CUE)
        stop = text_ids(tokenizer, " a.")[-1]
        sentences = [[*cue, self._token(tokenizer, word), stop] for word in data["told"]]
        room = data["length"] - sum(map(len, sentences)) - len(cue)
        ids, begins = hidden(tokenizer, data["hay"], room, sentences, data["places"])
        return ids + cue, [begin + len(cue) for begin in begins]

    def _token(self, tokenizer: Any, word: str) -> int:
        tokens = text_ids(tokenizer, f" {word}")
        if len(tokens) != 1:
            raise InputError(f"the word {shown(word)} must be one token in this model's vocabulary for frequent-words")
        return int(tokens[0])
