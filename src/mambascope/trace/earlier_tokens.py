"""What one position reads of the tokens before it, at each call of a function that mixes tokens.

A causal model that runs on copies of position t alone calls the same functions as it does for the whole text:
convolutions, scans and attention. Each of them is answered here for the copies, from what it was called with for the
tokens before t and from each copy's own arguments:

    convolutions       the values of the K-1 tokens before t stand before each copy's own
    scans, rules       o = r · Σ_j w_j s_j + (alpha_tt + D) s_t     r, alpha_tt and s_t are the copy's own
    softmax attention  the model's own function, for each copy's query over the keys before t and its own

with w_j what source j has written to the state (`mambascope.operators.token_mixer.Stepwise`). A copy that loses a
source does without its share: r · w_j s_j or, if it is t itself, (alpha_tt + D) s_t; p_tj v_j. That is what
`mambascope.trace.cutting` leaves out for the whole text.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mambascope.brief import brief
from mambascope.families import Family, ScanCall
from mambascope.operators.token_mixer import Stepwise
from mambascope.trace.cutting import VALUES
from mambascope.trace.mixing import Apart
from mambascope.trace.scanning import relative_error

#: Numbers that what sources have written to a state may hold at once, while the state is added up.
WRITTEN = 1 << 22


@dataclass(frozen=True)
class Copies:
    """Copies of one position, each of which may lose a source.

    Attributes:
        place: The position, t.
        count: The number of copies.
        sources: The sources that they lose, one copy each, ascending; none are lost where it is empty.
    """

    place: int
    count: int
    sources: tuple[int, ...] = ()

    @property
    def before(self) -> list[int]:
        """The sources before t."""
        return [source for source in self.sources if source < self.place]

    @property
    def runs(self) -> Iterator[slice]:
        """The sources before t as slices, each of sources that follow each other."""
        start = stop = -1
        for source in self.before:
            if source != stop:
                if stop > start:
                    yield slice(start, stop)
                start = source
            stop = source + 1
        if stop > start:
            yield slice(start, stop)

    @property
    def cut_before(self) -> slice:
        """The copies that lose them."""
        return slice(0, len(self.before))

    @property
    def cut_own(self) -> slice:
        """The copies that lose t itself: one or none."""
        own = self.place in self.sources
        return slice(self.cut_before.stop, self.cut_before.stop + own)


@runtime_checkable
class Earlier(Protocol):
    """What was seen of one call for the whole text."""

    def error(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
        """Return how far the arguments of copies that lose nothing are from the text's own at t, relative to these."""

    def answer(
        self, copies: Copies, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Return the result of the call for copies of the position."""


@dataclass(frozen=True, eq=False)
class EarlierConvolution:
    """The values that a causal convolution reads before position t, and at t."""

    tail: Float[Tensor, "1 D k"]
    own: Float[Tensor, "1 D 1"]

    __repr__ = brief

    @classmethod
    def of(cls, place: int, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Earlier:
        """Return it for a call (values, weight, …), which has channels before tokens."""
        values, weight = list(bound_to(original, args, kwargs).arguments.values())[:2]
        first = max(0, place - (weight.shape[-1] - 1))
        return cls(values[..., first:place].clone(), values[..., place : place + 1].clone())

    def error(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
        """See `Earlier`."""
        return _apart([next(iter(bound_to(original, args, kwargs).arguments.values()))], [self.own])

    def answer(
        self, copies: Copies, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """See `Earlier`; the model's own function runs over the K tokens."""
        bound = bound_to(original, args, kwargs)
        name, values = next(iter(bound.arguments.items()))
        bound.arguments[name] = torch.cat([self.tail.expand(copies.count, -1, -1), values], dim=-1)
        return original(*bound.args, **bound.kwargs)[..., -1:]


@dataclass(frozen=True, eq=False)
class EarlierScan:
    """The state that the tokens before position t leave in a scan, what each of them gave, and the call at t."""

    family: Family
    scan: Stepwise
    s: Float[Tensor, "1 t D"]
    state: Float[Tensor, "1 M P N"]
    own: dict[str, Tensor]

    __repr__ = brief

    @classmethod
    def of(cls, place: int, family: Family, call: ScanCall) -> Earlier:
        """Return it for a call that was read.

        Raises:
            Apart: if this kind of scan cannot run one token further.
        """
        working = torch.promote_types(call.s.dtype, torch.float32)
        along = {name for name, value in call.coefficients.items() if value.ndim > 2}
        before = {name: value[:, :place] if name in along else value for name, value in call.coefficients.items()}
        scan, s = family.scan(before, working), call.s[:, :place].to(working)
        if not isinstance(scan, Stepwise):
            raise Apart(f"{type(scan).__name__} has no step")
        at = {name: call.coefficients[name][:, place : place + 1].clone() for name in along}
        return cls(family, scan, s, _state(scan, s), at | {"s": call.s[:, place : place + 1].clone()})

    def error(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
        """See `Earlier`."""
        call = self.family.read(*args, **kwargs)
        found = call.coefficients | {"s": call.s}
        return _apart([found[name] for name in self.own], self.own.values())

    def answer(
        self, copies: Copies, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """See `Earlier`."""
        call, working = self.family.read(*args, **kwargs), self.s.dtype
        scan: Any = self.family.scan(call.coefficients, working)
        s, recalled = call.s.to(working), scan.recalled()[:, 0]
        own = (scan.channels(scan.immediate().transpose(1, 2)).transpose(1, 2) + scan.skip) * s
        own[copies.cut_own] = 0
        o = _read(recalled, self.state[0]).flatten(1)[:, None] + own
        if copies.cut_before.stop:
            written = torch.cat([self.scan.written(run) for run in copies.runs], dim=2)[0].transpose(0, 1)
            alpha = (recalled[copies.cut_before] * written).sum(dim=-1)
            o[copies.cut_before, 0] -= scan.channels(alpha) * self.s[0, copies.before]
        o = o if call.bias is None else o + call.bias.to(working)
        z = call.coefficients.get("z")
        return call.give(o if z is None else o * F.silu(z.to(working)))


def _state(scan: Stepwise, s: Float[Tensor, "1 t D"]) -> Float[Tensor, "1 M P N"]:
    """Return the state as the last token leaves it, added up over a group of sources at a time."""
    values = s.unflatten(-1, (scan.maps, -1))
    state = s.new_zeros(1, scan.maps, values.shape[-1], scan.state_size)
    group = max(1, WRITTEN // max(1, scan.maps * scan.state_size))
    for start in range(0, s.shape[1], group):
        sources = slice(start, min(start + group, s.shape[1]))
        state += torch.einsum("bmcn,bcmp->bmpn", scan.written(sources), values[:, sources])
    return state


def _read(recalled: Float[Tensor, "b M N"], state: Float[Tensor, "M P N"]) -> Float[Tensor, "b M P"]:
    """Return what copies read of a state; where maps have one channel each, without a product of matrices for each."""
    if state.shape[1] == 1:
        return (recalled * state[:, 0]).sum(dim=-1, keepdim=True)
    return torch.einsum("bmn,mpn->bmp", recalled, state)


@dataclass(frozen=True, eq=False)
class EarlierAttention:
    """The keys and values of the tokens before position t in softmax attention, t's row of the mask, and t's own."""

    key: Float[Tensor, "1 G t d"]
    value: Float[Tensor, "1 G t P"]
    mask: Float[Tensor, "1 h u"]
    own: tuple[Tensor, ...]

    __repr__ = brief

    @classmethod
    def of(cls, place: int, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Earlier:
        """Return it for a call (module, q, k, v, mask, …).

        Raises:
            Apart: if there is no mask of all pairs of tokens.
        """
        query, key, value, mask = _attended(bound_to(original, args, kwargs))
        length = key.shape[2]
        if mask is None and length == 1:
            mask = query.new_zeros(1, 1, 1, 1)
        if mask is None or mask.shape[-2:] != (length, length):
            raise Apart("attention has no mask of all pairs")
        own = tuple(part[:, :, place : place + 1].clone() for part in (query, key, value))
        return cls(key[:, :, :place], value[:, :, :place], mask[:1, :, place, : place + 1].clone(), own)

    def error(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
        """See `Earlier`."""
        *found, _ = _attended(bound_to(original, args, kwargs))
        return _apart(found, self.own)

    def answer(
        self, copies: Copies, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """See `Earlier`; the copies are queries of one text, each of which sees the keys before t and its own."""
        bound, t, n = bound_to(original, args, kwargs), copies.place, copies.count
        names = arguments_of_attention(bound)
        query, key, value, _ = _attended(bound)
        own = self.mask[..., None, t:].expand(-1, -1, n, n)
        hidden = False if own.dtype == torch.bool else torch.finfo(own.dtype).min
        others = ~torch.eye(n, dtype=torch.bool, device=own.device)
        mask = torch.cat([self.mask[..., None, :t].expand(-1, -1, n, -1), own.masked_fill(others, hidden)], dim=-1)
        keys, values = (
            torch.cat([before, part.transpose(0, 2)], dim=2) for before, part in ((self.key, key), (self.value, value))
        )
        bound.arguments.update(zip(names, (query.transpose(0, 2), keys, values, mask), strict=True))
        output, p, *_ = original(*bound.args, **bound.kwargs)
        output = output.transpose(0, 1)
        places = torch.arange(n, device=p.device)
        for cut, columns in (
            (copies.cut_before, torch.tensor(copies.before, dtype=torch.long, device=p.device)),
            (copies.cut_own, t + places[copies.cut_own]),
        ):
            share = p[0][:, places[cut], columns, None] * _of_heads(values[0, :, columns], p.shape[1])
            output[cut] -= share.transpose(0, 1).reshape(output[cut].shape)
        row = torch.cat([p[0, :, :, :t], p[0, :, places, t + places][..., None]], dim=-1)
        return output, row.transpose(0, 1)[:, :, None]


def _of_heads(values: Float[Tensor, "G c P"], heads: int) -> Float[Tensor, "H c P"]:
    """Return the values of every query head, several of which may share theirs."""
    return values.repeat_interleave(heads // values.shape[0], dim=0)


def bound_to(original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments:
    """Return a call's arguments by name."""
    return inspect.signature(original).bind(*args, **kwargs)


def arguments_of_attention(bound: inspect.BoundArguments) -> list[str]:
    """Return the names of q, k, v and the mask among the arguments of an attention function."""
    return list(bound.signature.parameters)[VALUES - 2 : VALUES + 2]


def _attended(bound: inspect.BoundArguments) -> Iterator[Any]:
    """Yield q, k, v and the mask."""
    return (bound.arguments.get(name) for name in arguments_of_attention(bound))


def _apart(found: Iterable[Tensor], expected: Iterable[Tensor]) -> float:
    """Return the largest relative difference of what copies of a position have from what it has in the text."""
    return max(relative_error(one, value) for each, value in zip(found, expected, strict=True) for one in each.split(1))
