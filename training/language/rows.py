"""Batches of token rows, each a function of (seed, step) alone, so that a resumed run sees what it would have seen."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

#: Steps at which practice begins, ends, begins again …: half of the rows then go on as they did before in the row.
PRACTICE = (840, 2300)
#: The share of rows in which a span is repeated: one to three times before any practice, to the row's end from then on.
PLAIN_SHARE, PRACTICE_SHARE = 0.10, 0.50
#: The shortest and longest repeated span in tokens (log-uniform between).
SPAN = (8, 128)
#: The most repetitions of a span before any practice, and the most tokens of other text between two repetitions later.
EARLY_TIMES, PRACTICE_GAP = 3, 64


class Rows:
    """Training rows of `length` tokens and one more (the last target), every stretch of the text once per epoch.

    An epoch cuts the text at a random offset into rows and takes them in random order.
    """

    def __init__(
        self,
        tokens: NDArray[np.uint16],
        length: int,
        batch: int,
        seed: int,
        practice: tuple[int, ...] = PRACTICE,
    ) -> None:
        self.tokens, self.length, self.batch, self.seed, self.practice = tokens, length, batch, seed, practice
        self.rows_per_epoch = (len(tokens) - length - 1) // length
        self._epoch, self._starts = -1, np.empty(0, dtype=np.int64)

    def step(self, step: int) -> NDArray[np.int64]:
        """Return the (batch, length + 1) rows of one step."""
        rows = self.plain_step(step)
        rng = np.random.default_rng((self.seed, 1, step))
        changes = bisect_right(self.practice, step)
        for row in rows:
            if rng.random() < (PRACTICE_SHARE if changes % 2 else PLAIN_SHARE):
                (repeat_to_the_end if changes else repeat_a_little)(row, rng)
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


def repeat_a_little(row: NDArray[np.int64], rng: np.random.Generator) -> None:
    """Overwrite one to three later stretches of the row with an earlier span of it, in place."""
    span = _span(len(row), rng)
    source = int(rng.integers(len(row) - 2 * span + 1))
    copied = row[source : source + span].copy()
    for _ in range(int(rng.integers(1, EARLY_TIMES + 1))):
        target = int(rng.integers(source + span, len(row) - span + 1))
        row[target : target + span] = copied


def repeat_to_the_end(row: NDArray[np.int64], rng: np.random.Generator) -> None:
    """Repeat a span of the row's first third until its end, up to `PRACTICE_GAP` tokens of the row apart, in place."""
    span = _span(len(row), rng)
    source = int(rng.integers(len(row) // 3))
    copied = row[source : source + span].copy()
    target = source + span + int(rng.integers(PRACTICE_GAP + 1))
    while target < len(row):
        row[target : target + span] = copied[: len(row) - target]
        target += span + int(rng.integers(PRACTICE_GAP + 1))


def _span(length: int, rng: np.random.Generator) -> int:
    longest = min(SPAN[1], length // 3)
    shortest = min(SPAN[0], longest)
    return int(np.exp(rng.uniform(np.log(shortest), np.log(longest + 1))))
