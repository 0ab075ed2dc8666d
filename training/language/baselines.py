"""Bits per byte of simpler models of the same text: `python -m training.language.baselines`.

Unigram and n-gram models over the same tokens, counted on the same training novels, and two general-purpose
compressors that see the held-out text alone. The n-gram model is interpolated modified Kneser-Ney [1, section 3]: three
discounts per order, lower orders counted by how many different tokens precede an n-gram.

[1] S. F. Chen and J. Goodman. An empirical study of smoothing techniques for language modeling. Computer Speech &
    Language 13, 1999.
"""

from __future__ import annotations

import argparse
import gzip
import json
import lzma
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mambascope.files import write_whole
from training.language.corpus import data_folder, read_novels, split_novels
from training.language.tokens import VOCABULARY, load_split, prepare

#: Bits per token in a packed n-gram: five tokens of 11 bits fit one 64-bit number.
TOKEN_BITS = 11
assert 1 << TOKEN_BITS >= VOCABULARY


@dataclass(frozen=True)
class Order:
    """The n-grams of one length, packed and sorted: discounted counts, and what contexts leave to shorter ones."""

    grams: NDArray[np.uint64]
    discounted: NDArray[np.float32]
    contexts: NDArray[np.uint64]
    totals: NDArray[np.float32]
    left_over: NDArray[np.float32]


def pack(tokens: NDArray[np.uint16], n: int) -> NDArray[np.uint64]:
    """Return the n-gram ending at each token, its last token in the lowest bits; before the text all tokens are 0."""
    padded = np.concatenate([np.zeros(n - 1, dtype=np.uint64), tokens.astype(np.uint64)])
    packed = np.zeros(len(tokens), dtype=np.uint64)
    for k in range(n):
        packed = (packed << np.uint64(TOKEN_BITS)) | padded[k : k + len(tokens)]
    return packed


def count_orders(tokens: NDArray[np.uint16], most: int) -> list[Order]:
    """Return the orders 1 … most of a Kneser-Ney model."""
    orders = []
    grams, counts = np.unique(pack(tokens, most), return_counts=True)
    for n in range(most, 0, -1):
        orders.append(_order(grams, counts))
        grams, counts = np.unique(grams & np.uint64((1 << TOKEN_BITS * (n - 1)) - 1), return_counts=True)
    return orders[::-1]


def _order(grams: NDArray[np.uint64], counts: NDArray[np.int64]) -> Order:
    discounts = np.concatenate([[0.0], _discounts(counts)])
    discount = discounts[np.minimum(counts, 3)]
    contexts, starts = np.unique(grams >> np.uint64(TOKEN_BITS), return_index=True)
    totals = np.add.reduceat(counts, starts)
    return Order(
        grams,
        (counts - discount).astype(np.float32),
        contexts,
        totals.astype(np.float32),
        (np.add.reduceat(discount, starts) / totals).astype(np.float32),
    )


def _discounts(counts: NDArray[np.int64]) -> list[float]:
    """Return what to take from counts of 1, 2, and 3 or more ([1] equation 26)."""
    n1, n2, n3, n4 = (float((counts == k).sum()) for k in range(1, 5))
    if not n1 * n2 * n3:
        return [0.5, 0.5, 0.5]
    y = n1 / (n1 + 2 * n2)
    return [1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]


def probabilities(orders: list[Order], tokens: NDArray[np.uint16], vocabulary: int) -> NDArray[np.float64]:
    """Return each token's probability given those before it."""
    p = np.full(len(tokens), 1 / vocabulary)
    for n, order in enumerate(orders, start=1):
        grams = pack(tokens, n)
        place, found = _find(order.contexts, grams >> np.uint64(TOKEN_BITS))
        left_over, totals = order.left_over[place], order.totals[place]
        at, seen = _find(order.grams, grams)
        own = np.where(seen, order.discounted[at], 0) / totals
        p = np.where(found, own + left_over * p, p)
    return p


def _find(where: NDArray[np.uint64], what: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    at = np.minimum(np.searchsorted(where, what), len(where) - 1)
    return at, where[at] == what


def bits_per_byte_of(p: NDArray[np.float64], size: int) -> float:
    """Return the code length of tokens with these probabilities, in bits per byte of `size` bytes of text."""
    return float(-np.log2(p).sum() / size)


def unigram(training: NDArray[np.uint16], held_out: NDArray[np.uint16], vocabulary: int) -> NDArray[np.float64]:
    """Return each held-out token's relative frequency in the training text, with one added to every count."""
    counts = np.bincount(training, minlength=vocabulary) + 1
    return (counts / counts.sum())[held_out]


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="the data folder (MAMBASCOPE_DATA), or a folder of .txt files")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="tokenizer and encoded text")
    parser.add_argument("--orders", type=int, nargs="+", default=[2, 3, 5], help="n-gram lengths, 5 at most")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    prepare(options.cache, options.data)
    training, held_out = load_split(options.cache, "training"), load_split(options.cache, "validation")
    vocabulary = VOCABULARY
    figures = {
        "uniform over tokens": len(held_out.tokens) * math.log2(vocabulary) / held_out.bytes,
        "unigram": bits_per_byte_of(unigram(training.tokens, held_out.tokens, vocabulary), held_out.bytes),
    }
    for n in options.orders:
        p = probabilities(count_orders(training.tokens, n), held_out.tokens, vocabulary)
        figures[f"{n}-gram, modified Kneser-Ney"] = bits_per_byte_of(p, held_out.bytes)
    text = "".join(split_novels(read_novels(data_folder(options.data)))[1].values()).encode()
    figures["gzip -9 (held-out text alone)"] = 8 * len(gzip.compress(text, 9)) / len(text)
    figures["xz -9e (held-out text alone)"] = 8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) / len(text)
    for name, bits in figures.items():
        print(f"{name:32} {bits:.4f} bits per byte", flush=True)
    if options.json:
        write_whole(options.json, json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
