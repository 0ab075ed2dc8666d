"""A layer whose scans read the tokens in several orders, as one exact affine map (methods sections 3 and 5).

    y_i = Σ_j T_ij(x_j) + β_i ,   T_ij = Σ_r w_r T^r_{ρ_r(i) ρ_r(j)}

Each direction is a mixer of its own over the permuted tokens, ρ_r(i) the step at which it reads token i: a convolution
runs along the order of its direction. The vectors are added before any norm of them is taken. Vim (arXiv 2401.09417)
has two directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from mambascope.brief import brief
from mambascope.operators import affine
from mambascope.operators.affine import AffineMixer, Rule, check_rule, seen_by
from mambascope.operators.blocks import Block, Workspace, count, split
from mambascope.operators.orders import DirectedScan, Order, OrderedScan


@dataclass(frozen=True, eq=False)
class Direction:
    """One direction.

    Attributes:
        mixer: Its map, over the tokens in its order and without the output projection's bias; all directions have the
            same W_o.
        order: That order.
        weight: What its output is multiplied by in the sum.
    """

    mixer: AffineMixer
    order: Order
    weight: float = 1.0

    __repr__ = brief


@dataclass(frozen=True, eq=False)
class DirectedMixer:
    """One mixer with several directions, its coefficients frozen: an affine map from source tokens to target tokens.

    It answers what `mambascope.operators.affine.AffineMixer` answers.

    Attributes:
        x: The mixer's input.
        directions: Its directions.
        b_o: Bias of the output projection, or None.
    """

    x: Float[Tensor, "b L E"]
    directions: tuple[Direction, ...]
    b_o: Float[Tensor, " F"] | None

    __repr__ = brief

    @cached_property
    def scan(self) -> DirectedScan:
        """The token mixing itself; what makes a target's weights halves of a sum stands in its gates."""
        return DirectedScan(tuple(OrderedScan(one.mixer.scan, one.order, one.weight) for one in self.directions))

    @property
    def length(self) -> int:
        """L, the number of tokens."""
        return self.x.shape[1]

    @property
    def taps(self) -> int:
        """K, the number of convolution taps of a direction."""
        return self.directions[0].mixer.taps

    @property
    def conv(self) -> Float[Tensor, "D K"]:
        """Convolution taps of the first direction."""
        return self.directions[0].mixer.conv

    @property
    def W_o(self) -> Float[Tensor, "F D"]:
        """Output projection."""
        return self.directions[0].mixer.W_o

    def output(self) -> Float[Tensor, "b L F"]:
        """Return y, rebuilt from the frozen coefficients by one scan per direction."""
        return self._biased(self._sum(lambda one: one.mixer.output()))

    def bias(self, rule: Rule = "secant") -> Float[Tensor, "b L F"]:
        """Return β for every target: what the output owes to biases and to no token."""
        return self._biased(self._sum(lambda one: one.mixer.bias(rule)))

    def explained(self, rule: Rule = "secant") -> Float[Tensor, "b L F"]:
        """Return Σ_j T_ij + β_i under a rule."""
        return self._biased(self._sum(lambda one: one.mixer.explained(rule)))

    def residual(self, rule: Rule) -> float:
        """Return ‖y - Σ T - β‖ / ‖y‖ under a rule: what its contributions leave unexplained, 0 for the secant."""
        exact = self.output()
        return float((self.explained(rule) - exact).norm() / exact.norm())

    def contributions(self, target: int, rule: Rule = "secant") -> tuple[Float[Tensor, "b L F"], Float[Tensor, "b F"]]:
        """Return the vectors T_ij(x_j) of one target i for every source j, and its bias β_i; see `AffineMixer`."""
        self.seen(target)
        vectors, bias = self.x.new_zeros(()), self.x.new_zeros(())
        for one in self.directions:
            of_one, own_bias = one.mixer.contributions(int(one.order.steps[target]), rule)
            vectors = vectors + one.weight * one.order.restore(of_one)
            bias = bias + one.weight * own_bias
        return vectors, self._biased(bias)

    def pull(self, q: Float[Tensor, "b L F"], rule: Rule = "secant") -> Float[Tensor, "b L"]:
        """Return Σ_i q_i · T_ij(x_j) for every source j, by one reversed scan per direction."""
        return self._sum(lambda one: one.mixer.pull(one.order.read(q), rule))

    def implicit_pull(self, v: Float[Tensor, "b L"]) -> Float[Tensor, "b L"]:
        """Return vᵀ times the implicit attention averaged over channels, by one reversed scan per direction."""
        return self._sum(lambda one: one.mixer.implicit_pull(one.order.read(v)))

    def contribution_tiles(self, rule: Rule = "secant") -> Iterator[tuple[Block, Float[Tensor, "b F t c"]]]:
        """Yield T for blocks of whole rows; a tile lasts until the next one is asked for."""
        check_rule(rule)
        batch, width, workspace = self.x.shape[0], self.W_o.shape[0], Workspace()
        for block, mixed in self._mixed(lambda mixer, sources: mixer.source_taps(sources, rule), workspace):
            tile = workspace.take("contributions", (batch, width, mixed[0, 0].numel()), mixed)
            torch.matmul(self.W_o, mixed.flatten(2), out=tile)
            yield block, tile.view(batch, width, *block.shape)

    def implicit_tiles(self) -> Iterator[tuple[Block, Float[Tensor, "b D t c"]]]:
        """Yield the matrix acting on u per channel, gate, convolution, secant and skip included."""
        yield from self._mixed(lambda mixer, sources: mixer.unit_taps(sources), Workspace())

    def implicit_row(self, target: int) -> Float[Tensor, "b c"]:
        """Return one row of the implicit attention averaged over channels, for the sources that the target sees."""
        row = self.x.new_zeros(self.x.shape[:2])
        for one in self.directions:
            step = int(one.order.steps[target])
            seen = one.order.tokens[one.mixer.seen(step)]
            row[:, seen] += one.weight * one.mixer.implicit_row(step)
        return row[:, self.seen(target)]

    def implicit_mean(self) -> Float[Tensor, "b L L"]:
        """Return the implicit attention averaged over channels."""
        total = self.x.new_zeros(self.x.shape[0], self.length, self.length)
        for one in self.directions:
            steps = one.order.steps
            total += one.weight * one.mixer.implicit_mean()[:, steps[:, None], steps]
        return total

    def seen(self, target: int) -> slice:
        """Return the sources that a target may draw from; see `AffineMixer`."""
        return seen_by(target, self.length, self.scan.causal)

    def _mixed(
        self, taps: Callable[[AffineMixer, slice], Tensor], workspace: Workspace
    ) -> Iterator[tuple[Block, Float[Tensor, "b D t L"]]]:
        """Yield what sources give to targets before W_o, for as many whole rows at a time as a tile may hold."""
        batch, channels = self.x.shape[0], self.conv.shape[0]
        size = max(8, affine.TILE_ELEMENTS // (batch * channels * self.length))
        inner = Workspace()
        for start in range(0, self.length, size):
            rows = slice(start, min(start + size, self.length))
            total = workspace.take("total", (batch, channels, count(rows), self.length), self.x)
            total.zero_()
            for one in self.directions:

                def tile(block: Block, one: Direction = one) -> Tensor:
                    return one.mixer.mixed_tile(block, taps(one.mixer, block.columns), inner)

                blocks = (part for coarse in one.mixer.scan.blocks(one.mixer.taps) for part in _fine(coarse))
                total.add_(one.order.rows(rows, blocks, tile, inner), alpha=one.weight)
            yield Block(rows, slice(0, self.length), whole_rows=True), total

    def _sum(self, of: Callable[[Direction], Tensor]) -> Tensor:
        return torch.stack([one.weight * one.order.restore(of(one)) for one in self.directions]).sum(dim=0)

    def _biased(self, y: Tensor) -> Tensor:
        return y if self.b_o is None else y + self.b_o


def _fine(block: Block) -> Iterator[Block]:
    return split(block, block.shape[0], affine.TILE_COLUMNS)
