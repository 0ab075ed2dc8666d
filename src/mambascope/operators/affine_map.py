"""A token-mixing layer as the exact affine map of its input tokens: the interface that all methods use.

    y_i = Σ_j T_ij(x_j) + β_i

with the data-dependent coefficients frozen at their forward values (methods section 3). A map is one mixer between two
projections (`mambascope.operators.affine`) or several maps added up (`mambascope.operators.sum_of_maps`). Nothing of
size L·L·D is ever held.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mambascope.brief import brief
from mambascope.errors import InputError, UnsupportedModelError
from mambascope.numbering import shown
from mambascope.operators.blocks import Block, Places, Workspace
from mambascope.operators.chosen_targets import pieces, within_band
from mambascope.operators.products import multiply
from mambascope.operators.token_mixer import TokenMixer

#: The activation rule: how the SiLU of a sum over sources is shared among them.
ActivationRule = Literal["secant", "silu", "identity"]

#: Numbers that one tile of per-channel values may hold: 16 MiB in float32, so that it is still in the cache when it is
#: read again.
TILE_ELEMENTS = 1 << 22

#: Most sources in a tile.
TILE_COLUMNS = 128

#: Share of the channels up to which it pays to pick those that are not zero: the picking costs less than a tenth of the
#: product.
MOST_LIVE = 0.9


class AffineMap(ABC):
    """One layer with its coefficients frozen: an affine map from source tokens to target tokens.

    Attributes:
        x: The layer's input.
        scan: The token mixing itself.
        W_o: The output projection; None where the parts of a sum have none in common.
    """

    x: Float[Tensor, "b L E"]
    scan: TokenMixer
    W_o: Float[Tensor, "F D"] | None

    __repr__ = brief

    @property
    @abstractmethod
    def causal(self) -> bool:
        """Whether no target depends on later tokens."""

    @property
    @abstractmethod
    def inner_width(self) -> int:
        """D, the number of channels."""

    @property
    @abstractmethod
    def taps(self) -> int:
        """K, the number of convolution taps."""

    @property
    def projects_tiles(self) -> bool:
        """Whether tiles of contributions are W_o times what `received_tile` returns, and nothing cheaper or more."""
        return self.W_o is not None and type(self).contribution_tile is AffineMap.contribution_tile

    @abstractmethod
    def output(self) -> Float[Tensor, "b L F"]:
        """Return y, rebuilt from the frozen coefficients by one scan."""

    @abstractmethod
    def bias(self, rule: ActivationRule = "secant") -> Float[Tensor, "b L F"]:
        """Return β for every target: the part of the output that comes from biases and from no token."""

    @abstractmethod
    def explained(self, rule: ActivationRule = "secant") -> Float[Tensor, "b L F"]:
        """Return Σ_j T_ij + β_i under an activation rule, by one scan of what all sources write together."""

    @abstractmethod
    def contributions(
        self, target: int, rule: ActivationRule = "secant"
    ) -> tuple[Float[Tensor, "b L F"], Float[Tensor, "b F"]]:
        """Return the vectors T_ij(x_j) of one target i for every source j, and its bias β_i.

        Their sum over j plus the bias is the layer's output at i, exactly so with the `secant` rule. Time
        O(L·D·(N + E)).

        Args:
            target: Position i, counted from 0.
            rule: The activation rule.

        Raises:
            InputError: if the target is not a position of the text or the rule is unknown.
        """

    @abstractmethod
    def pull(self, q: Float[Tensor, "b L F"], rule: ActivationRule = "secant") -> Float[Tensor, "b L"]:
        """Return Σ_i q_i · T_ij(x_j) for every source j, by one reversed scan.

        Args:
            q: A direction in the output's space per target, zero for targets that do not count.
            rule: The activation rule.
        """

    def passed_on(self, sources: Bool[Tensor, "b L"]) -> Float[Tensor, "b L F"]:
        """Return what the mixing passes on from the values of some sources to every target, by one scan.

        A source's value is what is mixed at its place, after a convolution and with biases; gates and norms are frozen.

        Raises:
            UnsupportedModelError: if this map does not say what it passes on.
        """
        raise UnsupportedModelError(f"{type(self).__name__} does not say what it passes on from a source's value")

    @abstractmethod
    def implicit_row(self, target: int) -> Float[Tensor, "b c"]:
        """Return one row of the implicit attention averaged over channels, for the sources that the target sees."""

    @abstractmethod
    def implicit_pull(self, v: Float[Tensor, "b L"]) -> Float[Tensor, "b L"]:
        """Return vᵀ times the implicit attention averaged over channels, by one reversed scan."""

    @abstractmethod
    def received_tile(self, block: Block, rule: ActivationRule, workspace: Workspace) -> Float[Tensor, "b D t c"]:
        """Return what W_o maps to T, for one block; the answer may live in the workspace."""

    @abstractmethod
    def implicit_tile(self, block: Block, workspace: Workspace) -> Float[Tensor, "b D t c"]:
        """Return the implicit attention per channel for one block; the answer may live in the workspace."""

    def through(self, tokens: Float[Tensor, "b L E"]) -> Float[Tensor, "b L F"]:
        """Return Σ_j T_ij + β_i of other tokens, differentiable in them, the coefficients as they were frozen.

        Its value at the layer's own input is the layer's output, and its backward pass is the transpose of the map.

        Raises:
            UnsupportedModelError: if this map has no such form.
        """
        raise UnsupportedModelError(f"relevance cannot be traced through a {type(self).__name__}")

    def projecting_in(self, dtype: torch.dtype) -> AffineMap:
        """Return the same map, whose tiles of contributions are products with W_o in another dtype, and of that dtype.

        Sums are still in float32 at least, as torch multiplies. Nothing but tiles may be asked of it.

        Raises:
            UnsupportedModelError: if this map has no such form.
        """
        raise UnsupportedModelError(f"the products of a {type(self).__name__} have no other precision than its own")

    @property
    def length(self) -> int:
        """L, the number of tokens."""
        return self.x.shape[1]

    def residual(self, rule: ActivationRule) -> float:
        """Return ‖y - Σ T - β‖ / ‖y‖: the share that an activation rule leaves unexplained, 0 for `secant`."""
        exact = self.output()
        return float((self.explained(rule) - exact).norm() / exact.norm())

    def seen(self, target: int) -> slice:
        """Return the sources that a target may depend on: those up to it, or all if the map is not causal.

        Raises:
            InputError: if the target is not a position of the text.
        """
        if not 0 <= target < self.length:
            raise InputError(
                f"target {target} is not a position of this text, which has positions 0 to {self.length - 1}"
            )
        return slice(0, target + 1 if self.causal else self.length)

    def coarse_blocks(self, taps: int = 1) -> Iterator[Block]:
        """Yield blocks of any size that hold every nonzero pair exactly once: here one block of whole rows.

        Args:
            taps: The most convolution taps of any map that will use the blocks.
        """
        yield Block(slice(0, self.length), slice(0, self.length), whole_rows=True)

    def blocks(self, targets: Places | None = None) -> Iterator[Block]:
        """Yield blocks that hold every nonzero pair exactly once, with per-channel tiles within TILE_ELEMENTS.

        Args:
            targets: Targets whose pairs are wanted: a slice, or ascending numbers of positions; None for all.
        """
        rows = max(8, TILE_ELEMENTS // (self.x.shape[0] * self.inner_width * TILE_COLUMNS))
        for coarse in self.coarse_blocks():
            yield from pieces(coarse, targets, rows, TILE_COLUMNS)

    def contribution_tile(self, block: Block, rule: ActivationRule, workspace: Workspace) -> Float[Tensor, "b F t c"]:
        """Return T for one block: W_o times `received_tile`."""
        assert self.W_o is not None
        return projected(self.received_tile(block, rule, workspace), self.W_o, workspace)

    def contribution_tiles(
        self, rule: ActivationRule = "secant", targets: Places | None = None
    ) -> Iterator[tuple[Block, Float[Tensor, "b F t c"]]]:
        """Yield T for every block of pairs; a tile is valid until the next one is yielded.

        Every nonzero pair is in one block. A tile costs the scan's product and the product with W_o.

        Args:
            rule: The activation rule.
            targets: As in `blocks`.
        """
        check_rule(rule)
        workspace = Workspace()
        for block in self.blocks(targets):
            yield block, self.contribution_tile(block, rule, workspace)

    def implicit_tiles(self, targets: slice | None = None) -> Iterator[tuple[Block, Float[Tensor, "b D t c"]]]:
        """Yield the matrix that acts on u per channel, with gate, convolution, secant and skip ([4]; we keep D).

        The mean that a norm subtracts mixes channels, so it is in none of these matrices: with such a norm, W_o
        receives these matrices times u, less the gate times the scan's mean over channels.

        Args:
            targets: Targets whose pairs are wanted; None for all.
        """
        workspace = Workspace()
        for block in self.blocks(targets):
            yield block, self.implicit_tile(block, workspace)

    def implicit_mean(self, targets: slice | None = None) -> Float[Tensor, "b t L"]:
        """Return the implicit attention averaged over channels, of all targets or of a slice."""
        rows = slice(0, self.length) if targets is None else targets
        out = self.x.new_zeros(self.x.shape[0], rows.stop - rows.start, self.length)
        for block, tile in self.implicit_tiles(rows):
            out[:, within_band(block, rows), block.columns] = tile.mean(dim=1)
        return out


def projected(
    received: Float[Tensor, "b D t c"], W_o: Float[Tensor, "F D"], workspace: Workspace
) -> Float[Tensor, "b F t c"]:
    """Return W_o times what every pair receives, in the dtype of W_o; the answer lives in the workspace.

    In memory a pair's features stand side by side, so that their norms are read as they lie. Channels that are zero at
    all pairs, as those of fast decays are in far blocks, take no part in the product.
    """
    pairs = received.flatten(2)
    live = ((pairs.amax(dim=2) != 0) | (pairs.amin(dim=2) != 0)).any(dim=0).nonzero()[:, 0]
    tile = workspace.take("contributions", (len(pairs), pairs.shape[2], len(W_o)), W_o)
    if len(live) <= MOST_LIVE * len(W_o[0]):
        size = (len(pairs), len(live), pairs.shape[2])
        pairs = torch.index_select(pairs, 1, live, out=workspace.take("live channels", size, pairs))
        W_o = W_o[:, live]
    if pairs.dtype != W_o.dtype:
        pairs = workspace.take("pairs to project", tuple(pairs.shape), W_o).copy_(pairs)
    for text, of_text in zip(pairs, tile, strict=True):  # a product of two matrices is faster than a batch of one
        multiply(text.t(), W_o.t(), of_text)
    return tile.transpose(1, 2).unflatten(2, received.shape[2:])


def check_rule(rule: str) -> None:
    """Raise InputError unless the activation rule is one of `secant`, `silu`, `identity`."""
    if rule not in get_args(ActivationRule):
        raise InputError(f"unknown activation rule {shown(rule)}; choose one of {', '.join(get_args(ActivationRule))}")
