"""A mixer whose output is multiplied, target by target, after W_o: RWKV's channel mix has its gate there.

y_i = r_i ⊙ ( Σ_j T_ij(x_j) + β_i )
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from mambascope.operators.affine import AffineMixer
from mambascope.operators.affine_map import ActivationRule
from mambascope.operators.blocks import Block, Workspace


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class GatedOutput(AffineMixer):
    """One mixer with a frozen factor after its output projection.

    Attributes:
        after: r, which multiplies what W_o returns, with its bias.
    """

    after: Float[Tensor, "b L F"]

    def contributions(
        self, target: int, rule: ActivationRule = "secant"
    ) -> tuple[Float[Tensor, "b L F"], Float[Tensor, "b F"]]:
        """Return the vectors T_ij(x_j) of one target i for every source j, and its bias β_i; see `AffineMap`."""
        vectors, bias = super().contributions(target, rule)
        return vectors * self.after[:, target, None], bias

    def pull(self, q: Float[Tensor, "b L F"], rule: ActivationRule = "secant") -> Float[Tensor, "b L"]:
        """Return Σ_i q_i · T_ij(x_j) for every source j, by one reversed scan; see `AffineMap`."""
        return super().pull(q * self.after, rule)

    def contribution_tile(self, block: Block, rule: ActivationRule, workspace: Workspace) -> Float[Tensor, "b F t c"]:
        """Return T for one block."""
        tile = super().contribution_tile(block, rule, workspace)
        return tile.mul_(self.after[:, block.rows].transpose(1, 2)[..., None])

    def passed_on(self, sources: Bool[Tensor, "b L"]) -> Float[Tensor, "b L F"]:
        """Return what the mixing passes on from the values of some sources to every target; see `AffineMap`."""
        return super().passed_on(sources) * self.after

    def _written(self, o: Float[Tensor, "b t D"], rows: slice = slice(None)) -> Float[Tensor, "b t F"]:
        """Return y at some targets from the scan's output, with all biases."""
        return super()._written(o, rows) * self.after[:, rows]
