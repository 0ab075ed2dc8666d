"""Train a model to find needles in novels: `python -m training.retrieval`, from the bundled tiny-mamba2.

A row is text of the novels with one to six sentences "The secret of the doctor is 47192." put between its sentences,
and at its end the same sentences again, in another order; the loss is on the digits of the latter. To tell several
secrets apart is learnt where they stand close: rows are short at first, with little of the novel in them, and grow.
Some rows have "The word is garden." in them instead, several times and of several words, and end in the same with the
word that was told most often; the loss is on that word.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from training.language.corpus import data_folder, read_novels, split_novels
from training.language.tokens import encode
from training.running.allocator import keep_pages
from training.running.bundled_start import bundled
from training.running.loop import Batch, Reporting, Settings, train
from training.running.scans import fast_scans

#: What a secret may be of: words that are one token each.
KEYS = [
    "doctor",
    "brother",
    "child",
    "church",
    "daughter",
    "father",
    "friend",
    "garden",
    "gentleman",
    "horse",
    "house",
    "husband",
    "letter",
    "master",
    "mother",
    "school",
    "sister",
    "table",
    "window",
    "woman",
    "dinner",
    "country",
    "family",
    "money",
]
DIGITS = 5
#: How likely it is that a row has one needle, two, and so on.
NEEDLES = (0.12, 0.2, 0.2, 0.24, 0.12, 0.12)
#: Tokens of the longest rows at first and in the end.
SHORT, LONG = 128, 512
#: Least tokens of a novel in a row.
LEAST_HAY = 8
#: The share of steps with rows of told words once rows grow, and how often the words of such a row are told.
WORD_SHARE, TOLD = 0.1, ((8, 4), (6, 3, 2, 1), (3, 2, 1), (5, 2, 2))
#: Lengths and numbers of needles that are measured; the last length is beyond what was trained on.
MEASURED_LENGTHS, MEASURED_NEEDLES = (128, 256, 512, 1024), (1, 2, 4)
NAME = "retrieval-mamba2"


@dataclass(frozen=True)
class Needles:
    """Rows of (b, L) tokens; needle k of row b holds its digits at `values[b, k]`, its question the same at `asked`."""

    rows: NDArray[np.int64]
    #: Places of the digits in the needles, and of the same digits after the questions, (b, k, DIGITS).
    values: NDArray[np.int64]
    asked: NDArray[np.int64]

    @property
    def batch(self) -> Batch:
        learnt = np.zeros((len(self.rows), self.rows.shape[1] - 1), bool)
        for row, places in zip(learnt, self.asked, strict=True):
            row[places.ravel() - 1] = True
        return Batch(torch.from_numpy(self.rows), torch.from_numpy(learnt))


class Haystack:
    """Rows with needles in a text of the novels."""

    def __init__(self, text: NDArray[np.uint16], tokenizer: PreTrainedTokenizerFast) -> None:
        self.text = text
        keys = [tokenizer.encode(f" The secret of the {key} is 0.") for key in KEYS]
        assert len({len(ids) for ids in keys}) == 1, "a key is more than one token"
        self.sentences = np.array(keys)
        self.digits = np.array([tokenizer.encode(f" 0{digit}")[-1] for digit in range(10)])
        self.stop = tokenizer.encode(" a.")[-1]
        self.told = np.array([tokenizer.encode(f" The word is {key}.") for key in KEYS])

    @property
    def sentence_size(self) -> int:
        """How many tokens a needle has."""
        return int(self.sentences.shape[1]) + DIGITS - 1

    def plain(self, rng: np.random.Generator, count: int, length: int) -> NDArray[np.int64]:
        """Return `count` rows of this many tokens of the text, without needles."""
        starts = rng.integers(len(self.text) - length + 1, size=count)
        return np.array([self.text[start : start + length] for start in starts], np.int64).reshape(count, length)

    def needles(self, rng: np.random.Generator, count: int, length: int, needles: int) -> Needles:
        """Return `count` rows of this many tokens and needles."""
        rows = [self._row(rng, length, needles) for _ in range(count)]
        return Needles(*(np.stack(part) for part in zip(*rows, strict=True)))

    def _row(self, rng: np.random.Generator, length: int, needles: int) -> tuple[NDArray[np.int64], ...]:
        sentences = [self._sentence(rng, key) for key in rng.permutation(len(KEYS))[:needles]]
        size = len(sentences[0])
        hay_length = length - 2 * needles * size
        hay, places = self._hay(rng, hay_length, needles)
        order = rng.permutation(needles)
        row = np.concatenate(
            [np.insert(hay, np.repeat(places, size), np.concatenate(sentences)), *(sentences[k] for k in order)]
        )
        within = np.arange(size - 1 - DIGITS, size - 1)
        values = [places[k] + k * size + within for k in order]
        asked = [hay_length + (needles + n) * size + within for n in range(needles)]
        return row, np.stack(values), np.stack(asked)

    def told_words(self, rng: np.random.Generator, count: int, length: int) -> Batch:
        """Return rows of this many tokens with words told several times, the most frequent one at the end learnt."""
        rows = np.stack([self._told_row(rng, length) for _ in range(count)])
        learnt = np.zeros((count, length - 1), bool)
        learnt[:, -2] = True
        return Batch(torch.from_numpy(rows), torch.from_numpy(learnt))

    def _told_row(self, rng: np.random.Generator, length: int) -> NDArray[np.int64]:
        counts = TOLD[rng.integers(len(TOLD))]
        keys = rng.permutation(len(KEYS))[: len(counts)]
        sentences = self.told[rng.permutation(np.repeat(keys, counts))]
        size = self.told.shape[1]
        hay, places = self._hay(rng, length - (len(sentences) + 1) * size, len(sentences))
        return np.concatenate([np.insert(hay, np.repeat(places, size), sentences.ravel()), self.told[keys[0]]])

    def _hay(self, rng: np.random.Generator, length: int, places: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return text of this many tokens and so many places in it, in order: ends of sentences if there are enough."""
        start = int(rng.integers(len(self.text) - length))
        hay = self.text[start : start + length].astype(np.int64)
        gaps = np.flatnonzero(hay == self.stop) + 1
        if len(gaps) < places:
            gaps = np.arange(length + 1)
        return hay, np.sort(rng.choice(gaps, places, replace=places > len(gaps)))

    def _sentence(self, rng: np.random.Generator, key: int) -> NDArray[np.int64]:
        sentence = self.sentences[key]
        return np.concatenate([sentence[:-2], self.digits[rng.integers(10, size=DIGITS)], sentence[-1:]])


class Retrieval:
    """Batches over training novels, the batch of a step a function of (seed, step) alone; figures on held-out ones.

    Rows are of at most SHORT tokens until step `grow[0]` and of at most LONG from step `grow[1]` on.
    """

    def __init__(
        self, training: Haystack, held_out: Haystack, tokens: int, seed: int, grow: tuple[int, int] = (0, 0)
    ) -> None:
        self.training, self.held_out, self.tokens, self.seed, self.grow = training, held_out, tokens, seed, grow

    def longest(self, step: int) -> int:
        """Return the most tokens that a row of a step may have."""
        begins, ends = self.grow
        grown = 1.0 if step >= ends else max(0.0, (step - begins) / max(1, ends - begins))
        return int(SHORT * (LONG / SHORT) ** grown)

    def step(self, step: int) -> Batch:
        """Return the batch of one step."""
        rng = np.random.default_rng((self.seed, step))
        longest = self.longest(step)
        if step >= self.grow[0] and rng.random() < WORD_SHARE:
            length = self._length(rng, (max(map(sum, TOLD)) + 1) * self.training.told.shape[1] + LEAST_HAY, longest)
            return self.training.told_words(rng, max(1, self.tokens // length), length)
        needles = 1 + int(rng.choice(len(NEEDLES), p=NEEDLES))
        length = self._length(rng, 2 * needles * (self.training.sentences.shape[1] + DIGITS - 1) + LEAST_HAY, longest)
        return self.training.needles(rng, max(1, self.tokens // length), length, needles).batch

    def _length(self, rng: np.random.Generator, least: int, most: int) -> int:
        """Return a length of the range, the logarithm of which is as likely anywhere."""
        return int(np.exp(rng.uniform(*np.log((least, max(least, most))))))

    def validate(self, model: PreTrainedModel) -> dict[str, float]:
        """Return the share of first questions answered right, by number of needles and length."""
        return {f"{n}_in_{L}": found(model, self.held_out, L, n, 32) for L in MEASURED_LENGTHS[1:3] for n in (1, 4)}


def haystacks(cache: Path, data: Path, tokenizer: PreTrainedTokenizerFast) -> dict[str, NDArray[np.uint16]]:
    """Return the tokens of every fourth training novel and of the held-out ones, kept in the cache folder."""
    cache.mkdir(parents=True, exist_ok=True)
    paths = {name: cache / f"{name}.npy" for name in ("training", "held-out")}
    if not all(path.exists() for path in paths.values()):
        training, held_out = split_novels(read_novels(data))
        for name, novels in (("training", list(training.values())[::4]), ("held-out", held_out.values())):
            np.save(paths[name], encode(novels, tokenizer).tokens)
    return {name: np.load(path) for name, path in paths.items()}


@torch.no_grad()
def found(model: PreTrainedModel, haystack: Haystack, length: int, needles: int, count: int) -> float:
    """Return the share of rows whose first question is answered right to the last digit."""
    sample = haystack.needles(np.random.default_rng((777, length, needles)), count, length, needles)
    right = []
    for rows, asked in zip(
        torch.from_numpy(sample.rows).split(8), torch.from_numpy(sample.asked).split(8), strict=True
    ):
        with fast_scans():
            logits = model.lm_head(model.base_model(rows, use_cache=False)[0])
        places = asked[:, 0]
        guessed = logits.argmax(-1).gather(1, places - 1)
        right.append((guessed == rows.gather(1, places)).all(1))
    return float(torch.cat(right).float().mean())


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=2040)
    parser.add_argument("--decay", type=int, default=240)
    parser.add_argument("--tokens", type=int, default=2048, help="tokens to a step")
    parser.add_argument("--grow", type=int, nargs=2, default=(700, 1400), help="rows grow from this step to that")
    parser.add_argument("--peak", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path, help="the data folder (MAMBASCOPE_DATA), or a folder of .txt files")
    parser.add_argument("--cache", type=Path, default=Path("runs/retrieval-data"), help="the novels as tokens")
    parser.add_argument("--out", type=Path, default=Path("runs") / NAME)
    parser.add_argument("--eager", action="store_true", help="do not compile the model")
    options = parser.parse_args()
    keep_pages("training.retrieval")
    torch.set_num_threads(options.threads)
    model, tokenizer = bundled("tiny-mamba2")
    texts = haystacks(options.cache, data_folder(options.data), tokenizer)
    settings = Settings(
        task=NAME,
        architecture={"bundled": "tiny-mamba2"},
        steps=options.steps,
        decay=options.decay,
        peak=options.peak,
        seed=options.seed,
        batches={"tokens": options.tokens, "grow": list(options.grow)},
    )
    training, held_out = (Haystack(texts[name], tokenizer) for name in ("training", "held-out"))
    task = Retrieval(training, held_out, options.tokens, options.seed, tuple(options.grow))
    train(settings, model, task, options.out, Reporting(log_steps=25, validation_steps=100), not options.eager)


if __name__ == "__main__":
    main()
