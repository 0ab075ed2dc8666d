"""How a head spreads its weight over what a target can see: over what is near, or evenly over all of it.

    local     the nearest third of the sources that a target sees hold nine tenths of its weight
    diffuse   as many sources share the weight as half of those that it sees; 2 to the power of the entropy counts them

A local head's memory length is the mean distance of source and target, weighted; 0 is the target itself. No head is
both: nine tenths on a third leave at most 0.495 of the sources to share the weight. Many are neither, such as one that
looks at a few distant sources, or one that forgets within half of the text.

Both say where the weight lies, not what is looked at, and neither is a sign of training: softmax attention of random
weights is often diffuse, and Mamba-2 is initialised with heads that are local. Both depend on the length of the text,
too: of a memory longer than a third of it, nothing is said.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

#: The share of the weight that must be near, and the share of the sources, nearest first, that are near.
WITHIN, NEAR = 0.9, 1 / 3
#: The share of the sources that must share the weight.
EVEN = 0.5


def spread(
    maps: Float[Tensor, "b M L L"], *, causal: bool
) -> tuple[Float[Tensor, " M"], Float[Tensor, " M"], Float[Tensor, " M"]]:
    """Return how maps spread their weight, as means over the targets of the second half.

    Args:
        maps: Absolute weights, as shares of their row.
        causal: Whether a target sees only itself and what comes before it.

    Returns:
        The distance of source and target, weighted, in tokens; which share of the sources that a target sees, nearest
        first, holds `WITHIN` of its weight; and how many sources share the weight, as a share of those that it sees.
    """
    length = maps.shape[-1]
    rows, places = maps[:, :, length // 2 :], torch.arange(length, device=maps.device)
    lags = (places[length // 2 :, None] - places).abs()
    seen = torch.ones_like(lags).tril(length // 2) if causal else torch.ones_like(lags)
    distance = (rows * lags).sum(dim=-1)
    weights = torch.zeros_like(rows).scatter_add_(-1, lags.expand_as(rows), rows).cumsum(dim=-1)
    sources = torch.zeros_like(lags).scatter_add_(-1, lags, seen).cumsum(dim=-1)
    radius = (weights < WITHIN).sum(dim=-1, keepdim=True).clamp_max(length - 1)
    near = sources.expand_as(rows).gather(-1, radius)[..., 0] / sources[:, -1]
    even = torch.special.entr(rows).sum(dim=-1).exp() / sources[:, -1]
    return distance.mean(dim=(0, 2)), near.mean(dim=(0, 2)), even.mean(dim=(0, 2))
