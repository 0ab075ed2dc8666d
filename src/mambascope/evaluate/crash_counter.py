"""Counts crashes per sample, to tell a sample that crashes every process from one whose process was killed by chance.

It is a file of its own without heavy imports because it runs in a process of its own.
"""

from __future__ import annotations

from collections import Counter


class CrashCounter:
    """Counts how often each sample was started but not finished; it runs in an actor that outlives the others."""

    def __init__(self) -> None:
        self._started: Counter[str] = Counter()

    def start(self, sample: str) -> int:
        """Record that an actor starts a sample, and return how many actors have crashed on it so far."""
        self._started[sample] += 1
        return self._started[sample] - 1

    def finish(self, sample: str) -> None:
        """Record that a sample is finished."""
        self._started.pop(sample, None)
