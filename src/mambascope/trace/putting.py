"""Passes in which parts of one run are put into copies of another, by layer and position.

The model's own code runs, and a part of it is replaced on its way:

    stream   what leaves a layer at a position: the residual stream, after the layer's mixers and all that follows them
    mixer    what a layer's mixers give at a position, before it is added to the stream
    state    what a layer's mixers keep of the tokens up to a position for those after it, which is what a cache holds:
             the state of a scan or delta rule, keys and values, the last inputs of a short convolution

A state is put in where a mixer calls a function with what it reads: from the position on, the function is answered for
tokens of which the earlier ones are those of the other run.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from mambascope.brief import brief
from mambascope.errors import UnsupportedModelError
from mambascope.families import Family, ScanCall, find_mixers
from mambascope.families.patch_points import PatchPoint
from mambascope.trace.cutting import VALUES
from mambascope.trace.intervene import intervening
from mambascope.trace.mixing import Apart, mixing
from mambascope.trace.running import call
from mambascope.trace.scanning import intact, read_call, scan_points, scanned

Part = Literal["stream", "mixer", "state"]

#: Which copy of the text has whose part: True for the other run's, by layer and position.
Places = Bool[Tensor, "b layer L"]


class Site(NamedTuple):
    """Where a part of a layer is: one call of a module.

    Attributes:
        layer: The place of the layer among those of `Places`.
        name: The module's name.
        call: Which of its calls it is, from 0.
    """

    layer: int
    name: str
    call: int


@dataclass(frozen=True, eq=False)
class Parts:
    """The parts of one run, in the order in which they were made.

    Attributes:
        part: Which part.
        sites: Where they are.
        held: What they are: the tokens that left a module, or each call with what is read of earlier tokens.
    """

    part: Part
    sites: tuple[Site, ...]
    held: tuple[Any, ...]

    __repr__ = brief


def parts_of(own: nn.Module, inputs: dict[str, Any], part: Part, sites: Sequence[Site]) -> Parts:
    """Run a text, and return its parts at these sites.

    Args:
        own: A private copy of the model, with attention in its eager form.
        inputs: What it is called with, of one text.
        part: Which part.
        sites: Where they are; for states, the mixers.

    Raises:
        UnsupportedModelError: if a part is not tokens in line, or a mixer's state is not what its function reads.
    """
    held: list[Any] = []

    def note(_: int, tokens: Tensor) -> None:
        held.append(tokens.detach().clone())

    def note_call(
        point: PatchPoint, mixer: str, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        held.append(_Kept(point, mixer, _read(families, point, original, args, kwargs)))
        return intact(families, point, original, args, kwargs)

    families = scan_points(family for _, _, family in find_mixers(own))
    with _states(own, note_call, sites) if part == "state" else _leaving(own, note, sites):
        call(own, inputs)
    return Parts(part, tuple(sites), tuple(held))


def with_parts(own: nn.Module, inputs: dict[str, Any], parts: Parts, places: Places) -> Any:
    """Return the model's outputs for copies of a text, each with parts of another run at its own places.

    Args:
        own: As in `parts_of`.
        inputs: The copies.
        parts: The other run's parts.
        places: Where they are put. A state at a position stands for all positions up to it.

    Raises:
        UnsupportedModelError: if the model calls other functions for this text than for the other.
    """

    def put(number: int, tokens: Tensor) -> Tensor:
        chosen = places[:, parts.sites[number].layer, :, None].to(tokens.device)
        return torch.where(chosen, parts.held[number], tokens)

    if parts.part != "state":
        with _leaving(own, put, parts.sites):
            return call(own, inputs)
    left, layer_of = iter(parts.held), _layers(parts)
    families = scan_points(family for _, _, family in find_mixers(own))
    upto = places.flip(-1).cumsum(dim=-1).flip(-1) > 0

    def answer(
        point: PatchPoint, mixer: str, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        kept = next(left, None)
        if kept is None or (kept.point, kept.mixer) != (point, mixer):
            raise Apart(f"{mixer} calls {point.function} for one text and not for the other")
        earlier = upto[:, next(layer_of)]
        if not earlier.any():
            return intact(families, point, original, args, kwargs)
        return _spliced(families, point, original, args, kwargs, kept.read, earlier)

    with _states(own, answer, parts.sites):
        return call(own, inputs)


def differing(first: Parts, second: Parts, layers: int) -> Bool[Tensor, "layer L"]:
    """Return True where two runs have different parts, by layer and position; a state differs from there on.

    The answer is on the CPU, wherever the layers are.

    Args:
        first, second: The same parts of both runs.
        layers: The number of layers.
    """
    states = first.part == "state"
    layer_of = _layers(first) if states else iter(site.layer for site in first.sites)
    found: list[list[Tensor]] = [[] for _ in range(layers)]
    for layer, mine, theirs in zip(layer_of, first.held, second.held, strict=True):
        each = zip(_tokens(mine), _tokens(theirs), strict=True)
        found[layer].append(torch.stack([(a != b).flatten(2).any(dim=-1)[0] for a, b in each]).any(dim=0).cpu())
    apart = torch.stack([torch.stack(of_layer).any(dim=0) for of_layer in found])
    return apart.cumsum(dim=-1) > 0 if states else apart


@contextmanager
def _leaving(own: nn.Module, edit: Callable[[int, Tensor], Tensor | None], sites: Sequence[Site]) -> Iterator[None]:
    """Edit the tokens that leave modules at these sites, given a site's number and its tokens; None leaves them."""
    numbers = {(site.name, site.call): number for number, site in enumerate(sites)}
    made: Counter[str] = Counter()

    def hook(name: str) -> Callable[..., Any]:
        def left(module: nn.Module, _: Any, output: Any) -> Any:
            number = numbers.get((name, made[name]))
            made[name] += 1
            if number is None:
                return None
            tokens = output[0] if isinstance(output, tuple) else output
            if not isinstance(tokens, Tensor) or tokens.ndim != 3:
                raise UnsupportedModelError(
                    f"what leaves {name} ({type(module).__name__}) is not one vector per token, so it cannot be put "
                    "into another run"
                )
            changed = edit(number, tokens)
            if changed is None:
                return None
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        return left

    with intervening(own, None), ExitStack() as stack:
        for name in {site.name for site in sites}:
            stack.callback(own.get_submodule(name).register_forward_hook(hook(name)).remove)
        yield


@contextmanager
def _states(own: nn.Module, answer: Callable[..., Any], sites: Sequence[Site]) -> Iterator[None]:
    """Have the calls of these mixers answered; raises UnsupportedModelError where that cannot be done."""
    try:
        with mixing(own, answer, {site.name for site in sites}):
            yield
    except Apart as error:
        raise UnsupportedModelError(f"the states of this model cannot be put into another run: {error}") from error


class _Kept(NamedTuple):
    """One call of a run: the function, the mixer that called it, and what it read of the tokens."""

    point: PatchPoint
    mixer: str
    read: Any


def _tokens(held: Any) -> list[Tensor]:
    """Return what a part is made of, as tensors (b, L, …)."""
    if isinstance(held, Tensor):
        return [held]
    if isinstance(held.read, ScanCall):
        return [held.read.s, *(one for one in held.read.coefficients.values() if one.ndim > 2)]
    return [
        value.movedim(2, 1) for value in held.read.values()
    ]  # (b, D, L) of a convolution, (b, G, L, d) of attention


def _layers(parts: Parts) -> Iterator[int]:
    """Yield the layer of each call, in order; a mixer that runs several times makes as many calls each time."""
    runs = Counter(site.name for site in parts.sites)
    calls = Counter(kept.mixer for kept in parts.held)
    layers = {(site.name, site.call): site.layer for site in parts.sites}
    made: Counter[str] = Counter()
    for kept in parts.held:
        each = calls[kept.mixer] // runs[kept.mixer]
        yield layers[kept.mixer, made[kept.mixer] // each]
        made[kept.mixer] += 1


def _read(
    families: Mapping[PatchPoint, Family],
    point: PatchPoint,
    original: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Return what a call reads of tokens: a scan's call, the values of a convolution, or keys and values."""
    if point in families:
        return read_call(families[point], args, kwargs)
    bound = inspect.signature(original).bind(*args, **kwargs)
    return {name: bound.arguments[name] for name in _names(families, point, bound)}


def _names(families: Mapping[PatchPoint, Family], point: PatchPoint, bound: inspect.BoundArguments) -> list[str]:
    """Return the names of the arguments that hold tokens: the first of a convolution, keys and values of attention."""
    names = list(bound.signature.parameters)
    return names[:1] if _is_convolution(families, point) else names[VALUES - 1 : VALUES + 1]


def _is_convolution(families: Mapping[PatchPoint, Family], point: PatchPoint) -> bool:
    return any(point == family.conv_point for family in families.values())


def _spliced(
    families: Mapping[PatchPoint, Family],
    point: PatchPoint,
    original: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    read: Any,
    earlier: Bool[Tensor, "b L"],
) -> Any:
    """Return the result of a call in which later tokens see what another run read in place of the earlier ones."""
    if point in families:
        return _spliced_scan(families[point], read_call(families[point], args, kwargs), read, earlier)
    bound = inspect.signature(original).bind(*args, **kwargs)
    convolution = _is_convolution(families, point)
    ours = original(*bound.args, **bound.kwargs)
    earlier = earlier.to((ours if convolution else ours[0]).device)
    mask = earlier[:, None, :] if convolution else earlier[:, None, :, None]
    for name in _names(families, point, bound):
        bound.arguments[name] = torch.where(mask, read[name], bound.arguments[name])
    theirs = original(*bound.args, **bound.kwargs)
    if convolution:
        return torch.where(mask, ours, theirs)
    return torch.where(earlier[:, :, None, None], ours[0], theirs[0]), *ours[1:]


def _spliced_scan(family: Family, ours: ScanCall, read: ScanCall, earlier: Bool[Tensor, "b L"]) -> Any:
    """Return the same for a scan."""

    earlier = earlier.to(ours.s.device)

    def joined(own: Tensor, other: Tensor) -> Tensor:
        return torch.where(earlier.view(*earlier.shape, *[1] * (own.ndim - 2)), other, own)

    along = {name: joined(own, read.coefficients[name]) for name, own in ours.coefficients.items() if own.ndim > 2}
    call = replace(ours, s=joined(ours.s, read.s), coefficients=ours.coefficients | along)
    return ours.give(torch.where(earlier[..., None], scanned(family, ours), scanned(family, call)))
