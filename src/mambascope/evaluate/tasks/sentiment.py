"""Sentiment: which words make a model find a film good or bad? Take them away and see.

A language model reads a sentence of a review and " It was"; the likelier of " good" and " bad" is its answer, and the
number explained is the lead of the answer's logit. Tokens of the sentence are removed (flipping), or put into nothing
(insertion), most relevant first and least relevant first (Samek et al. 2017, arXiv 1509.06321); what differs between
the two curves is how well the scores knew: ΔA_F and ΔA_I of Jafari et al. (arXiv 2406.07592). Removed tokens are left
out and the text closes up. Only scores of the whole model are judged. Scores keep their sign where they have one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mambascope.errors import InputError
from mambascope.evaluate.data.film_reviews import test_sentences
from mambascope.evaluate.data.folder import data_file
from mambascope.evaluate.metrics.perturbation_curve import MODES, perturbation_curves
from mambascope.evaluate.score_rows import score_rows
from mambascope.evaluate.supported import check_supported
from mambascope.evaluate.task import NO_LAYER, Metric, Row, Sample
from mambascope.methods.readout import logits_of, token_readout
from mambascope.trace import capture
from mambascope.trace.intervene import intervening
from mambascope.trace.running import call

CUE, LABELS = " It was", (" bad", " good")


@dataclass(frozen=True)
class Sentiment:
    """The task."""

    name: str = "sentiment"
    default_models: Sequence[str] = ("zoo/sentiment-mamba",)
    metrics: Sequence[Metric] = (
        Metric("flipping_gap", title="ΔA_F: area of the answer's lead, least relevant first less most relevant first"),
        Metric("insertion_gap", title="ΔA_I: the same as tokens are put in, most relevant first less least"),
        Metric("flipping_area_most_first", higher_is_better=False),
        Metric("flipping_area_least_first"),
        Metric("insertion_area_most_first"),
        Metric("insertion_area_least_first", higher_is_better=False),
        Metric("accuracy", title="share of sentences that the model judges right"),
    )

    def samples(self, limit: int | None) -> Sequence[Sample]:
        """Return the held-out sentences, in an order that a hash of them gives, so that a limit has both kinds."""
        found = test_sentences(data_file("sent_nltk_pang_lee", "sentence_polarity.zip"))
        found.sort(key=lambda one: hashlib.sha256(one[0].encode()).hexdigest())
        return [Sample(str(k), {"text": text, "good": good}) for k, (text, good) in enumerate(found[:limit])]

    def data_hash(self) -> str:
        """Return a hash of all sentences and their labels."""
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
        text = tokenizer(" " + sample.data["text"], add_special_tokens=False)["input_ids"]
        cue = tokenizer(CUE, add_special_tokens=False)["input_ids"]
        ids = torch.tensor([*text, *cue], device=model.device)
        inputs: dict[str, Any] = {"input_ids": ids[None]}
        trace = capture(model, **inputs)
        last = len(ids) - 1
        lead = logits_of(trace.outputs)[0, last, labels]
        answer = int(lead.argmax())
        readout = token_readout(last, labels[answer], labels[1 - answer])

        def kept(which: Bool[Tensor, "b n"]) -> Float[Tensor, " b"]:
            """Texts of several lengths stand side by side, padded behind, where a causal model does not look."""
            texts = [ids[row.to(ids.device)] for row in which]
            batch = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
            with torch.no_grad(), intervening(model, None):
                logits = logits_of(call(model, {"input_ids": batch}))
            ends = torch.tensor([len(one) - 1 for one in texts], device=ids.device)
            final = logits[torch.arange(len(texts), device=ids.device), ends]
            return (final[:, labels[answer]] - final[:, labels[1 - answer]]).float().cpu()

        candidates = torch.arange(len(ids)) < len(text)
        rows = [Row(name, "accuracy", float(bool(answer) == sample.data["good"])) for name in methods]
        for scored in score_rows(model, inputs, methods, [last], [readout], trace):
            if scored.layer != NO_LAYER:
                continue
            for mode in MODES:
                curves = perturbation_curves(scored.rows[0].float().cpu(), kept, mode, candidates=candidates)
                rows += [Row(scored.method, name, value) for name, value in curves.rows().items()]
        return rows

    def _labels(self, tokenizer: Any) -> list[int]:
        if tokenizer is None:
            raise InputError("sentiment needs a model with a tokenizer")
        tokens = [tokenizer(label, add_special_tokens=False)["input_ids"] for label in LABELS]
        if any(len(one) != 1 for one in tokens):
            raise InputError(f"the answers {LABELS} must be one token each in this model's vocabulary")
        return [one[0] for one in tokens]
