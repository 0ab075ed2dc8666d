"""What one piece of a text takes over from the pieces before it, at each call of a function that mixes tokens.

A causal model runs over a text piece by piece if every such call is answered as it would be within the whole text:

    convolutions       the K-1 values before the piece stand before its own
    scans              the state that the piece before left enters (`mambascope.operators.token_mixer.Carried`)
    softmax attention  the keys and values of all earlier pieces stand before its own

These are all the ways in which a piece depends on earlier ones. They are tensors, so a backward pass goes through them
from the last piece to the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mambascope.brief import brief
from mambascope.operators.frozen import carried_scan
from mambascope.operators.token_mixer import Carried
from mambascope.trace.earlier_tokens import arguments_of_attention, bound_to
from mambascope.trace.mixing import Apart


@dataclass(frozen=True, eq=False)
class State:
    """What enters or leaves a piece at one call.

    Attributes:
        parts: The last values of a convolution, the state of a scan, or keys and values.
        grows: Whether a piece adds to what entered, as keys and values do, or replaces it.
    """

    parts: tuple[Tensor, ...]
    grows: bool = False

    __repr__ = brief


@dataclass(eq=False)
class Continued:
    """The states of one piece, call by call.

    Attributes:
        entering: What enters at each call, in order; empty for the first piece, at whose calls nothing does.
        leaving: What leaves; of keys and values, those of the piece's own tokens.
        keeps: Whether what leaves is kept: after the last piece of a text nothing reads it.
    """

    entering: Sequence[State] = ()
    leaving: list[State] = field(default_factory=list)
    keeps: bool = True

    __repr__ = brief

    def convolved(
        self, convolve: Callable[[Tensor], Tensor], values: Float[Tensor, "b D L"], taps: int
    ) -> Float[Tensor, "b D L"]:
        """Return a causal convolution of the piece's values, channels before tokens."""
        entered = self._entered()
        tail = values.new_zeros(*values.shape[:2], taps - 1) if entered is None else entered.parts[0]
        joined = torch.cat([tail, values], dim=-1)
        self._leaves(State((joined[..., joined.shape[-1] - (taps - 1) :].clone(),)))  # not a view of all values
        return convolve(joined)[..., taps - 1 :]

    def scanned(self, scan: Any, s: Float[Tensor, "b L D"], frozen: bool) -> Float[Tensor, "b L D"]:
        """Return alpha s of the piece from the state that entered, differentiable in both; frozen, in nothing else.

        Raises:
            Apart: if this kind of scan cannot start from a state.
        """
        if not isinstance(scan, Carried):
            raise Apart(f"{type(scan).__name__} cannot start from a state")
        entered = self._entered()
        before = None if entered is None else entered.parts[0]
        o, after = carried_scan(scan, s, before) if frozen else scan.forwards(s, before)
        self._leaves(State((after,)))
        return o

    def attended(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the result of an attention function (module, q, k, v, mask, …) for the piece's queries.

        Raises:
            Apart: if the layer sees only so many tokens back.
        """
        bound = bound_to(original, args, kwargs)
        module = next(iter(bound.arguments.values()))
        if any(place is not None for place in (getattr(module, "sliding_window", None), kwargs.get("sliding_window"))):
            raise Apart("attention has a window")
        names = arguments_of_attention(bound)
        query, key, value, mask = (bound.arguments[name] for name in names)
        self._leaves(State((key, value), grows=True))
        entered, own = self._entered(len(self.leaving) - 1), query.shape[2]
        if mask is None:
            seen = torch.ones(own, own, dtype=torch.bool, device=query.device).tril()
            mask = query.new_zeros(1, 1, own, own).masked_fill(~seen, torch.finfo(query.dtype).min)
        if mask.shape[-2:] != (own, own):
            raise Apart("attention has no mask of the piece's own pairs")
        if entered is not None:
            key, value = (torch.cat(pair, dim=2) for pair in zip(entered.parts, (key, value), strict=True))
            earlier = mask.new_zeros(*mask.shape[:-1], entered.parts[0].shape[2])
            mask = torch.cat([earlier if mask.dtype != torch.bool else ~earlier, mask], dim=-1)
        bound.arguments.update(zip(names, (query, key, value, mask), strict=True))
        return original(*bound.args, **bound.kwargs)

    def _leaves(self, state: State) -> None:
        self.leaving.append(state if self.keeps else State((), state.grows))

    def _entered(self, call: int | None = None) -> State | None:
        """Return what enters at a call, by default the next one; None if nothing does."""
        call = len(self.leaving) if call is None else call
        if not self.entering:
            return None
        if call >= len(self.entering):
            raise Apart("a piece of the text calls more functions than the first")
        return self.entering[call]


@dataclass(eq=False)
class Kept:
    """What the pieces of a forward pass have left, call by call.

    Attributes:
        length: Number of tokens of the text.
        left: What left each piece; nothing of states that grow.
        grown: The states that grow, with room for the whole text; none at other calls.
    """

    length: int
    left: list[list[State]] = field(default_factory=list)
    grown: list[tuple[Tensor, ...]] = field(default_factory=list)

    __repr__ = brief

    def add(self, piece: slice, leaving: Sequence[State]) -> None:
        """Keep what left a piece.

        Raises:
            Apart: if it made other calls than the first.
        """
        if not self.left:
            self.grown = [tuple(map(self._room, state.parts)) if state.grows else () for state in leaving]
        if len(leaving) != len(self.grown):
            raise Apart("a piece of the text makes fewer or more calls than the first")
        for whole, state in zip(self.grown, leaving, strict=True):
            for room, part in zip(whole, state.parts, strict=False):
                room[:, :, piece] = part
        self.left.append([State(() if state.grows else state.parts, state.grows) for state in leaving])

    def entering(self, number: int, start: int) -> list[State]:
        """Return what enters a piece, given its number and its first token."""
        if not number:
            return []
        each = zip(self.left[number - 1], self.grown, strict=True)
        return [State(tuple(part[:, :, :start] for part in whole), True) if whole else left for left, whole in each]

    def sizes(self) -> tuple[int, int]:
        """Return how many numbers leave each piece, and how many are kept of every token."""
        fixed = sum(part.numel() for state in self.left[0] for part in state.parts)
        return fixed, sum(part.numel() for whole in self.grown for part in whole) // self.length

    def _room(self, part: Tensor) -> Tensor:
        return part.new_zeros(*part.shape[:2], self.length, *part.shape[3:])
