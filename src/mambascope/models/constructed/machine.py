"""What a constructed model does, before it is set into weights: features of tokens, addresses, and what is carried.

Every token has some features, each of them on (1) or off (0). All tokens have equally many, so that every embedding has
the same norm and the norm before a mixer is a constant factor, which its weight undoes. A layer adds to the stream of a
target: what `carries` say, from the sources that `addresses` or a `lag` choose. The first feature, `ALWAYS`, is on in
every token; `FIRST` is not a feature of tokens, but is on at the first position of a text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

ALWAYS = "always"
FIRST = "first"
#: Said of a layer that forgets what an address holds when something new is written there.
REWRITE = "rewrite"
#: SiLU(ONE) = 1: a feature that is on passes the activation as 1, and one that is off as SiLU(0) = 0, both exactly.
ONE = 1.278464542761074
#: softplus(UNIT) = 1.
UNIT = math.log(math.e - 1)
#: exp(-FAR) counts as nothing: 4e-18, below the rounding of float64 beside a term of size 1.
FAR = 40.0


@dataclass(frozen=True)
class Carry:
    """What a target gets from each source that it reads: `weight` in `slot`, if the source has the feature."""

    feature: str
    slot: str
    weight: float = 1.0


@dataclass(frozen=True)
class Address:
    """A place of the memory: sources with the feature `written` are kept there, targets with `read` read them.

    Of delta nets, `step` is the part of what is kept that each source writes over.
    """

    written: str
    read: str
    step: float = 1.0


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
        carries: What is carried.
        addresses: From where to where.
        lag: Instead of addresses: each target reads the token so far before it.
        forgets: What the memory forgets: None for nothing, `REWRITE` for what an address held before it was written
            again, or a feature at whose tokens everything is forgotten.
        at_once: How many carries are on in what a target reads; norms after the scan divide by its root.
        gated: With `REWRITE`: all addresses are read, and the gate of the target lets through what it asks for, instead
            of C. Only Mamba-1 and Mamba-2 have such a gate.
        reference: A slot that gets 1 from the target itself, beside sums whose size is the answer: a norm after the
            scan keeps their ratio.
    """

    carries: tuple[Carry, ...]
    addresses: tuple[Address, ...] = ()
    lag: int | None = None
    forgets: str | None = None
    at_once: int = 1
    gated: bool = False
    reference: str | None = None

    @property
    def slots(self) -> tuple[str, ...]:
        """The slots that it writes."""
        reference = () if self.reference is None else (self.reference,)
        return tuple(dict.fromkeys([*(carry.slot for carry in self.carries), *reference]))

    @property
    def resets(self) -> bool:
        """Whether a feature clears the whole memory."""
        return self.forgets not in (None, REWRITE)


@dataclass(frozen=True)
class Machine:
    """A model before it is set into weights.

    Attributes:
        tokens: The features of every token, by its name, in the order of the vocabulary.
        answers: How much of each slot (or feature of the target) is added up for a token's logit; other tokens have the
            logit 0.
        layers: The layers.
        length: The longest text.
    """

    tokens: Mapping[str, tuple[str, ...]]
    answers: Mapping[str, Mapping[str, float]]
    layers: tuple[Layer, ...]
    length: int = 16

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of each token."""
        return {token: number for number, token in enumerate(self.tokens)}

    @cached_property
    def on(self) -> int:
        """How many features each token has: `ALWAYS`, its own, and spare ones."""
        return 1 + max(len(features) for features in self.tokens.values())

    @cached_property
    def features(self) -> dict[str, int]:
        """The place of every feature and slot in the stream."""
        own = [feature for features in self.tokens.values() for feature in features]
        spare = [_spare(k) for k in range(self.on - 1 - min(map(len, self.tokens.values())))]
        slots = [slot for layer in self.layers for slot in layer.slots]
        return {name: place for place, name in enumerate(dict.fromkeys([ALWAYS, *own, *spare, *slots]))}

    def signs(self, width: int) -> Float[Tensor, " width"]:
        """Return the sign of each dimension of the stream, in float64: odd places are negative.

        Norms and products do not see it. Without it the sum of a stream of zeros and ones would equal its squared norm,
        and means of gradients over the width would vanish by this accident.
        """
        return 1.0 - 2.0 * (torch.arange(width, dtype=torch.float64) % 2)

    def norm(self, depth: int) -> int:
        """Return the squared norm of the stream after `depth` layers, where each has added what it is meant to."""
        return self.on + sum(layer.at_once for layer in self.layers[:depth])

    def embeddings(self) -> Float[Tensor, "tokens features"]:
        """Return the features of every token, in float64."""
        table = torch.zeros(len(self.tokens), len(self.features), dtype=torch.float64)
        for token, features in self.tokens.items():
            spare = [_spare(k) for k in range(self.on - 1 - len(features))]
            for feature in (ALWAYS, *features, *spare):
                table[self.ids[token], self.features[feature]] = 1
        return table

    def readout(self) -> Float[Tensor, "tokens features"]:
        """Return the weights of every token's logit, in float64."""
        table = torch.zeros(len(self.tokens), len(self.features), dtype=torch.float64)
        for token, slots in self.answers.items():
            for slot, weight in slots.items():
                table[self.ids[token], self.features[slot]] = weight
        return table


def _spare(number: int) -> str:
    return f"spare {number}"
