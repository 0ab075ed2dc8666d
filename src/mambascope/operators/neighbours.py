"""A layer whose convolution looks at a token's neighbours on all sides, as one exact affine map (methods section 3).

    y_i = Σ_j T_ij(x_j) + β_i
    T_ij(x_j) = W_o ( g_i ⊙ M Σ_o (alpha_i,j-o + D [i=j-o]) ⊙ f(w_o ⊙ W_x x_j) )

o runs over the steps of the convolution (`mambascope.operators.grid_convolution`), so that source j writes at the
tokens j-o that have it for a neighbour, and f is the activation rule of `mambascope.operators.affine`. M is the
identity, or where a LayerNorm follows the scans, its subtraction of the mean over channels: I - 11ᵀ/D. The rest of the
norm, its frozen deviation and its weight, stands in g, and its bias in `offset`.

The scan may read the tokens in any orders (`mambascope.operators.orders`): VMamba's mixer (arXiv 2401.10166) is four
scans, MambaVision's (arXiv 2407.08083) one, in half of its channels. Even where that is causal the layer is not, for
its convolution looks ahead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mambascope.brief import brief
from mambascope.operators import affine
from mambascope.operators.affine import Rule, check_rule, seen_by
from mambascope.operators.blocks import Block, Workspace, count
from mambascope.operators.grid_convolution import GridConvolution
from mambascope.operators.token_mixer import TokenMixer


@dataclass(frozen=True, eq=False)
class NeighbourMixer:
    """One mixer with its coefficients frozen: an affine map from source tokens to target tokens.

    It answers what `mambascope.operators.affine.AffineMixer` answers.

    Attributes:
        x: The mixer's input.
        scan: The token mixing itself.
        W_x: The part of the input projection that leads to the convolution.
        b_x: Its bias, or None.
        convolution: The convolution over the tokens' grid.
        conv_bias: Its bias, or None.
        gate: g, everything that multiplies the scan's output (less its mean) before W_o.
        W_o: Output projection.
        b_o: Its bias, or None.
        centred: Whether the mean over channels is taken from the scan's output.
        offset: What W_o receives besides, of no token; None for nothing.
    """

    x: Float[Tensor, "b L E"]
    scan: TokenMixer
    W_x: Float[Tensor, "D E"]
    b_x: Float[Tensor, " D"] | None
    convolution: GridConvolution
    conv_bias: Float[Tensor, " D"] | None
    gate: Float[Tensor, "b L D"]
    W_o: Float[Tensor, "F D"]
    b_o: Float[Tensor, " F"] | None
    centred: bool = False
    offset: Float[Tensor, "b L D"] | None = None

    __repr__ = brief

    @property
    def length(self) -> int:
        """L, the number of tokens."""
        return self.x.shape[1]

    @property
    def taps(self) -> int:
        """K, the number of convolution taps."""
        return len(self.convolution.steps)

    @property
    def conv(self) -> Float[Tensor, "D K"]:
        """Convolution taps, in the order of the convolution's steps."""
        return self.convolution.taps

    @cached_property
    def u(self) -> Float[Tensor, "b D L"]:
        """The scan branch W_x x, without its bias: the part that depends on the tokens."""
        return (self.x @ self.W_x.t()).transpose(1, 2)

    @cached_property
    def constant(self) -> Float[Tensor, "b D L"]:
        """The part of the convolution's output that depends on no token: its bias and that of W_x."""
        constant = torch.zeros_like(self.u) if self.conv_bias is None else self.conv_bias[:, None].expand_as(self.u)
        return constant if self.b_x is None else constant + self.convolution.apply(self.b_x[:, None].expand_as(self.u))

    @cached_property
    def preactivation(self) -> Float[Tensor, "b D L"]:
        """a, the convolution's output."""
        return self.convolution.apply(self.u) + self.constant

    @cached_property
    def slope(self) -> Float[Tensor, "b D L"]:
        """σ(a), the secant of the SiLU."""
        return torch.sigmoid(self.preactivation)

    def scanned(self) -> Float[Tensor, "b L D"]:
        """Return o, the output of the scan with its skip, rebuilt from the frozen coefficients."""
        return self._scan(self.slope * self.preactivation).transpose(1, 2)

    def output(self) -> Float[Tensor, "b L F"]:
        """Return y, rebuilt from the frozen coefficients by one scan."""
        return self._projected(self.scanned(), slice(None))

    def bias(self, rule: Rule = "secant") -> Float[Tensor, "b L F"]:
        """Return β for every target: what the output owes to biases and to no token."""
        check_rule(rule)
        return self._projected(self._scan(self._activate(self.constant, self.slope, rule)).transpose(1, 2), slice(None))

    def explained(self, rule: Rule = "secant") -> Float[Tensor, "b L F"]:
        """Return Σ_j T_ij + β_i under a rule, by one scan: what sources write together is known at every token."""
        written = self._activate(self.constant, self.slope, rule)
        for tap, taps in enumerate(self.source_taps(rule).unbind(1)):
            written = written + self.convolution.read(taps, tap)
        return self._projected(self._scan(written).transpose(1, 2), slice(None))

    def residual(self, rule: Rule) -> float:
        """Return ‖y - Σ T - β‖ / ‖y‖ under a rule: what its contributions leave unexplained, 0 for the secant."""
        exact = self.output()
        return float((self.explained(rule) - exact).norm() / exact.norm())

    def contributions(self, target: int, rule: Rule = "secant") -> tuple[Float[Tensor, "b L F"], Float[Tensor, "b F"]]:
        """Return the vectors T_ij(x_j) of one target i for every source j, and its bias β_i; see `AffineMixer`."""
        self.seen(target)
        check_rule(rule)
        row, gate = self._alpha(slice(target, target + 1), Workspace())[:, :, 0], self.gate[:, target, None]
        mixed = self._through(row, self.source_taps(rule)).transpose(1, 2)
        own = (row * self._activate(self.constant, self.slope, rule)).sum(dim=-1)
        bias = self._projected(own[:, None], slice(target, target + 1))[:, 0]
        return (self._centre(mixed, -1) * gate) @ self.W_o.t(), bias

    def pull(self, q: Float[Tensor, "b L F"], rule: Rule = "secant") -> Float[Tensor, "b L"]:
        """Return Σ_i q_i · T_ij(x_j) for every source j, by one reversed scan; see `AffineMixer`."""
        check_rule(rule)
        return self._pull(self._centre(self.gate * (q @ self.W_o), -1), self.source_taps(rule))

    def implicit_pull(self, v: Float[Tensor, "b L"]) -> Float[Tensor, "b L"]:
        """Return vᵀ times the implicit attention averaged over channels, by one reversed scan."""
        return self._pull(self.gate * v[..., None] / self.conv.shape[0], self.unit_taps())

    def contribution_tiles(self, rule: Rule = "secant") -> Iterator[tuple[Block, Float[Tensor, "b F t c"]]]:
        """Yield T for blocks of whole rows; a tile lasts until the next one is asked for."""
        check_rule(rule)
        batch, width, workspace = self.x.shape[0], self.W_o.shape[0], Workspace()
        for block, mixed in self._mixed(self.source_taps(rule)):
            gated = self._centre(mixed, 1) * self._gate_of(block.rows)
            tile = workspace.take("contributions", (batch, width, gated[0, 0].numel()), gated)
            torch.matmul(self.W_o, gated.flatten(2), out=tile)
            yield block, tile.view(batch, width, *block.shape)

    def implicit_tiles(self) -> Iterator[tuple[Block, Float[Tensor, "b D t c"]]]:
        """Yield the matrix acting on u per channel, gate, convolution, secant and skip included.

        The mean that a norm subtracts joins all channels and is in none of their own matrices: with one, W_o receives
        what these make of u, less its mean weighted by the gate.
        """
        for block, mixed in self._mixed(self.unit_taps()):
            yield block, mixed * self._gate_of(block.rows)

    def implicit_row(self, target: int) -> Float[Tensor, "b c"]:
        """Return one row of the implicit attention averaged over channels, for the sources that the target sees."""
        self.seen(target)
        row = self._alpha(slice(target, target + 1), Workspace())[:, :, 0] * self.gate[:, target, :, None]
        return self._through(row, self.unit_taps()).mean(dim=1)

    def implicit_mean(self) -> Float[Tensor, "b L L"]:
        """Return the implicit attention averaged over channels."""
        return torch.cat([tile.mean(dim=1) for _, tile in self.implicit_tiles()], dim=1)

    def seen(self, target: int) -> slice:
        """Return the sources that a target may draw from: all, since the convolution looks ahead."""
        return seen_by(target, self.length, causal=False)

    def source_taps(self, rule: Rule = "secant") -> Float[Tensor, "b K D L"]:
        """Return what every source j writes with each tap at the token that reads it."""
        check_rule(rule)
        taps = self.conv.t()[:, :, None] * self.u[:, None]
        if rule == "secant":
            return taps * self._slopes()
        return F.silu(taps) if rule == "silu" else taps

    def unit_taps(self) -> Float[Tensor, "b K D L"]:
        """Return the secant taps of a unit source: the map that acts on u."""
        return self.conv.t()[:, :, None] * self._slopes()

    def _slopes(self) -> Float[Tensor, "b K D L"]:
        """Return σ(a) at the token at which a source writes with each tap."""
        return torch.stack([self.convolution.written(self.slope, tap) for tap in range(self.taps)], dim=1)

    def _mixed(self, taps: Float[Tensor, "b K D L"]) -> Iterator[tuple[Block, Float[Tensor, "b D t L"]]]:
        """Yield what sources give to targets before norm, gate and W_o, as many whole rows at a time as fit."""
        batch, channels, workspace = self.x.shape[0], self.conv.shape[0], Workspace()
        size = max(1, affine.TILE_ELEMENTS // (batch * channels * self.length))
        for start in range(0, self.length, size):
            rows = slice(start, min(start + size, self.length))
            alpha = self._alpha(rows, workspace)
            yield Block(rows, slice(0, self.length), whole_rows=True), self._through(alpha, taps[..., None, :])

    def _alpha(self, rows: slice, workspace: Workspace) -> Float[Tensor, "b D t L"]:
        """Return whole rows of alpha + D."""
        block = Block(rows, slice(0, self.length), whole_rows=True)
        alpha = self.scan.mix(block, None, None, workspace)
        alpha[..., rows].diagonal(dim1=-2, dim2=-1).add_(self.scan.skip[:, None].expand(-1, count(rows)))
        return alpha

    def _through(self, values: Float[Tensor, "b D *#t L"], taps: Float[Tensor, "b K D *#t L"]) -> Tensor:
        """Return Σ over taps of the value at the token at which a source writes, times what it writes there."""
        products = (self.convolution.written(values, tap) * taps[:, tap] for tap in range(self.taps))
        return sum(products, start=torch.zeros_like(values))

    def _pull(self, v: Float[Tensor, "b L D"], taps: Float[Tensor, "b K D L"]) -> Float[Tensor, "b L"]:
        """Return Σ_i v_i · Σ_k (alpha_ik + D [i=k]) ⊙ taps for every source."""
        flow = torch.addcmul(self.scan.apply_transposed(v), self.scan.skip, v)
        return self._through(flow.transpose(1, 2), taps).sum(dim=1)

    def _scan(self, s: Float[Tensor, "b D L"]) -> Float[Tensor, "b D L"]:
        s = s.transpose(1, 2)
        return torch.addcmul(self.scan.apply(s), self.scan.skip, s).transpose(1, 2)

    def _activate(self, value: Tensor, slope: Tensor, rule: Rule) -> Tensor:
        """Return the rule's activation of a part of a."""
        if rule == "secant":
            return slope * value
        return F.silu(value) if rule == "silu" else value

    def _centre(self, values: Tensor, channels: int) -> Tensor:
        """Return the values less their mean over channels where a norm subtracts it."""
        return values - values.mean(dim=channels, keepdim=True) if self.centred else values

    def _gate_of(self, rows: slice) -> Float[Tensor, "b D t 1"]:
        return self.gate[:, rows].transpose(1, 2)[..., None]

    def _projected(self, o: Float[Tensor, "b t D"], rows: slice) -> Float[Tensor, "b t F"]:
        """Return W_o of the scan's output at some targets, with all that comes between and all biases."""
        received = self._centre(o, -1) * self.gate[:, rows]
        received = received if self.offset is None else received + self.offset[:, rows]
        y = received @ self.W_o.t()
        return y if self.b_o is None else y + self.b_o
