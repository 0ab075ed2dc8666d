"""A map of every head on one text, or of every group of channels, beside what each does.

A map's row holds, for one target, the shares of |α| that its sources have. Maps of longer texts are kept in at most
`SIDE` × `SIDE` cells, each the largest share of its area.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mambascope.brief import brief
from mambascope.theory.channel_groups import Groups
from mambascope.theory.heads import Head, weights
from mambascope.theory.probe_texts import ProbeTexts
from mambascope.trace import Trace

#: Cells across and down of a map of a longer text.
SIDE = 48
#: The most tokens whose maps are kept whole, and the most numbers that all whole maps may hold.
WHOLE, NUMBERS = 128, 2**20


@dataclass(frozen=True)
class MixerGallery:
    """The heads of one mixer, or its groups of channels.

    Attributes:
        layer: Number of its layer.
        name: Its name in the model.
        kind: Its kind.
        heads: What each head or group does.
        channels: How many channels each group has; None where every map is a head's.
        maps: Shares of |α|; of a cell, the largest in it.
    """

    layer: int
    name: str
    kind: str
    heads: tuple[Head, ...]
    channels: tuple[int, ...] | None
    maps: Float[Tensor, "M t s"]

    __repr__ = brief


@dataclass(frozen=True)
class Gallery:
    """The heads of a model and their maps of one text, in the order of the layers.

    Attributes:
        tokens: The text of each position.
        mixers: Each mixer of each layer.
        probes: What the heads' labels were measured on.
    """

    tokens: tuple[str, ...]
    mixers: tuple[MixerGallery, ...]
    probes: ProbeTexts

    __repr__ = brief


def mixer_galleries(trace: Trace, heads: Sequence[Head], groups: Groups) -> tuple[MixerGallery, ...]:
    """Return the maps of every mixer on a text, beside what its heads do.

    Args:
        trace: A capture of one text.
        heads: What every head does, as `heads_of` says with these groups.
        groups: The groups of channels, see `channel_groups`.

    Raises:
        MapTooLargeError: if the maps would not fit in memory while they are made.
    """
    length, own = trace.shape[1], defaultdict[tuple[str, int], list[Head]](list)
    for head in heads:
        own[head.name, head.layer].append(head)
    whole = length <= WHOLE and len(heads) * length**2 <= NUMBERS
    side = length if whole else min(length, SIDE)
    made = []
    for layer, block in enumerate(trace.layers):
        for branch in block.branches:
            place = branch.name, layer
            operator: Any = branch.operator()
            found = [
                F.adaptive_max_pool2d(maps[0], side).float().cpu()
                for maps in weights(operator.scan, 1, length, groups.get(place))
            ]
            sizes = tuple(groups[place].bincount().tolist()) if place in groups else None
            made.append(MixerGallery(layer, branch.name, branch.kind, tuple(own[place]), sizes, torch.cat(found)))
    return tuple(made)
