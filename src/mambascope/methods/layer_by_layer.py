"""Weights of positions carried down through the layers of a run, from the last to the first."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from mambascope.progress import within
from mambascope.trace import Trace
from mambascope.trace.block import Block


def rolled(
    trace: Trace,
    rho: Float[Tensor, "b L"],
    pull: Callable[[Block, Float[Tensor, "b L"]], Float[Tensor, "b L"]],
    before: Callable[[Block, Float[Tensor, "b L"]], Float[Tensor, "b L"]] | None = None,
) -> Float[Tensor, "b L"]:
    """Return ρ Π_λ (I + A^λ), with shared attention as in `mambascope.methods.rollout`.

    Padding carries nothing from layer to layer, whatever its rows and columns of A hold.

    Args:
        trace: A capture.
        rho: The weights at the top.
        pull: Given a layer and weights of its targets, on its device, returns their product with its matrix A.
        before: Given a layer and weights, returns the weights that are carried through it; by default the same.

    Raises:
        UnsupportedModelError: if a layer changes the stream in a way that is not known, such as by another factor.
    """
    for block in trace.layers:
        block.require_trusted("rollout")

    def pulled(block: Block, weights: Float[Tensor, "b L"]) -> Float[Tensor, "b L"]:
        return pull(block, weights.to(block.x.device)).to(weights.device) * real

    direct, mask = rho.new_zeros(rho.shape), trace.attention_mask
    real = torch.ones_like(rho) if mask is None else mask.to(rho)
    for number, block in enumerate(reversed(trace.updates)):
        within(number, len(trace.updates))
        rho = rho if before is None else before(block, rho)
        through = pulled(block, rho)
        rho = rho + through
        if block.fed_by is not None:
            drawn = pulled(block.fed_by, through)
            rho, direct = rho + drawn, direct + drawn
    return rho + direct
