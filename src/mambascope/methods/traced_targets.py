"""Which targets' weights are traced back through a layer: all of them, or those that hold a share of the weight."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mambascope.methods.alti import Pull
from mambascope.trace.block import Block


class TracedTargets:
    """A way back through layers that leaves out targets of little weight, and adds up what it left out.

    Rows of ALTI's shares are not negative and sum to one, so a weight that is left out takes its own size from the
    scores, and no more.

    Attributes:
        all: Whether nothing is left out.
        sums: The weights that were left out, added up, for every text and readout.
        sizes: The same of their absolute values.
    """

    sums: Float[Tensor, "b r"]
    sizes: Float[Tensor, "b r"]

    def __init__(self, pull: Pull, share: float) -> None:
        self._pull, self._share = pull, share
        self.all = share >= 1
        self.sums = self.sizes = torch.zeros(1, 1, dtype=torch.float64)

    def __call__(self, block: Block, rows: Float[Tensor, "b r n L"]) -> Float[Tensor, "b r n parts L"]:
        """Return rows of weights of a layer's targets times its shares."""
        if self.all:
            return self._pull(block, rows)
        kept = holding(self._share, rows.abs().sum(dim=2)).flatten(0, 1).any(dim=0)  # the same for every row
        left_out = torch.where(kept, 0, rows.double())
        self.sums = self.sums.to(rows.device) + left_out.sum(dim=(2, 3))
        self.sizes = self.sizes.to(rows.device) + left_out.abs().sum(dim=(2, 3))
        return self._pull(block, rows * kept)


def holding(share: float, weights: Float[Tensor, "*n L"]) -> Bool[Tensor, "*n L"]:
    """Return which of weights ≥ 0 are the fewest that together hold a share of their sum."""
    largest, order = weights.double().sort(dim=-1, descending=True)
    before = largest.cumsum(dim=-1) - largest
    chosen = before < share * largest.sum(dim=-1, keepdim=True)
    return torch.zeros_like(chosen).scatter(-1, order, chosen)
