"""What one position reads of the tokens before it, at each call of a function that mixes tokens.

A causal model that runs on copies of position t alone calls the same functions as it does for the whole text:
convolutions, scans and attention. Each of them is answered here for the copies, from what it was called with for the
tokens before t and from each copy's own arguments:

    convolutions       the values of the K-1 tokens before t stand before each copy's own
    scans, rules       o = r · Σ_j w_j s_j + (alpha_tt + D) s_t     r, alpha_tt and s_t are the copy's own
    softmax attention  the model's own function, for each copy's query over the keys before t and its own

with w_j what source j has written to the state (`mambascope.operators.token_mixer.Stepwise`). A copy that loses
sources does without their shares: r · w_j s_j or, if it is t itself, (alpha_tt + D) s_t; p_tj v_j. That is what
`mambascope.trace.cutting` leaves out for the whole text.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from mambascope.brief import brief
from mambascope.families import Family, ScanCall
from mambascope.operators.token_mixer import Stepwise
from mambascope.trace.cutting import VALUES
from mambascope.trace.mixing import Apart
from mambascope.trace.scanning import finished, relative_error

#: Numbers that what sources have written to a state may hold at once, while the state is added up.
WRITTEN = 1 << 22


@dataclass(frozen=True)
class Copies:
    """Copies of one position, each of which may lose some sources.

    Attributes:
        place: The position, t.
        count: The number of copies.
        lost: The sources that each of them loses, a run of tokens; none are lost where it is empty.
    """

    place: int
    count: int
    lost: tuple[range, ...] = ()

    @property
    def before(self) -> list[int]:
        """The sources before t, copy by copy."""
        return [source for span in self.lost for source in span if source < self.place]

    @property
    def losers(self) -> list[int]:
        """The copies that lose them, each as often as it loses one."""
        return [copy for copy, span in enumerate(self.lost) for source in span if source < self.place]

    @property
    def own(self) -> list[int]:
        """The copies that lose t itself."""
        return [copy for copy, span in enumerate(self.lost) if self.place in span]


def runs_of(sources: Iterable[int]) -> Iterator[slice]:
    """Yield some sources as slices, each of sources that follow each other."""
    start = stop = -1
    for source in sources:
        if source != stop:
            if stop > start:
                yield slice(start, stop)
            start = source
        stop = source + 1
    if stop > start:
        yield slice(start, stop)


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
        return cls(family, scan, s, _state(scan, s), own_of(call, place))

    def error(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
        """See `Earlier`."""
        return _apart_in_scan(self.family, self.own, args, kwargs)

    def answer(
        self, copies: Copies, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """See `Earlier`."""
        call, working = self.family.read(*args, **kwargs), self.s.dtype
        scan: Any = self.family.scan(call.coefficients, working)
        s, recalled = call.s.to(working), scan.recalled()[:, 0]
        own = (scan.channels(scan.immediate().transpose(1, 2)).transpose(1, 2) + scan.skip) * s
        own[copies.own] = 0
        o = _read(recalled, self.state[0]).flatten(1)[:, None] + own
        before, losers = copies.before, torch.tensor(copies.losers, dtype=torch.long, device=o.device)
        group = max(1, WRITTEN // max(1, scan.maps * scan.state_size))
        for start in range(0, len(before), group):
            sources, by = before[start : start + group], losers[start : start + group]
            written = torch.cat([self.scan.written(run) for run in runs_of(sources)], dim=2)[0].transpose(0, 1)
            alpha = (recalled[by] * written).sum(dim=-1)
            o[:, 0].index_add_(0, by, scan.channels(alpha) * self.s[0, sources], alpha=-1)
        return call.give(finished(call, o))


@dataclass(frozen=True, eq=False)
class EarlierStates:
    """The state that the tokens before position t leave in a scan, and what some runs of them have given to it.

    Attributes:
        family: The family that reads the call.
        state: The state.
        given: What each run of sources has given to it.
        own: The call at t.
    """

    family: Family
    state: Float[Tensor, "1 *state"]
    given: Mapping[range, Tensor]
    own: dict[str, Tensor]

    __repr__ = brief

    def error(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
        """See `Earlier`."""
        return _apart_in_scan(self.family, self.own, args, kwargs)

    def answer(
        self, copies: Copies, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """See `Earlier`; each copy's scan goes on from its own state."""
        call, working = self.family.read(*args, **kwargs), self.state.dtype
        scan: Any = self.family.scan(call.coefficients, working)
        s, before = call.s.to(working, copy=True), self.state.repeat(copies.count, *[1] * (self.state.ndim - 1))
        for copy, span in enumerate(copies.lost):
            if span in self.given:
                before[copy] -= self.given[span]
        s[copies.own] = 0
        return call.give(finished(call, scan.forwards(s, before)[0] + scan.skip * s))


def own_of(call: ScanCall, place: int = 0) -> dict[str, Tensor]:
    """Return what one position's call of a scan was called with: what has tokens."""
    along = {name: value for name, value in call.coefficients.items() if value.ndim > 2}
    return {name: value[:, place : place + 1].clone() for name, value in {**along, "s": call.s}.items()}


def _apart_in_scan(family: Family, own: dict[str, Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    """Return how far the calls of copies are from that of the position in the text."""
    call = family.read(*args, **kwargs)
    found = call.coefficients | {"s": call.s}
    return _apart([found[name] for name in own], own.values())


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
        query, key, value, mask = attended(bound_to(original, args, kwargs))
        length = key.shape[2]
        if mask is None and length == 1:
            mask = query.new_zeros(1, 1, 1, 1)
        if mask is None or mask.shape[-2:] != (length, length):
            raise Apart("attention has no mask of all pairs")
        own = tuple(part[:, :, place : place + 1].clone() for part in (query, key, value))
        return cls(key[:, :, :place], value[:, :, :place], mask[:1, :, place, : place + 1].clone(), own)

    def error(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
        """See `Earlier`."""
        *found, _ = attended(bound_to(original, args, kwargs))
        return _apart(found, self.own)

    def answer(
        self, copies: Copies, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """See `Earlier`; the copies are queries of one text, each of which sees the keys before t and its own."""
        bound, t, n = bound_to(original, args, kwargs), copies.place, copies.count
        names = arguments_of_attention(bound)
        query, key, value, _ = attended(bound)
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
        lost = [*zip(copies.losers, copies.before, strict=True), *((copy, t + copy) for copy in copies.own)]
        by, columns = torch.tensor(lost, dtype=torch.long, device=p.device).reshape(-1, 2).t()
        share = p[0][:, by, columns, None] * _of_heads(values[0, :, columns], p.shape[1])
        output.index_add_(0, by, share.transpose(0, 1).reshape(len(lost), *output.shape[1:]), alpha=-1)
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


def attended(bound: inspect.BoundArguments) -> Iterator[Any]:
    """Yield q, k, v and the mask."""
    return (bound.arguments.get(name) for name in arguments_of_attention(bound))


def _apart(found: Iterable[Tensor], expected: Iterable[Tensor]) -> float:
    """Return the largest relative difference of what copies of a position have from what it has in the text."""
    return max(relative_error(one, value) for each, value in zip(found, expected, strict=True) for one in each.split(1))
