"""What is known of a constructed model: for each text its answer, what that is made of, and what must get nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch

from mambascope.errors import InputError
from mambascope.models.constructed.machine import Machine

Architecture = Literal["mamba", "mamba2", "delta", "softmax"]
#: How many texts are drawn before a length is given up.
TRIES = 100_000


@dataclass(frozen=True)
class Case:
    """One text, asked after its last token.

    Attributes:
        tokens: The text, token by token.
        answer: The token that must have the highest logit.
        signs: The sources: the positions whose content the answer is made of, with +1 where it speaks for the answer
            and -1 where it speaks against it.
        guides: Positions that decide what is read, but are not in it, such as a key that is asked for; the last token
            is always one of them. What they get is not judged.
        held: What the last token reads in each layer: how often it finds each feature that is carried.
    """

    tokens: tuple[str, ...]
    answer: str
    signs: Mapping[int, int]
    guides: frozenset[int]
    held: tuple[Mapping[str, int], ...]

    @property
    def target(self) -> int:
        """The last position."""
        return len(self.tokens) - 1

    @property
    def idle(self) -> frozenset[int]:
        """The positions that must get nothing: any token in their place gives the same logits, if it stays idle."""
        return frozenset(range(len(self.tokens))) - self.guides - set(self.signs)


@dataclass(frozen=True)
class Mechanism:
    """A rule, and the machine that follows it.

    Attributes:
        name: Its name.
        does: What its models do, in a few words.
        machine: The machine.
        body: The tokens that a text is made of.
        asks: The last tokens; empty if any token of the body may stand there.
        rule: Returns the case of a text, or None if the text asks for nothing that is in it.
        architectures: Those in which it is exact.
        opens: A token that begins each text; none if empty.
        tells: Whether a case shows what the mechanism is about; only such are drawn.
        instead: Machines of the same tokens, for architectures that do the same in a way of their own.
    """

    name: str
    does: str
    machine: Machine
    body: tuple[str, ...]
    asks: tuple[str, ...]
    rule: Callable[[tuple[str, ...]], Case | None]
    architectures: tuple[Architecture, ...]
    opens: str = ""
    tells: Callable[[Case], bool] = lambda case: bool(case.idle)
    instead: Mapping[Architecture, Machine] = field(default_factory=dict)

    def machine_in(self, architecture: Architecture) -> Machine:
        """Return the machine that is set into the weights of an architecture."""
        return self.instead.get(architecture, self.machine)

    def texts(self, length: int) -> Iterator[tuple[str, ...]]:
        """Yield all texts of a length."""
        opens = (self.opens,) if self.opens else ()
        for text in itertools.product(self.body, repeat=length - len(opens) - 1):
            for last in self.asks or self.body:
                yield (*opens, *text, last)

    def cases(self, length: int) -> Iterator[Case]:
        """Yield the cases of all texts of a length that ask for something."""
        yield from (case for text in self.texts(length) if (case := self.rule(text)) is not None)

    def draw(self, length: int, generator: torch.Generator) -> Case:
        """Return a random case of a length, all that tell something being equally likely.

        Raises:
            InputError: if none was found, or the length exceeds the model's.
        """
        if length > self.machine.length:
            raise InputError(f"{self.name} reads up to {self.machine.length} tokens, and {length} were asked for")
        opens = (self.opens,) if self.opens else ()
        lasts = self.asks or self.body
        for _ in range(TRIES):
            drawn = torch.randint(2**31, (length - len(opens),), generator=generator).tolist()
            body = [self.body[number % len(self.body)] for number in drawn[:-1]]
            case = self.rule((*opens, *body, lasts[drawn[-1] % len(lasts)]))
            if case is not None and self.tells(case):
                return case
        raise InputError(f"no text of {length} tokens that tells something of {self.name} was found")

    def ids(self, case: Case) -> list[int]:
        """Return the token ids of a case."""
        return [self.machine.ids[token] for token in case.tokens]
