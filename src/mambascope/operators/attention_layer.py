"""A whole softmax attention layer as the exact affine map of its input tokens (methods section 3; [6] section 2.2).

    y_i = Σ_j Σ_h p^h_ij W_O^h (W_V^h x_j + b_V^h) + b_O

Where nothing comes between p and W_O, what a source writes can be projected once per head, and a tile of contributions
is a product of inner size H where a scan's is one of inner size D. Some layers have an output gate there, a frozen
factor per target and channel; then the product is one of inner size D as well. A frozen factor per source multiplies
W_V x_j + b_V where values come from a latent vector that is normalised (MLA).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mambascope.operators.affine import AffineMixer
from mambascope.operators.affine_map import ActivationRule, projected
from mambascope.operators.blocks import Block, Workspace
from mambascope.operators.convolution import CausalConvolution
from mambascope.operators.products import multiply
from mambascope.operators.softmax_attention import SoftmaxAttention


@dataclass(frozen=True, eq=False, repr=False)
class AttentionLayer(AffineMixer):
    """An attention layer with its probabilities frozen; made by `attention_layer`.

    Attributes:
        gated: Whether there is an output gate, so that `gate` is not 1.
        source_factor: A factor of every source's value; None for 1.
    """

    gated: bool = False
    source_factor: Float[Tensor, "b L 1"] | None = None

    @cached_property
    def slope(self) -> Float[Tensor, "b L D"]:
        """The factor of what every source writes."""
        return torch.ones_like(self.u) if self.source_factor is None else self.source_factor.expand_as(self.u)

    @property
    def projects_tiles(self) -> bool:
        """Whether tiles are W_o times what `received_tile` returns: only with a gate; see `AffineMap`."""
        return self.gated

    @property
    def values(self) -> Float[Tensor, "b L D"]:
        """What every source writes, with the bias of the values: its factor times W_V x_j + b_V."""
        return self.slope * self.preactivation

    def contribution_tile(self, block: Block, rule: ActivationRule, workspace: Workspace) -> Float[Tensor, "b F t c"]:
        """Return T for one block; the activation rules all agree here."""
        return self._tile(self.u if self.source_factor is None else self.slope * self.u, block, workspace)

    def tiles_of(self, values: Float[Tensor, "b L D"]) -> Iterator[tuple[Block, Float[Tensor, "b F t c"]]]:
        """Yield Σ_h p^h_ij W_O^h (g_i ⊙ values_j)^h for every block of pairs; a tile is valid until the next one.

        Args:
            values: What the sources write.
        """
        workspace = Workspace()
        for block in self.blocks():
            yield block, self._tile(values, block, workspace)

    def _tile(self, values: Float[Tensor, "b L D"], block: Block, workspace: Workspace) -> Float[Tensor, "b F t c"]:
        """Return W_O (g_i ⊙ Σ_h p^h_ij values_j) of one block; without a gate, values are projected once per head."""
        heads, columns = self.scan.maps, block.columns
        if self.gated:
            written = values[:, columns].transpose(1, 2)[:, None]
            received = self.scan.mix(block, written, self.gate[:, block.rows], workspace)
            return projected(received, self.W_o, workspace)
        b, L, F = len(values), values[:, columns].shape[1], len(self.W_o)

        def write() -> Tensor:
            by_head = rearrange(values[:, columns].to(self.W_o.dtype), "b c (h p) -> h (b c) p", h=heads)
            W_o, out = rearrange(self.W_o, "f (h p) -> h p f", h=heads), by_head.new_empty(heads, b * L, F)
            return rearrange(multiply(by_head, W_o, out), "h (b c) f -> b c h f", b=b).contiguous()

        written = workspace.keep("written", (id(self), columns.start, columns.stop), write)
        p = rearrange(self.scan.tile(block.rows, columns), "b h t c -> b c t h").to(written.dtype).contiguous()
        tile = multiply(p, written, workspace.take("contributions", (*p.shape[:3], F), p))
        return rearrange(tile, "b c t f -> b f t c")


def attention_layer(
    x: Float[Tensor, "b L E"],
    p: Float[Tensor, "b H L L"],
    W_V: Float[Tensor, "D E"],
    b_V: Float[Tensor, " D"] | None,
    W_O: Float[Tensor, "F D"],
    b_O: Float[Tensor, " F"] | None,
    *,
    gate: Float[Tensor, "b L D"] | None = None,
    source_factor: Float[Tensor, "b L 1"] | None = None,
) -> AttentionLayer:
    """Return the affine map of an attention layer: p for alpha, one tap of ones, no activation, no skip.

    Args:
        x: The layer's input.
        p: Its probabilities.
        W_V: Value projection, one row per channel, D = H·P: rows that several heads share are repeated for each head.
        b_V: Its bias, or None.
        W_O: Output projection.
        b_O: Its bias, or None.
        gate: What multiplies p·V before W_O; None for 1.
        source_factor: A factor of every source's value; None for 1.
    """
    channels, one = W_V.shape[0], W_V.new_ones(())
    return AttentionLayer(
        x=x,
        scan=SoftmaxAttention(p, skip=W_V.new_zeros(channels)),
        W_x=W_V,
        b_x=b_V,
        convolution=CausalConvolution(one.expand(channels, 1)),
        conv_bias=None,
        gate=one.expand(*x.shape[:2], channels) if gate is None else gate,
        W_o=W_O,
        b_o=b_O,
        silu=False,
        gated=gate is not None,
        source_factor=source_factor,
    )
