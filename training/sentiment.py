"""Train a model to judge films: `python -m training.sentiment`, from the bundled tiny-mamba.

A row is `SENTENCE It was` and then the single token ` good` or ` bad`, so that a stock language model classifies: the
likelier of the two tokens after the prompt is the answer. The loss is on that token, and lightly on the sentence.
"""

from __future__ import annotations

import argparse
import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from training.language.corpus import data_folder
from training.running.allocator import keep_pages
from training.running.bundled_start import bundled
from training.running.loop import Batch, Reporting, Settings, train
from training.running.scans import fast_scans
from training.translation.data import EncodedPairs, PairBatches, padded

NAME = "sentiment-mamba"
CUE, LABELS = " It was", (" bad", " good")
#: Shares of the sentences and of the long reviews that are held out for choosing and for the final figures.
VALIDATION_SHARE, TEST_SHARE = 0.05, 0.10
#: How often the sentences are seen for each time the long reviews are.
SENTENCE_TIMES = 3
#: Tokens of the pieces of a long review, each of which gets the whole review's label.
PIECE = 112
#: Tokens of the ends of reviews that are measured.
MEASURED_ENDS = (112, 224, 448)
LENGTHS = (16, 24, 32, 40, 48, 64, 80, 116)
#: Weight of a sentence's own token in the loss, beside 1 for the label.
TEXT_WEIGHT = 0.03


@dataclass(frozen=True)
class Review:
    """A sentence or a whole review, and whether it speaks well of the film."""

    text: str
    good: bool


def read_sentences(data: Path) -> list[Review]:
    """Return the 10,662 sentences of Pang and Lee's sentence polarity data, the same sentence only once."""
    reviews = {}
    with zipfile.ZipFile(data / "sent_nltk_pang_lee" / "sentence_polarity.zip") as archive:
        for good, name in ((False, "neg"), (True, "pos")):
            lines = archive.read(f"sentence_polarity/rt-polarity.{name}").decode("utf-8").split("\n")
            reviews |= {" ".join(line.split()): good for line in lines if line.strip()}
    return [Review(text, good) for text, good in reviews.items()]


def read_reviews(data: Path) -> list[Review]:
    """Return Pang and Lee's 2,000 whole reviews."""
    with zipfile.ZipFile(data / "sent_nltk_pang_lee" / "movie_reviews.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".txt") and "/cv" in name)
        return [Review(" ".join(archive.read(n).decode("utf-8", "replace").split()), "/pos/" in n) for n in names]


def split(reviews: list[Review]) -> dict[str, list[Review]]:
    """Return the "training", "validation" and "test" reviews; a review's place depends on its text alone."""
    parts: dict[str, list[Review]] = {"training": [], "validation": [], "test": []}
    for review in reviews:
        draw = int.from_bytes(hashlib.sha256(review.text.encode()).digest()[:8], "big") / 2**64
        held = "validation" if draw < VALIDATION_SHARE else "test"
        parts[held if draw < VALIDATION_SHARE + TEST_SHARE else "training"].append(review)
    return parts


def encoded(
    reviews: list[Review], tokenizer: PreTrainedTokenizerFast, piece: int | None = None, last: int | None = None
) -> EncodedPairs:
    """Return the rows of reviews; the target is the label's token.

    Args:
        reviews: The reviews.
        tokenizer: The model's.
        piece: Cut reviews into pieces of so many tokens, each with its review's label; None does not cut.
        last: Keep so many of a review's last tokens; None keeps all.
    """
    cue = tokenizer.encode(CUE)
    labels = [tokenizer.encode(label)[0] for label in LABELS]
    rows = []
    for review in reviews:
        tokens = tokenizer.encode(" " + review.text)
        tokens = tokens[-last:] if last else tokens
        starts = range(0, len(tokens), piece) if piece else (0,)
        rows += [[*tokens[s : s + piece if piece else None], *cue, labels[review.good]] for s in starts]
    starts = np.cumsum([0, *map(len, rows)])
    tokens = np.concatenate([np.array(row, np.uint16) for row in rows])
    return EncodedPairs(tokens, starts, np.diff(starts) - 1)


class Sentiment:
    """Batches of labelled sentences and pieces of reviews; the share of held-out sentences judged right."""

    def __init__(self, data: Path, tokenizer: PreTrainedTokenizerFast, tokens: int, seed: int) -> None:
        sentences, reviews = split(read_sentences(data)), split(read_reviews(data))
        pieces = encoded(reviews["training"], tokenizer, PIECE)
        one = encoded(sentences["training"], tokenizer)
        self.batches = PairBatches(joined([one] * SENTENCE_TIMES + [pieces]), tokens, seed, LENGTHS)
        self.labels = [tokenizer.encode(label)[0] for label in LABELS]
        self.held_out = encoded(sentences["validation"], tokenizer)

    def step(self, step: int) -> Batch:
        batch = self.batches.step(step)
        text = (batch.rows[:, 1:] != 0) & ~batch.learnt
        return Batch(batch.rows, batch.learnt.float() + TEXT_WEIGHT * text)

    def validate(self, model: PreTrainedModel) -> dict[str, float]:
        return {"accuracy": accuracy(model, self.held_out, self.labels)}


def joined(parts: list[EncodedPairs]) -> EncodedPairs:
    """Return rows after rows."""
    lengths = np.concatenate([part.lengths for part in parts])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return EncodedPairs(
        np.concatenate([part.tokens for part in parts]), starts, np.concatenate([part.sources for part in parts])
    )


@torch.no_grad()
def accuracy(model: PreTrainedModel, rows: EncodedPairs, labels: list[int], tokens: int = 8192) -> float:
    """Return the share of rows whose own label is the likelier of the two."""
    order, first, right = rows.lengths.argsort(kind="stable"), 0, 0
    while first < len(order):
        chosen = order[first : first + max(1, tokens // int(rows.lengths[order[min(first + 64, len(order) - 1)]]))]
        batch = padded(rows, chosen, int(rows.lengths[chosen].max()))
        with fast_scans():
            hidden = model.backbone(batch.rows[:, :-1], use_cache=False)[0][batch.learnt]
        guessed = model.lm_head(hidden)[:, labels].argmax(-1)
        right += int((torch.tensor(labels)[guessed] == batch.rows[:, 1:][batch.learnt]).sum())
        first += len(chosen)
    return right / len(order)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--decay", type=int, default=300)
    parser.add_argument("--tokens", type=int, default=2048, help="tokens to a step")
    parser.add_argument("--peak", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path, help="the data folder (MAMBASCOPE_DATA)")
    parser.add_argument("--out", type=Path, default=Path("runs") / NAME)
    parser.add_argument("--eager", action="store_true", help="do not compile the model")
    options = parser.parse_args()
    keep_pages("training.sentiment")
    torch.set_num_threads(options.threads)
    model, tokenizer = bundled("tiny-mamba")
    settings = Settings(
        task=NAME,
        architecture={"bundled": "tiny-mamba"},
        steps=options.steps,
        decay=options.decay,
        peak=options.peak,
        seed=options.seed,
        batches={"tokens": options.tokens},
    )
    task = Sentiment(data_folder(options.data), tokenizer, options.tokens, options.seed)
    train(settings, model, task, options.out, Reporting(validation_steps=200), not options.eager)


if __name__ == "__main__":
    main()
