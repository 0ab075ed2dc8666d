"""The tokenizer (byte-level BPE) and the novels as arrays of token numbers, both kept in a cache folder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from training.language.corpus import data_folder, read_novels, split_novels

END_OF_TEXT = "<|endoftext|>"
VOCABULARY = 2048


@dataclass(frozen=True)
class TokenData:
    """Novels as token numbers, each ended by the end-of-text token, and how many bytes of text they are."""

    tokens: NDArray[np.uint16]
    bytes: int

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / len(self.tokens)


def train_tokenizer(texts: Iterable[str], vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer learnt from the texts; every byte string can be encoded, none is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )


def encode(texts: Iterable[str], tokenizer: PreTrainedTokenizerFast) -> TokenData:
    """Return the texts one after the other, each ended by the end-of-text token; `bytes` leaves that token out."""
    end = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    pieces, size = [], 0
    for text in texts:
        size += len(text.encode())
        pieces.append(np.array(tokenizer.encode(text, add_special_tokens=False), dtype=np.uint16))
        pieces.append(np.array([end], dtype=np.uint16))
    return TokenData(np.concatenate(pieces), size)


def prepare(cache: Path, data: Path | None = None) -> None:
    """Fill the cache folder with the tokenizer and both encoded splits, unless it holds them already."""
    if (cache / "splits.json").exists():
        return
    cache.mkdir(parents=True, exist_ok=True)
    training, held_out = split_novels(read_novels(data_folder(data)))
    tokenizer = train_tokenizer(training.values())
    tokenizer.save_pretrained(cache / "tokenizer")
    splits = {}
    for name, novels in (("training", training), ("validation", held_out)):
        encoded = encode(novels.values(), tokenizer)
        np.save(cache / f"{name}.npy", encoded.tokens)
        splits[name] = {"bytes": encoded.bytes, "tokens": len(encoded.tokens), "novels": list(novels)}
    (cache / "splits.json").write_text(json.dumps(splits, indent=2))


def load_split(cache: Path, name: str) -> TokenData:
    """Return the "training" or "validation" split of a prepared cache folder."""
    sizes = json.loads((cache / "splits.json").read_text())
    return TokenData(np.load(cache / f"{name}.npy"), sizes[name]["bytes"])


def load_tokenizer(cache: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a prepared cache folder."""
    return PreTrainedTokenizerFast.from_pretrained(cache / "tokenizer")
