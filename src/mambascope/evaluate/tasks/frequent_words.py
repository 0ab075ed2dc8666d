"""Frequent words: a few words told many times in a novel's text. Which tellings does the model's answer rest on?

After RULER's extraction of frequent words (Hsieh et al., arXiv 2404.06654), put so that a language model of any size
can be asked: sentences "The word is garden." stand between those of a held-out novel, twelve of them, with two words
(eight times and four) or four (six, three, two, one), and the text ends in "The word is". Explained is the told word
that the model finds likeliest; the span is all its tellings, the candidates everything before the question. Reported
are the share of the scores' size on the span and the rank of its best token, beside the model's own accuracy: whether
the likeliest of *all* tokens is the word told most often. The last word told is never that one, so that to repeat what
came last is wrong every time.
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
from mambascope.evaluate.metrics.span_mass import span_mass, span_rank
from mambascope.evaluate.score_rows import score_rows
from mambascope.evaluate.supported import check_supported
from mambascope.evaluate.task import MainTable, Metric, Row, Sample
from mambascope.evaluate.tasks.retrieval import KEYS
from mambascope.inputs.tokens import text_ids
from mambascope.readouts import logits_of
from mambascope.trace import capture

CUE = " The word is"
#: How often each of two or four words is told.
COUNTS = {2: (8, 4), 4: (6, 3, 2, 1)}


@dataclass(frozen=True)
class FrequentWords:
    """The task.

    Attributes:
        lengths: Tokens of a text, question included.
        words: Numbers of different words told in a text.
        each: Texts of every length and number of words.
        source: Haystacks of the user's own: a folder of `.txt` files, or one such file.
    """

    name: str = "frequent-words"
    default_models: Sequence[str] = ("zoo:retrieval-mamba2",)
    metrics: Sequence[Metric] = (
        Metric("span_mass", title="share of the scores' size on the tellings of the answer"),
        Metric("span_rank", higher_is_better=False, title="rank of the best of these tellings"),
        Metric("accuracy", title="share of texts of which the model gives the most frequent word"),
    )
    main: Sequence[MainTable] = (MainTable(("span_mass", "span_rank", "accuracy")),)
    lengths: tuple[int, ...] = (128, 256, 512)
    words: tuple[int, ...] = (2, 4)
    each: int = 15
    source: str | None = None

    def samples(self, limit: int | None) -> Sequence[Sample]:
        """Return texts' haystacks and the words told in them, the most frequent first; lengths take turns."""
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
        """Return mass and rank of the answer's tellings for every method, layer and the model.

        Each row says in `extra` how many tokens and different words its text has, and the answer.
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
        """Return a sample's token ids, and the place of each telling's word, in their order."""
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
            raise InputError(f"the word {word!r} must be one token in this model's vocabulary for frequent-words")
        return int(tokens[0])
