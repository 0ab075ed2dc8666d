"""How many numbers a mixer's scan holds for every token, beyond what its linear maps return.

A pass is refused before it runs if it would not fit (`mambascope.trace.footprint`), so a family says what its scan
takes. The factors were fitted to what the operators allocate, over heads and states of 32 to 128; they are right within
a tenth there. H heads have keys of width N and values of width P; a chunk has C tokens, so that a state of N·P numbers
per chunk is N·P/C per token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mambascope.brief import brief
from mambascope.operators.recurrence import CHUNK

#: What torch itself keeps for a backward pass about one step of a loop in Python, in numbers of four bytes: the records
#: of about forty small functions. Measured with RWKV-4's loop.
PER_STEP = 7000


@dataclass(frozen=True)
class Held:
    """Numbers per token that a mixer holds beyond what its linear maps and convolutions return.

    Attributes:
        at_once: While its map is made and compared with what the model computed; freed before the next mixer runs.
        backward: Until a backward pass has run, in every layer.
        kept: With the record of a capture, of every layer.
    """

    at_once: int = 0
    backward: int = 0
    kept: int = 0

    __repr__ = brief


def nothing_more(mixer: Any) -> Held:
    """Return zero: what the linear maps return is all that counts."""
    return Held()


def delta_rule(heads: int, N: int, P: int) -> Held:
    """Return what `GatedDeltaRule` holds with one decay per head: matrices of each chunk, and the state's map."""
    state = N * N // CHUNK
    return Held(heads * (P + 9 * CHUNK + 5 * state), heads * (10 * N + 5 * P + 8 * CHUNK + state))


def delta_rule_per_channel(heads: int, N: int, P: int) -> Held:
    """Return what it holds with one decay per key channel: some decays are taken pair by pair, N for each."""
    state = N * N // CHUNK
    return Held(heads * (10 * N + 6 * CHUNK + 3 * state), heads * (82 * N + 5 * P + 2 * CHUNK + state))


def chunked_state(heads: int, N: int, P: int) -> Held:
    """Return what `head_recurrence` holds, which runs one decay and one N x P state per head in chunks."""
    state = N * P // CHUNK
    return Held(heads * (4 * N + 5 * P + 2 * CHUNK + 3 * state), heads * (4 * CHUNK + 2 * state))


def cross_scan(D: int, N: int, rank: int) -> Held:
    """Return what four scans hold, each with projections of its own and an order in which it reads the tokens."""
    steps = 4 * (D + rank + 2 * N + 2)  # Δ, B, C and the order, whose integers have eight bytes
    return Held(at_once=18 * D, backward=4 * (2 * D + D * N // 8), kept=steps)
