"""Batches of token rows, each a function of (seed, step) alone, so that a resumed run sees what it would have seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: The share of training rows in which a span is repeated later in the row, so that copying is worth learning.
COPY_SHARE = 0.10
#: The shortest and longest repeated span in tokens (log-uniform between), and the most repetitions of it.
COPY_SPAN = (8, 128)
COPY_TIMES = 3


class Rows:
    """Training rows of `length` tokens and one more (the last target), every stretch of the text once per epoch.

    An epoch cuts the text at a random offset into rows and takes them in random order.
    """

    def __init__(self, tokens: NDArray[np.uint16], length: int, batch: int, seed: int) -> None:
        self.tokens, self.length, self.batch, self.seed = tokens, length, batch, seed
        self.rows_per_epoch = (len(tokens) - length - 1) // length
        self._epoch, self._starts = -1, np.empty(0, dtype=np.int64)

    def step(self, step: int) -> NDArray[np.int64]:
        """Return the (batch, length + 1) rows of one step."""
        rows = self.plain_step(step)
        rng = np.random.default_rng((self.seed, 1, step))
        for row in rows:
            if rng.random() < COPY_SHARE:
                repeat_span(row, rng)
        return rows

    def plain_step(self, step: int) -> NDArray[np.int64]:
        """Return the rows of one step without repeated spans."""
        return np.stack([self._row(step * self.batch + b) for b in range(self.batch)])

    def _row(self, index: int) -> NDArray[np.int64]:
        epoch, within = divmod(index, self.rows_per_epoch)
        if epoch != self._epoch:
            rng = np.random.default_rng((self.seed, 0, epoch))
            offset = rng.integers(self.length)
            self._starts = rng.permutation(self.rows_per_epoch) * self.length + offset
            self._epoch = epoch
        start = self._starts[within]
        return self.tokens[start : start + self.length + 1].astype(np.int64)


def repeat_span(row: NDArray[np.int64], rng: np.random.Generator) -> None:
    """Overwrite one to three later stretches of the row with an earlier span of it, in place."""
    longest = min(COPY_SPAN[1], len(row) // 3)
    shortest = min(COPY_SPAN[0], longest)
    span = int(np.exp(rng.uniform(np.log(shortest), np.log(longest + 1))))
    source = int(rng.integers(len(row) - 2 * span + 1))
    copied = row[source : source + span].copy()
    for _ in range(int(rng.integers(1, COPY_TIMES + 1))):
        target = int(rng.integers(source + span, len(row) - span + 1))
        row[target : target + span] = copied
