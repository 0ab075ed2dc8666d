"""Which samples were begun and never finished: what tells a sample that kills its process from one that was unlucky.

A file of its own, with no heavy import, as it runs in a process of its own.
"""

from __future__ import annotations

from collections import Counter


class CrashCounter:
    """Counts, in an actor that outlives the others, how often each sample was begun since it was last finished."""

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()

    def begin(self, sample: str) -> int:
        """Note that an actor begins a sample, and return how many did so before and never finished it."""
        self._begun[sample] += 1
        return self._begun[sample] - 1

    def end(self, sample: str) -> None:
        """Note that a sample is finished."""
        self._begun.pop(sample, None)
