"""What a model's layers are, from what ran: kinds and sizes of mixers, what is shared, what runs in parallel.

All of it is read from a trace: sizes from the operators, names from the classes, and which parts act on each token by
itself from what is left of a block beside its mixers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mambascope.families import Kind, found_by
from mambascope.trace.block import Block, Branch
from mambascope.trace.propagation_rules import is_norm
from mambascope.trace.trace import Trace


@dataclass(frozen=True)
class MixerFacts:
    """One mixer of a layer.

    Attributes:
        kind: The kind of mixer.
        mixer_class: Its class.
        family: The model type of the family that reads it.
        found: By what it was recognised; empty if its class is named by the family.
        channels: D, its inner width.
        heads: Number of distinct matrices; as many as channels where each has its own.
        state: N, the size of its state; None for attention, which has none.
        groups: How many heads of keys and values, or of B and C, its heads share; None if each has its own.
        convolution: K, its convolution's taps; 1 if there is none.
        window: How many tokens it sees at most, where its class says so.
        orders: In how many orders it reads its tokens.
        scale: The factor of its output in the residual stream.
    """

    kind: Kind
    mixer_class: str
    family: str
    found: str
    channels: int
    heads: int
    state: int | None
    groups: int | None
    convolution: int
    window: int | None
    orders: int
    scale: float

    def __str__(self) -> str:
        each = self.heads == self.channels
        said = [f"{self.channels} channels" if each else f"{self.heads} heads of {self.channels // self.heads}"]
        said += [
            f"{number} {word}" for word, number in (("groups", self.groups), ("orders", self.orders)) if _more(number)
        ]
        said += [f"state {self.state}"] if self.state else []
        said += [f"convolution {self.convolution}"] if self.convolution > 1 else []
        said += [f"window {self.window}"] if self.window else []
        said += [f"times {self.scale:.4g}"] if self.scale != 1 else []
        return f"{self.mixer_class}, {', '.join(said)}"


@dataclass(frozen=True)
class LayerFacts:
    """One layer.

    Attributes:
        mixers: Its mixers; where there are several, their outputs are added side by side.
        token_wise: The other parts with weights, each of which acts on every token by itself, with their experts.
        beside: Whether these run in parallel with the mixers, instead of after them.
        shared_with: The first layer whose mixers have some of the same weights; None if there is none.
        followed: Whether the stream before it and its mixers' outputs add up to the stream after it; None if there is
            no stream around it.
    """

    mixers: tuple[MixerFacts, ...]
    token_wise: tuple[str, ...]
    beside: bool
    shared_with: int | None
    followed: bool | None


@dataclass(frozen=True)
class LayerMap:
    """The layers of a model, equal ones together.

    Attributes:
        layers: The numbers of the layers that are equal, and what they are, in the order of the first of them.
        others: The blocks that have no mixer, by the parts in them: names, and what they hold.
    """

    layers: tuple[tuple[tuple[int, ...], LayerFacts], ...]
    others: tuple[tuple[tuple[str, ...], str], ...]


def layer_map(trace: Trace) -> LayerMap:
    """Return what the layers of a model are."""
    first: dict[int, int] = {}
    layers: dict[LayerFacts, list[int]] = {}
    for block in trace.layers:
        weights = [weight.data_ptr() for branch in block.branches for weight in branch.mixer.parameters()]
        shared = min((first[weight] for weight in weights if weight in first), default=None)
        for weight in weights:
            first.setdefault(weight, block.index)
        layers.setdefault(_layer(trace, block, shared), []).append(block.index)
    return LayerMap(
        tuple((tuple(numbers), facts) for facts, numbers in layers.items()),
        tuple((tuple(names), held) for held, names in _without_mixers(trace).items()),
    )


def runs(numbers: Sequence[int]) -> str:
    """Return numbers in order as `0-4, 6`."""
    found = []
    for _, run in itertools.groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        found.append(str(members[0]) if len(members) == 1 else f"{members[0]}-{members[-1]}")
    return ", ".join(found)


def _layer(trace: Trace, block: Block, shared: int | None) -> LayerFacts:
    place = _place(trace, block)
    last = not any(other.name == block.name and other.index > block.index for other in trace.layers)
    names = [*(branch.name for branch in trace.branches), *(part.name for part in trace.missing)]
    return LayerFacts(
        mixers=tuple(_mixer(branch) for branch in block.branches),
        token_wise=tuple(_parts(place, block.name, names)) if place is not None and last else (),
        beside=place is not None and bool(block.branches[0].family.beside(place)),
        shared_with=shared,
        followed=None if block.stream_in is None else block.trusted,
    )


def _mixer(branch: Branch) -> MixerFacts:
    mixer: Any = branch.mixer
    operator = branch.operator()
    scan: Any = operator.scan
    attention = branch.kind == "attention"
    groups = getattr(scan, "B", torch.empty(0))
    heads, sharing = scan.maps, getattr(mixer, "num_key_value_groups", 1)
    shared = heads // sharing if attention else groups.shape[2] if groups.ndim == 4 else heads
    window = _window(mixer) if attention else None
    return MixerFacts(
        kind=branch.kind,
        mixer_class=type(mixer).__name__,
        family=branch.family.model_type,
        found=found_by(branch.family),
        channels=operator.inner_width,
        heads=heads,
        state=None if attention else scan.state_size,
        groups=None if shared == heads or not isinstance(shared, int) else shared,
        convolution=operator.taps,
        window=window,
        orders=len(getattr(branch.family, "readings", (None,))),
        scale=branch.scale,
    )


def _window(layer: Any) -> int | None:
    """Return how many tokens an attention layer sees at most, as it says itself, or its model for all layers alike."""
    config = getattr(layer, "config", None)
    of_model = None if hasattr(config, "layer_types") else getattr(config, "sliding_window", None)
    window = getattr(layer, "sliding_window", of_model)
    return window if isinstance(window, int) else None


def _more(number: int | None) -> bool:
    return number is not None and number > 1


def _place(trace: Trace, block: Block) -> nn.Module | None:
    """Return the module of a block; None where a mixer is in no block of its own."""
    names = {branch.name for branch in block.branches}
    return None if block.name in names or not block.name else trace.model.get_submodule(block.name)


def _parts(place: nn.Module, name: str, mixers: Sequence[str]) -> Iterator[str]:
    """Yield the parts of a block that have weights, besides mixers and norms."""
    for child, part in place.named_children():
        inside = f"{name}.{child}"
        has_mixer = any(mixer == inside or mixer.startswith(f"{inside}.") for mixer in mixers)
        weighs = any(weight.ndim > 1 for weight in part.parameters())
        if weighs and not has_mixer and not is_norm(part):
            yield type(part).__name__ + _experts(part)


def _experts(part: Any) -> str:
    """Return how many experts a part has, and how many of them read a token, in words; empty if it has none."""
    experts = getattr(part, "experts", None)
    if experts is None:
        return ""
    count = len(experts) if isinstance(experts, nn.ModuleList) else getattr(experts, "num_experts", None)
    if count is None:
        count = next((weight.shape[0] for weight in experts.parameters() if weight.ndim == 3), None)
    holders = (part, getattr(part, "router", None), getattr(part, "gate", None))
    chosen = next((top for one in holders if isinstance(top := getattr(one, "top_k", None), int)), None)
    return f" of {count} experts" + (f", {chosen} for each token" if chosen else "")


def _without_mixers(trace: Trace) -> dict[str, list[str]]:
    """Return the names of the blocks beside the layers that have no mixer, by what they hold."""
    mixers = [*(branch.name for branch in trace.branches), *(part.name for part in trace.missing)]
    found: dict[str, list[str]] = {}
    for around in dict.fromkeys(block.name.rpartition(".")[0] for block in trace.layers):
        container = trace.model.get_submodule(around) if around else trace.model
        if not isinstance(container, nn.ModuleList):
            continue
        for number, block in container.named_children():
            name = f"{around}.{number}"
            if not any(mixer == name or mixer.startswith(f"{name}.") for mixer in mixers):
                held = ", ".join(_parts(block, name, mixers)) or type(block).__name__
                found.setdefault(held, []).append(name)
    return found
