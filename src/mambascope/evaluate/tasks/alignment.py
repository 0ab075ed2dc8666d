"""Word alignment: do the scores of a translation model link each word to the word that it translates?

A decoder-only translation model reads `source <sep> target` (teacher-forced). The row of a target token, restricted to
the source, is merged from pieces to words, and each target word is linked to its best source word (LaTIM, arXiv
2502.15612, section 5.2); the links are compared with people's links by AER (Och & Ney 2003). There are two readings of
a token: `predicts` takes the row of the position before it, where it is predicted; `stands` takes the row of its own
position, where the model already knows the word (Chen et al., arXiv 2004.14837). Both are reported for every layer and
for the whole model; methods that explain a logit have only the first. Choose layers on the development pairs and report
on the others.

The English-French pairs are the Hansards, with development pairs; the German-English ones are 100 pairs of Europarl
with sure links only (Bicici 2011), on which nothing is chosen. One of their 1,233 links points past the end of its
sentence and is left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mambascope import readouts
from mambascope.errors import InputError
from mambascope.evaluate.data.alignment_gold import LinkedPair, read_hansards
from mambascope.evaluate.data.folder import data_file
from mambascope.evaluate.data.pharaoh_gold import read_bicici, read_linked_pairs
from mambascope.evaluate.metrics.alignment_error_rate import alignment_counts, link_matrix
from mambascope.evaluate.metrics.link_extraction import extract_links
from mambascope.evaluate.metrics.word_scores import word_scores
from mambascope.evaluate.score_rows import score_rows
from mambascope.evaluate.task import MainTable, Row, Sample
from mambascope.evaluate.variants import check_supported, find_variant
from mambascope.inputs.tokens import text_ids
from mambascope.numbering import shown
from mambascope.trace import capture

READINGS = ("predicts", "stands")
ABOUT = ("scores of the position before each word, which predicts it", "scores of the word's own position")
RULES = ("target", "intersection")
#: Sets of pairs in the data folder, linked by people.
GOLD: dict[str, Callable[[], list[LinkedPair]]] = {
    "hansards": lambda: _hansards("test", "test"),
    "hansards-dev": lambda: _hansards("dev", "trial"),
    "bicici": lambda: read_bicici(data_file("align_deen_bicici", "German-English_WordAlignment.zip")),
}
#: The metrics of each reading and rule.
RESULTS = ("aer", "alignment_precision", "alignment_recall")


@dataclass(frozen=True)
class Alignment:
    """The word alignment task.

    Attributes:
        gold: The pairs in the data folder: `hansards` (447, English-French), `hansards-dev` (37), or `bicici` (100,
            German-English).
        source: A user's own pairs instead: the common path of three files without their endings, `.src`, `.tgt` and
            `.links` (`data/pharaoh_gold.py`) or `.e`, `.f` and `.align` (`data/alignment_gold.py`).
    """

    name: str = "alignment"
    gold: str = "hansards"
    source: str | None = None
    default_models: Sequence[str] = ("zoo:translation-en-fr-mamba", "zoo:translation-en-fr-mamba2")
    metrics: Sequence[str] = tuple(
        f"{name}:{reading}-{rule}" for reading in READINGS for rule in RULES for name in RESULTS
    )
    main: Sequence[MainTable] = tuple(
        MainTable(tuple(f"{name}:{reading}-target" for name in RESULTS), f"{reading}: {about}")
        for reading, about in zip(READINGS, ABOUT, strict=True)
    )

    def samples(self, limit: int | None) -> Sequence[Sample]:
        """Return the pairs with their links."""
        return [
            Sample(
                f"{pair.number}",
                {
                    "source": list(pair.source),
                    "target": list(pair.target),
                    "sure": sorted(map(list, pair.sure)),
                    "possible": sorted(map(list, pair.possible)),
                }
                | ({"left_out": list(pair.left_out)} if pair.left_out else {}),
            )
            for pair in self._pairs()[:limit]
        ]

    def data_hash(self) -> str:
        """Return a hash of all pairs and links."""
        digest = hashlib.sha256()
        for pair in self._pairs():
            digest.update(repr((pair.source, pair.target, sorted(pair.sure), sorted(pair.possible))).encode())
        return digest.hexdigest()

    def check(self, loaded: Any, methods: Sequence[str]) -> None:
        """Raise if a method cannot read the model, or its tokenizer has no separator."""
        model, tokenizer = loaded
        check_supported(model, methods)
        if tokenizer is None or tokenizer.sep_token_id is None:
            raise InputError("alignment needs a translation model and its tokenizer, which read `source <sep> target`")

    def evaluate(self, loaded: Any, sample: Sample, methods: Sequence[str], seed: int) -> list[Row]:
        """Return the counts for AER, for every method, layer, reading and rule."""
        model, tokenizer = loaded
        source, source_words = pieces(tokenizer, sample.data["source"])
        target, target_words = pieces(tokenizer, sample.data["target"])
        ids = [*source, tokenizer.sep_token_id, *target]
        inputs: dict[str, Any] = {"input_ids": torch.tensor([ids], device=model.device)}
        trace = capture(model, **inputs)
        shape = len(sample.data["target"]), len(sample.data["source"])
        sure, possible = (link_matrix(map(tuple, sample.data[kind]), *shape) for kind in ("sure", "possible"))
        rows: list[Row] = []
        asking = [name for name in methods if find_variant(name)[0].asks]
        others = [name for name in methods if name not in asking]
        # methods that explain a token have one reading; the maps of the others are computed once for both readings
        for names, readings in ((others, READINGS), (asking, ("predicts",))):
            numbers = [
                readouts.token(len(source) + 1 + k - (reading == "predicts"), token)
                for reading in readings
                for k, token in enumerate(target)
            ]
            for scored in score_rows(model, inputs, names, numbers, trace):
                sizes = scored.rows.abs().cpu()[:, : len(source)].double()
                for reading, read in zip(readings, sizes.split(len(target)), strict=True):
                    words = word_scores(read, target_words, source_words)
                    for rule in RULES:
                        counts = alignment_counts(extract_links(words, rule), sure, possible)
                        rows += [
                            Row(scored.method, metric, float(value), scored.layer)
                            for metric, value in counts.rows(f"{reading}-{rule}").items()
                        ]
        return rows

    def _pairs(self) -> list[LinkedPair]:
        return GOLD[self.gold]() if self.source is None else read_linked_pairs(Path(self.source))


def _hansards(folder: str, stem: str) -> list[LinkedPair]:
    return read_hansards(data_file("align_enfr_hansards", folder, f"{stem}.align").with_suffix(""))


def pieces(tokenizer: Any, words: Sequence[str]) -> tuple[list[int], list[int]]:
    """Return the token ids of words, each word encoded by itself, and the number of each token's word."""
    ids, numbers = [], []
    for number, word in enumerate(words):
        own = text_ids(tokenizer, word)
        if not own:
            raise InputError(f"the model's tokenizer has no token for the word {shown(word)}")
        ids += own
        numbers += [number] * len(own)
    return ids, numbers
