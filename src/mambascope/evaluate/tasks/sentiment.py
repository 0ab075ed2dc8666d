"""Sentiment: which words make a model find a film good or bad? Take them away and see.

A language model reads a sentence of a review and " It was"; the likelier of " good" and " bad" is its answer, and the
number explained is the lead of the answer's logit. Tokens of the sentence are removed (flipping), or put into nothing
(insertion), most relevant first and least relevant first (Samek et al. 2017, arXiv 1509.06321); what differs between
the two curves is how well the scores knew: ΔA_F and ΔA_I of Jafari et al. (arXiv 2406.07592). Removed tokens are left
out and the text closes up, so insertion goes by the texts of flipping backwards: ΔA_I differs from ΔA_F by no more than
rounding and ties. Only scores of the whole model are judged. Scores keep their sign where they have one.

`sentiment-long` asks about whole reviews, of which the model reads the last 448 tokens: reviews tend to end in a
verdict. The project's own model has learnt from pieces of 112 tokens; it judges the last 448 as well as the whole, and
those of 112 worse (zoo:sentiment-mamba).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mambascope import readouts
from mambascope.errors import InputError
from mambascope.evaluate.data.film_reviews import test_reviews, test_sentences
from mambascope.evaluate.data.folder import data_file
from mambascope.evaluate.data.labelled_texts import labelled_texts
from mambascope.evaluate.metrics.perturbation_curve import MODES, perturbation_curves
from mambascope.evaluate.score_rows import score_rows
from mambascope.evaluate.shortened_texts import ShortenedTexts
from mambascope.evaluate.supported import check_supported
from mambascope.evaluate.task import NO_LAYER, MainTable, Metric, Row, Sample
from mambascope.inputs.tokens import text_ids
from mambascope.readouts import logits_of
from mambascope.trace import capture

CUE, LABELS = " It was", (" bad", " good")
#: Texts given to the curves' readout at a time: all of a mode's two curves, to be put side by side by length.
CURVES = 22
TEXTS = {
    "sentences": lambda: test_sentences(data_file("sent_nltk_pang_lee", "sentence_polarity.zip")),
    "reviews": lambda: test_reviews(data_file("sent_nltk_pang_lee", "movie_reviews.zip")),
}


@dataclass(frozen=True)
class Sentiment:
    """The task.

    Attributes:
        texts: What it asks about: held-out `sentences` of reviews, or whole held-out `reviews`.
        reach: How many of a text's last tokens the model reads; None for all.
        source: Texts and labels of the user's own instead (`data/labelled_texts.py`): a `.jsonl`, `.csv`, `.tsv` or
            `.parquet` file, or a hub id `name[:config]@split`. Sentences of MR and SST are those that the project's own
            model has learnt from, most of them.
    """

    name: str = "sentiment"
    texts: str = "sentences"
    reach: int | None = None
    source: str | None = None
    default_models: Sequence[str] = ("zoo:sentiment-mamba",)
    metrics: Sequence[Metric] = (
        Metric("flipping_gap", title="area of the answer's lead, least relevant first less most relevant first"),
        Metric("insertion_gap", title="the same as tokens are put in, most relevant first less least"),
        Metric("flipping_area_most_first", False, "area under the answer's lead as tokens go, most relevant first"),
        Metric("flipping_area_least_first", title="the same, least relevant first"),
        Metric("insertion_area_most_first", title="area under that lead as tokens are put in, most relevant first"),
        Metric("insertion_area_least_first", False, "the same, least relevant first"),
        Metric("accuracy", title="share of texts that the model judges right"),
    )
    main: Sequence[MainTable] = (
        MainTable(("flipping_gap", "flipping_area_most_first", "flipping_area_least_first", "accuracy")),
    )

    def samples(self, limit: int | None) -> Sequence[Sample]:
        """Return the texts, in an order that a hash of them gives, so that a limit has both kinds."""
        found = TEXTS[self.texts]() if self.source is None else labelled_texts(self.source)
        found.sort(key=lambda one: hashlib.sha256(one[0].encode()).hexdigest())
        return [Sample(str(k), {"text": text, "good": good}) for k, (text, good) in enumerate(found[:limit])]

    def data_hash(self) -> str:
        """Return a hash of all texts and their labels."""
        return hashlib.sha256(repr([sample.data for sample in self.samples(None)]).encode()).hexdigest()

    def check(self, loaded: Any, methods: Sequence[str]) -> None:
        """Raise if a method cannot read the model, or the answers are no single tokens."""
        model, tokenizer = loaded
        check_supported(model, methods)
        self._labels(tokenizer)

    def evaluate(self, loaded: Any, sample: Sample, methods: Sequence[str], seed: int) -> list[Row]:
        """Return the areas and gaps of both curves for every method."""
        model, tokenizer = loaded
        labels = self._labels(tokenizer)
        text = text_ids(tokenizer, " " + sample.data["text"])
        text = text if self.reach is None else text[-self.reach :]
        cue = text_ids(tokenizer, CUE)
        ids = torch.tensor([*text, *cue], device=model.device)
        inputs: dict[str, Any] = {"input_ids": ids[None]}
        trace = capture(model, **inputs)
        last = len(ids) - 1
        lead = logits_of(trace.outputs)[0, last, labels]
        answer = int(lead.argmax())
        readout = readouts.token(last, labels[answer], labels[1 - answer])
        texts = ShortenedTexts(model, ids, labels[answer], labels[1 - answer])
        candidates = torch.arange(len(ids)) < len(text)
        rows = [Row(name, "accuracy", float(bool(answer) == sample.data["good"])) for name in methods]
        for scored in score_rows(model, inputs, methods, [readout], trace):
            if scored.layer != NO_LAYER:
                continue
            scores = scored.rows[0].float().cpu()
            for mode in MODES:
                curves = perturbation_curves(scores, texts.lead, mode, candidates=candidates, batch=CURVES)
                rows += [Row(scored.method, name, value) for name, value in curves.rows().items()]
        return rows

    def _labels(self, tokenizer: Any) -> list[int]:
        if tokenizer is None:
            raise InputError("sentiment needs a model with a tokenizer")
        tokens = [text_ids(tokenizer, label) for label in LABELS]
        if any(len(one) != 1 for one in tokens):
            raise InputError(f"the answers {LABELS} must be one token each in this model's vocabulary")
        return [one[0] for one in tokens]
