"""Sentiment: which words make a model find a film good or bad? Remove them and see whether its answer changes.

A language model reads a sentence of a review and " It was"; the likelier of " good" and " bad" is its answer, and the
number explained is the lead of that answer's logit over the other. Tokens of the sentence are removed (flipping), or
added to an empty text (insertion), most relevant first and least relevant first (Samek et al. 2017, arXiv 1509.06321);
the area between the two curves measures how good the scores are: ΔA_F and ΔA_I of Jafari et al. (arXiv 2406.07592).
Removed tokens leave no gap, so insertion passes through the same texts as flipping, backwards: ΔA_I differs from ΔA_F
only by rounding and ties. Only scores of the whole model are evaluated. Signed scores keep their sign.

`sentiment-long` uses whole reviews, of which the model reads the last 448 tokens, since reviews tend to end with a
verdict. The project's own model was trained on pieces of 112 tokens; its answers from the last 448 tokens are as good
as from whole reviews, those from the last 112 are worse (zoo:sentiment-mamba).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mambascope import readouts
from mambascope.errors import InputError
from mambascope.evaluate.data.folder import data_file
from mambascope.evaluate.data.labelled_texts import labelled_texts, test_reviews, test_sentences
from mambascope.evaluate.metrics.perturbation_curve import MODES, perturbation_curves
from mambascope.evaluate.metrics.registry import Metric, find_metric
from mambascope.evaluate.score_rows import score_rows
from mambascope.evaluate.shortened_texts import ShortenedTexts
from mambascope.evaluate.task import NO_LAYER, MainTable, Row, Sample
from mambascope.evaluate.variants import check_supported
from mambascope.inputs.tokens import text_ids
from mambascope.readouts import logits_of
from mambascope.trace import capture

CUE, LABELS = " It was", (" bad", " good")
#: How many texts the curves' readout gets at a time: all of a mode's two curves, to be batched by length.
CURVES = 22
TEXTS = {
    "sentences": lambda: test_sentences(data_file("sent_nltk_pang_lee", "sentence_polarity.zip")),
    "reviews": lambda: test_reviews(data_file("sent_nltk_pang_lee", "movie_reviews.zip")),
}


@dataclass(frozen=True)
class Sentiment:
    """The sentiment task.

    Attributes:
        texts: The texts: held-out `sentences` of reviews, or whole held-out `reviews`.
        reach: How many of a text's last tokens the model reads; None for all.
        source: A user's own texts and labels instead (`data/labelled_texts.py`): a `.jsonl`, `.csv`, `.tsv` or
            `.parquet` file, or a hub id `name[:config]@split`. The project's own model was trained on most sentences of
            MR and SST.
    """

    name: str = "sentiment"
    texts: str = "sentences"
    reach: int | None = None
    source: str | None = None
    default_models: Sequence[str] = ("zoo:sentiment-mamba",)
    metrics: Sequence[Metric] = (
        *(
            find_metric(name).titled(title)
            for name, title in (
                ("flipping_gap", "area of the answer's lead, least relevant first less most relevant first"),
                ("insertion_gap", "the same as tokens are put in, most relevant first less least"),
                ("flipping_area_most_first", "area under the answer's lead as tokens go, most relevant first"),
                ("flipping_area_least_first", "the same, least relevant first"),
                ("insertion_area_most_first", "area under that lead as tokens are put in, most relevant first"),
                ("insertion_area_least_first", "the same, least relevant first"),
                ("accuracy", "share of texts that the model judges right"),
            )
        ),
    )
    main: Sequence[MainTable] = (
        MainTable(("flipping_gap", "flipping_area_most_first", "flipping_area_least_first", "accuracy")),
    )

    def samples(self, limit: int | None) -> Sequence[Sample]:
        """Return the texts in the order of a hash, so that a limit keeps both good and bad ones."""
        found = TEXTS[self.texts]() if self.source is None else labelled_texts(self.source)
        found.sort(key=lambda one: hashlib.sha256(one[0].encode()).hexdigest())
        return [Sample(str(k), {"text": text, "good": good}) for k, (text, good) in enumerate(found[:limit])]

    def data_hash(self) -> str:
        """Return a hash of all texts and their labels."""
        return hashlib.sha256(repr([sample.data for sample in self.samples(None)]).encode()).hexdigest()

    def check(self, loaded: Any, methods: Sequence[str]) -> None:
        """Raise if a method cannot read the model, or the answers are not single tokens."""
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
