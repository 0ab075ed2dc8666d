"""Sentence pairs as rows `source <sep> target <|endoftext|>` in batches of one length, loss on the target alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from training.language.tokens import END_OF_TEXT
from training.running.loop import Batch
from training.translation.language_pairs import LanguagePair
from training.translation.parallel_text import Pair, with_company

END, SEPARATOR = 0, 1
SEPARATOR_TOKEN = "<sep>"
VOCABULARY = 6144
#: Row lengths of the batches; a pair goes where it fits, longer ones are left out.
LENGTHS = (12, 16, 20, 24, 28, 32, 40, 56, 80, 128)


def train_tokenizer(texts: Iterable[str], vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer of both languages; every word is encoded with the space before it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    # A separator takes the white space before it, so that "go . <sep>" is the words, their spaces and nothing else.
    special = [AddedToken(END_OF_TEXT, special=True), AddedToken(SEPARATOR_TOKEN, special=True, lstrip=True)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT, sep_token=SEPARATOR_TOKEN
    )


@dataclass(frozen=True)
class EncodedPairs:
    """Pairs one after the other as `source <sep> target <|endoftext|>`; row i is tokens[starts[i]:starts[i + 1]]."""

    tokens: NDArray[np.uint16]
    starts: NDArray[np.int64]
    #: Tokens of each source, its separator counted in.
    sources: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.starts)

    def row(self, index: int) -> NDArray[np.uint16]:
        return self.tokens[self.starts[index] : self.starts[index + 1]]


def encode_pairs(pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerFast) -> EncodedPairs:
    """Return the pairs as token rows."""
    backend = tokenizer.backend_tokenizer
    sources = [e.ids for e in backend.encode_batch([pair.source for pair in pairs], add_special_tokens=False)]
    targets = [e.ids for e in backend.encode_batch([pair.target for pair in pairs], add_special_tokens=False)]
    rows = [np.array([*s, SEPARATOR, *t, END], np.uint16) for s, t in zip(sources, targets, strict=True)]
    starts = np.cumsum([0, *(len(row) for row in rows)])
    tokens = np.concatenate(rows) if rows else np.empty(0, np.uint16)
    return EncodedPairs(tokens, starts.astype(np.int64), np.array([len(s) + 1 for s in sources], np.int64))


def padded(pairs: EncodedPairs, indices: Iterable[int], length: int) -> Batch:
    """Return the pairs as rows of `length` tokens, padded after their end; learnt are the target and its end."""
    indices = list(indices)
    rows = np.full((len(indices), length), END, np.int64)
    learnt = np.zeros((len(indices), length - 1), bool)
    for b, index in enumerate(indices):
        row = pairs.row(index)
        rows[b, : len(row)] = row
        learnt[b, pairs.sources[index] - 1 : len(row) - 1] = True
    return Batch(torch.from_numpy(rows), torch.from_numpy(learnt))


class PairBatches:
    """Batches of about `tokens` tokens, each of pairs of like length; an epoch shows every pair once but for a few.

    The batch of a step is a function of (seed, step) alone.
    """

    def __init__(self, pairs: EncodedPairs, tokens: int, seed: int, lengths: Sequence[int] = LENGTHS) -> None:
        self.pairs, self.seed, self.lengths = pairs, seed, lengths
        places = np.searchsorted(lengths, pairs.lengths)
        self.buckets = [np.flatnonzero(places == k) for k in range(len(lengths))]
        self.sizes = [max(1, tokens // length) for length in lengths]
        self.counts = [len(bucket) // size for bucket, size in zip(self.buckets, self.sizes, strict=True)]
        self.batches_per_epoch = sum(self.counts)
        self._epoch, self._order = -1, []

    def step(self, step: int) -> Batch:
        """Return the batch of one step."""
        epoch, within = divmod(step, self.batches_per_epoch)
        if epoch != self._epoch:
            rng = np.random.default_rng((self.seed, epoch))
            self._order = []
            for k, (bucket, size, count) in enumerate(zip(self.buckets, self.sizes, self.counts, strict=True)):
                shuffled = rng.permutation(bucket)
                self._order += [(k, shuffled[i * size : (i + 1) * size]) for i in range(count)]
            self._order = [self._order[i] for i in rng.permutation(len(self._order))]
            self._epoch = epoch
        bucket, indices = self._order[within]
        return padded(self.pairs, indices, self.lengths[bucket])


def prepare(pair: LanguagePair, cache: Path, data: Path, hansards: bool = False) -> None:
    """Fill the cache folder with the tokenizer and the encoded parts, unless it holds them already.

    `hansards` adds the Hansards training pairs, which are for research and education only: such a model does not ship.

    Raises:
        ValueError: if the cache is of another pair of languages.
    """
    if (cache / "parts.json").exists():
        held = json.loads((cache / "parts.json").read_text()).get("languages", "en-fr")
        if held != pair.name:
            raise ValueError(f"{cache} holds the text of {held}, not of {pair.name}; name another folder with --cache.")
        return
    cache.mkdir(parents=True, exist_ok=True)
    parts = pair.split(data, hansards)
    training = pair.written(parts.training)
    training = with_company(training) if pair.company else training
    tokenizer = train_tokenizer(text for both in training for text in (both.source, both.target))
    tokenizer.save_pretrained(cache / "tokenizer")
    sizes: dict[str, object] = {"languages": pair.name}
    for name, pairs in (("training", training), ("validation", parts.validation), ("test", parts.test)):
        encoded = encode_pairs(pairs, tokenizer)
        np.savez(cache / f"{name}.npz", **vars(encoded))
        (cache / f"{name}.json").write_text(json.dumps([[p.source, p.target] for p in pairs], ensure_ascii=False))
        sizes[name] = {"pairs": len(pairs), "tokens": len(encoded.tokens)}
    (cache / "parts.json").write_text(json.dumps(sizes, indent=2))


def load_part(cache: Path, name: str) -> EncodedPairs:
    """Return the "training", "validation" or "test" part of a prepared cache folder as tokens."""
    with np.load(cache / f"{name}.npz") as arrays:
        return EncodedPairs(**arrays)


def load_pairs(cache: Path, name: str) -> list[Pair]:
    """Return a part of a prepared cache folder as spaced text."""
    return [Pair(*both) for both in json.loads((cache / f"{name}.json").read_text())]


def load_tokenizer(cache: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a prepared cache folder."""
    return PreTrainedTokenizerFast.from_pretrained(cache / "tokenizer")
