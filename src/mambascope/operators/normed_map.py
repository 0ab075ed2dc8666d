"""A mixer whose output is normalised before it is added to the stream, as one exact affine map (OLMo Hybrid).

With the norm's statistic frozen it is a factor per target and feature; a LayerNorm also subtracts the mean over
features, which is linear, and adds a bias that belongs to no token:

    y_i = f_i ⊙ M (Σ_j T_ij(x_j) + β_i) + c ,     M = I or I - 11ᵀ/F
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mambascope.operators.affine_map import ActivationRule, AffineMap
from mambascope.operators.blocks import Block, Workspace
from mambascope.operators.token_mixer import TokenMixer


@dataclass(frozen=True, eq=False, repr=False)
class NormedMap(AffineMap):
    """A map with a frozen norm after it; its implicit attention is that of the map, which acts before W_o.

    Attributes:
        inner: The mixer's own map.
        factor: f, the norm's weight over its statistic, for every target.
        centred: Whether the norm subtracts the mean over features.
        offset: c, the norm's bias, or None.
    """

    inner: AffineMap
    factor: Float[Tensor, "b L F"]
    centred: bool = False
    offset: Float[Tensor, " F"] | None = None

    @property
    def x(self) -> Float[Tensor, "b L E"]:  # type: ignore[override]  # found here, given elsewhere
        """The mixer's input."""
        return self.inner.x

    @property
    def scan(self) -> TokenMixer:  # type: ignore[override]
        """The token mixing itself."""
        return self.inner.scan

    @property
    def W_o(self) -> None:  # type: ignore[override]
        """None: what leads to the output is another map for every target."""

    @property
    def causal(self) -> bool:
        """Whether no target depends on later tokens."""
        return self.inner.causal

    @property
    def inner_width(self) -> int:
        """D, the number of channels."""
        return self.inner.inner_width

    @property
    def taps(self) -> int:
        """K, the number of convolution taps."""
        return self.inner.taps

    def projecting_in(self, dtype: torch.dtype) -> NormedMap:
        """Return the same map with products with W_o in another dtype; see `AffineMap`."""
        return replace(self, inner=self.inner.projecting_in(dtype))

    def output(self) -> Float[Tensor, "b L F"]:
        """Return y, rebuilt from the frozen coefficients by one scan."""
        return self._with_offset(self.normed(self.inner.output(), slice(None)))

    def bias(self, rule: ActivationRule = "secant") -> Float[Tensor, "b L F"]:
        """Return β for every target: the part of the output that comes from biases and from no token."""
        return self._with_offset(self.normed(self.inner.bias(rule), slice(None)))

    def explained(self, rule: ActivationRule = "secant") -> Float[Tensor, "b L F"]:
        """Return Σ_j T_ij + β_i under an activation rule."""
        return self._with_offset(self.normed(self.inner.explained(rule), slice(None)))

    def contributions(
        self, target: int, rule: ActivationRule = "secant"
    ) -> tuple[Float[Tensor, "b L F"], Float[Tensor, "b F"]]:
        """Return the vectors T_ij(x_j) of one target i for every source j, and its bias β_i; see `AffineMap`."""
        vectors, bias = self.inner.contributions(target, rule)
        row = slice(target, target + 1)
        return self.normed(vectors, row), self._with_offset(self.normed(bias[:, None], row))[:, 0]

    def pull(self, q: Float[Tensor, "b L F"], rule: ActivationRule = "secant") -> Float[Tensor, "b L"]:
        """Return Σ_i q_i · T_ij(x_j) for every source j, by one reversed scan; see `AffineMap`."""
        weighed = q * self.factor
        return self.inner.pull(weighed - weighed.mean(dim=-1, keepdim=True) if self.centred else weighed, rule)

    def passed_on(self, sources: Bool[Tensor, "b L"]) -> Float[Tensor, "b L F"]:
        """Return what the mixing passes on from the values of some sources to every target; see `AffineMap`."""
        return self.normed(self.inner.passed_on(sources), slice(None))

    def through(self, tokens: Float[Tensor, "b L E"]) -> Float[Tensor, "b L F"]:
        """Return what the map makes of other tokens, with every coefficient as it is; see `AffineMap`."""
        return self._with_offset(self.normed(self.inner.through(tokens), slice(None)))

    def implicit_row(self, target: int) -> Float[Tensor, "b c"]:
        """Return one row of the implicit attention averaged over channels, for the sources that the target sees."""
        return self.inner.implicit_row(target)

    def implicit_pull(self, v: Float[Tensor, "b L"]) -> Float[Tensor, "b L"]:
        """Return vᵀ times the implicit attention averaged over channels, by one reversed scan."""
        return self.inner.implicit_pull(v)

    def coarse_blocks(self, taps: int = 1) -> Iterator[Block]:
        """Yield the blocks of the mixer's own map."""
        yield from self.inner.coarse_blocks(taps)

    def contribution_tile(self, block: Block, rule: ActivationRule, workspace: Workspace) -> Float[Tensor, "b F t c"]:
        """Return T for one block."""
        return self.normed_tile(self.inner.contribution_tile(block, rule, workspace), block)

    def normed_tile(self, tile: Float[Tensor, "b F t c"], block: Block) -> Float[Tensor, "b F t c"]:
        """Return a tile of vectors, such as the map's own, after the norm; the tile is overwritten."""
        tile = tile.sub_(tile.mean(dim=1, keepdim=True)) if self.centred else tile
        return tile.mul_(self.factor[:, block.rows].transpose(1, 2)[..., None])

    def received_tile(self, block: Block, rule: ActivationRule, workspace: Workspace) -> Float[Tensor, "b F t c"]:
        """Return T for one block: there is no W_o after the norm."""
        return self.contribution_tile(block, rule, workspace)

    def implicit_tile(self, block: Block, workspace: Workspace) -> Float[Tensor, "b D t c"]:
        """Return the implicit attention per channel for one block."""
        return self.inner.implicit_tile(block, workspace)

    def normed(self, values: Float[Tensor, "b t F"], rows: slice) -> Float[Tensor, "b t F"]:
        """Return vectors that belong to these targets after the norm, without its bias."""
        values = values - values.mean(dim=-1, keepdim=True) if self.centred else values
        return values * self.factor[:, rows]

    def _with_offset(self, y: Tensor) -> Tensor:
        return y if self.offset is None else y + self.offset


def normed_map(
    inner: AffineMap,
    y: Float[Tensor, "b L F"],
    weight: Float[Tensor, " F"] | None,
    bias: Float[Tensor, " F"] | None,
    epsilon: float,
    *,
    centred: bool,
) -> NormedMap:
    """Return a map followed by a norm whose statistic is frozen at the map's output.

    Args:
        inner: The map.
        y: Its output.
        weight: The norm's weight, or None.
        bias: The norm's bias, or None.
        epsilon: What it adds to the mean square.
        centred: Whether it subtracts the mean over features first, as LayerNorm does and an RMS norm does not.
    """
    centre = y - y.mean(dim=-1, keepdim=True) if centred else y
    scale = torch.rsqrt(centre.pow(2).mean(dim=-1, keepdim=True) + epsilon)
    return NormedMap(inner, scale.expand_as(y) if weight is None else scale * weight, centred, bias)
