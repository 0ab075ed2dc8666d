"""A whole token-mixing layer as the exact affine map of its input tokens (methods section 3; the central object).

With the data-dependent coefficients frozen at their forward values,

    y_i = Σ_{j≤i} T_ij(x_j) + β_i
    T_ij(x_j) = W_o ( g_i ⊙ Σ_{k=j}^{min(i, j+K-1)} (alpha_ik + D [i=k]) ⊙ f(w_{k-j} ⊙ W_x x_j) )

where f is the activation rule: `secant`, σ(a_k) times its argument, is exact; `silu` is LaTIM's choice ([5] eq. 13);
`identity` is for models without the activation. Nothing of size L·L·D is ever held.

Softmax attention is the same map: alpha = p, one tap of ones, no activation, gate 1, no skip, W_x = W_V; its sum runs
over every source that the targets see, and the three rules are one ([6] section 2.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from mambascope.brief import brief
from mambascope.errors import InputError
from mambascope.operators.blocks import Block, Places, Workspace, split
from mambascope.operators.token_mixer import TokenMixer

Rule = Literal["secant", "silu", "identity"]

#: Numbers that one tile of per-channel values may hold (64 MiB in float32).
TILE_ELEMENTS = 1 << 24

#: Sources whose taps are held at a time when nothing else of their size is.
PULLED_SOURCES = 1024

#: Most sources of a tile.
TILE_COLUMNS = 128


@dataclass(frozen=True, eq=False)
class AffineMixer:
    """One mixer with its coefficients frozen: an affine map from source tokens to target tokens.

    Attributes:
        x: The mixer's input, zero at padded tokens.
        scan: The token mixing itself.
        W_x: The part of the input projection that leads to the scan.
        b_x: Its bias, or None.
        conv: Causal convolution taps, tap 0 on the current token.
        conv_bias: Its bias.
        gate: g, everything that multiplies the scan's output before W_o.
        W_o: Output projection.
        b_o: Its bias, or None.
        mask: True at real tokens; None when there is no padding, or alpha itself leaves it out.
        silu: Whether the SiLU follows the convolution; without it f is the identity, whatever the rule.
    """

    x: Float[Tensor, "b L E"]
    scan: TokenMixer
    W_x: Float[Tensor, "D E"]
    b_x: Float[Tensor, " D"] | None
    conv: Float[Tensor, "D K"]
    conv_bias: Float[Tensor, " D"] | None
    gate: Float[Tensor, "b L D"]
    W_o: Float[Tensor, "F D"]
    b_o: Float[Tensor, " F"] | None
    mask: Bool[Tensor, "b L"] | None = None
    silu: bool = True

    __repr__ = brief

    @property
    def length(self) -> int:
        """L, the number of tokens."""
        return self.x.shape[1]

    @property
    def taps(self) -> int:
        """K, the number of convolution taps."""
        return self.conv.shape[1]

    @cached_property
    def u(self) -> Float[Tensor, "b L D"]:
        """The scan branch W_x x, without its bias: the part that depends on the tokens."""
        return self.x @ self.W_x.t()

    @cached_property
    def constant(self) -> Float[Tensor, "b L D"]:
        """The part of the convolution's output that depends on no token: its bias and that of W_x."""
        constant = torch.zeros_like(self.u) if self.conv_bias is None else self.conv_bias.expand_as(self.u)
        return constant if self.b_x is None else constant + self._convolve(self.b_x.expand_as(self.u))

    @cached_property
    def preactivation(self) -> Float[Tensor, "b L D"]:
        """a, the convolution's output."""
        return self._convolve(self.u) + self.constant

    @cached_property
    def slope(self) -> Float[Tensor, "b L D"]:
        """σ(a), the secant of the SiLU, 1 without one; zero where padding was removed after the convolution."""
        slope = torch.sigmoid(self.preactivation) if self.silu else torch.ones_like(self.u)
        return slope if self.mask is None else slope * self.mask[..., None]

    def output(self) -> Float[Tensor, "b L F"]:
        """Return y, rebuilt from the frozen coefficients by one scan."""
        return self._project(self._scan(self.slope * self.preactivation), bias=True)

    def bias(self, rule: Rule = "secant") -> Float[Tensor, "b L F"]:
        """Return β for every target: what the output owes to biases and to no token."""
        return self._project(self._scan(self._activate(self.constant, self.slope, rule)), bias=True)

    def residual(self, rule: Rule) -> float:
        """Return ‖y - Σ T - β‖ / ‖y‖ under a rule: what its contributions leave unexplained, 0 for the secant."""
        exact = self.output()
        return float((self.explained(rule) - exact).norm() / exact.norm())

    def explained(self, rule: Rule = "secant") -> Float[Tensor, "b L F"]:
        """Return Σ_j T_ij + β_i under a rule, by one scan: what sources write together is known at every position."""
        check_rule(rule)
        taps = self.source_taps(slice(0, self.length), rule)
        written = torch.zeros_like(self.u)
        for shift in range(min(self.taps, self.length)):
            written[:, shift:] += taps[:, shift, :, : self.length - shift].transpose(1, 2)
        written += self._activate(self.constant, self.slope, rule)
        return self._project(self._scan(written), bias=True)

    def contributions(self, target: int, rule: Rule = "secant") -> tuple[Float[Tensor, "b L F"], Float[Tensor, "b F"]]:
        """Return the vectors T_ij(x_j) of one target i for every source j, and its bias β_i.

        Their sum over j plus the bias is the mixer's output at i, exactly with the `secant` rule. O(L·D·(N + E)).

        Args:
            target: Position i, counted from 0.
            rule: The activation rule.

        Raises:
            InputError: if the target is not a position of the text or the rule is unknown.
        """
        check_rule(rule)
        row, seen = self._row(target), self.seen(target)
        mixed = torch.einsum("bckd,bkdc->bcd", _windows(row, self.taps), self.source_taps(seen, rule))
        vectors = self.x.new_zeros(self.x.shape[0], self.length, self.W_o.shape[0])
        vectors[:, seen] = self._project(mixed, gate=self.gate[:, target, None])
        constant = self._activate(self.constant[:, seen], self.slope[:, seen], rule)
        bias = torch.einsum("bcd,bcd->bd", row, constant) * self.gate[:, target]
        return vectors, self._project_bias(bias @ self.W_o.t())

    def pull(self, q: Float[Tensor, "b L F"], rule: Rule = "secant") -> Float[Tensor, "b L"]:
        """Return Σ_i q_i · T_ij(x_j) for every source j, by one reversed scan.

        Args:
            q: A direction in the output's space per target, zero where a target is not asked about.
            rule: The activation rule.
        """
        check_rule(rule)
        return self._pull(self.gate * (q @ self.W_o), lambda sources: self.source_taps(sources, rule))

    def implicit_pull(self, v: Float[Tensor, "b L"]) -> Float[Tensor, "b L"]:
        """Return vᵀ times the implicit attention averaged over channels, by one reversed scan."""
        return self._pull(self.gate * v[..., None] / self.conv.shape[0], self.unit_taps)

    def contribution_tiles(self, rule: Rule = "secant") -> Iterator[tuple[Block, Float[Tensor, "b F t c"]]]:
        """Yield T for every block of pairs; a tile lasts until the next one is asked for.

        Every pair that is not zero is in one block (`TokenMixer.blocks`). Per tile: the operator's product and W_o's.
        """
        check_rule(rule)
        batch, width = self.x.shape[0], self.W_o.shape[0]
        workspace = Workspace()
        for block in self._blocks():
            mixed = self.mixed_tile(block, self.source_taps(block.columns, rule), workspace)
            tile = workspace.take("contributions", (batch, width, mixed[0, 0].numel()), mixed)
            torch.matmul(self.W_o, mixed.flatten(2), out=tile)
            yield block, tile.view(batch, width, *block.shape)

    def implicit_tiles(self) -> Iterator[tuple[Block, Float[Tensor, "b D t c"]]]:
        """Yield the matrix acting on u per channel, gate, convolution, secant and skip included ([4]; we keep D)."""
        workspace = Workspace()
        for block in self._blocks():
            yield block, self.mixed_tile(block, self.unit_taps(block.columns), workspace)

    def implicit_row(self, target: int) -> Float[Tensor, "b c"]:
        """Return one row of the implicit attention averaged over channels, for the sources that the target sees."""
        row, taps = self._row(target), self.unit_taps(self.seen(target))
        mixed = torch.einsum("bckd,bkdc->bcd", _windows(row, self.taps), taps)
        return (mixed * self.gate[:, target, None]).mean(dim=-1)

    def implicit_mean(self) -> Float[Tensor, "b L L"]:
        """Return the implicit attention averaged over channels."""
        out = self.x.new_zeros(self.x.shape[0], self.length, self.length)
        workspace = Workspace()
        for coarse in self.scan.blocks(self.taps):
            for block in split(coarse, 256, 256):
                taps, gate = self.unit_taps(block.columns), self.gate[:, block.rows]
                tile = self.scan.mean(block, taps, gate, workspace)
                for shift, (targets, sources) in _skip_pairs(block, self.taps):
                    direct = torch.einsum("btd,d,bdt->bt", gate[:, targets], self.scan.skip, taps[:, shift, :, sources])
                    tile[:, targets, sources].diagonal(dim1=-2, dim2=-1).add_(direct / self.conv.shape[0])
                out[:, block.rows, block.columns] = tile
        return out

    def seen(self, target: int) -> slice:
        """Return the sources that a target may draw from: those up to it, or all if the mixing is not causal.

        Raises:
            InputError: if the target is not a position of the text.
        """
        return seen_by(target, self.length, self.scan.causal)

    def source_taps(self, sources: slice, rule: Rule = "secant") -> Float[Tensor, "b K D c"]:
        """Return what every source j writes at position j+δ of the scan's input; zero beyond the end of the text."""
        taps = self.conv.t()[:, :, None] * self.u[:, None, sources].transpose(-1, -2)
        slopes = _windows(self.slope, self.taps, sources).permute(0, 2, 3, 1)
        if rule == "secant" or not self.silu:
            return taps * slopes
        inside = _windows(self._kept(), self.taps, sources).permute(0, 2, 3, 1)
        return (F.silu(taps) if rule == "silu" else taps) * inside

    def _blocks(self) -> Iterator[Block]:
        """Yield the operator's blocks in pieces whose per-channel tiles stay within TILE_ELEMENTS."""
        rows = max(8, TILE_ELEMENTS // (self.x.shape[0] * self.conv.shape[0] * TILE_COLUMNS))
        for coarse in self.scan.blocks(self.taps):
            yield from split(coarse, rows, TILE_COLUMNS)

    def unit_taps(self, sources: slice) -> Float[Tensor, "b K D c"]:
        """Return the secant taps of a unit source: the map that acts on u."""
        return _windows(self.slope, self.taps, sources).permute(0, 2, 3, 1) * self.conv.t()[:, :, None]

    def mixed_tile(self, block: Block, taps: Tensor, workspace: Workspace) -> Float[Tensor, "b D t c"]:
        """Return g_i ⊙ Σ_k (alpha_ik + D [i=k]) ⊙ taps of one block of the scan's: the contribution before W_o."""
        gate = self.gate[:, block.rows]
        tile = self.scan.mix(block, taps, gate, workspace)
        for shift, (targets, sources) in _skip_pairs(block, self.taps):
            direct = gate[:, targets].transpose(1, 2) * self.scan.skip[:, None] * taps[:, shift, :, sources]
            if isinstance(targets, slice):
                tile[:, :, targets, sources].diagonal(dim1=-2, dim2=-1).add_(direct)
            else:
                tile[:, :, targets, sources] += direct
        return tile

    def _row(self, target: int) -> Float[Tensor, "b c D"]:
        """Return the target's row of alpha + D for the sources that it sees, per channel."""
        alpha = self.scan.tile(slice(target, target + 1), self.seen(target))
        row = self.scan.channels(alpha)[:, :, 0].transpose(1, 2).clone()
        row[:, target] += self.scan.skip
        return row

    def _pull(self, v: Tensor, source_taps: Callable[[slice], Tensor]) -> Float[Tensor, "b L"]:
        """Return Σ_i v_i · Σ_k (alpha_ik + D [i=k]) ⊙ taps for every source, a chunk of sources at a time."""
        flow = torch.addcmul(self.scan.apply_transposed(v), self.scan.skip, v)
        out = v.new_zeros(v.shape[:2])
        for start in range(0, self.length, PULLED_SOURCES):
            sources = slice(start, min(start + PULLED_SOURCES, self.length))
            out[:, sources] = torch.einsum("bckd,bkdc->bc", _windows(flow, self.taps, sources), source_taps(sources))
        return out

    def _scan(self, s: Tensor) -> Tensor:
        return torch.addcmul(self.scan.apply(s), self.scan.skip, s)

    def _convolve(self, u: Tensor) -> Tensor:
        """Return Σ_δ w_δ ⊙ u_{k-δ}, with nothing before the first token."""
        padded = F.pad(rearrange(u, "b L d -> b d L"), (self.taps - 1, 0))
        kernel = self.conv.flip(1)[:, None]
        return rearrange(F.conv1d(padded, kernel, groups=self.conv.shape[0]), "b d L -> b L d")

    def _kept(self) -> Tensor:
        """Return 1 at real tokens and 0 at padding, per channel."""
        return torch.ones_like(self.u) if self.mask is None else self.mask[..., None].to(self.u).expand_as(self.u)

    def _activate(self, value: Tensor, slope: Tensor, rule: Rule) -> Tensor:
        """Return the rule's activation of a part of a; `slope` is that of the same positions."""
        if rule == "secant" or not self.silu:
            return slope * value
        kept = 1.0 if self.mask is None else self.mask[:, : value.shape[1], None]
        return (F.silu(value) if rule == "silu" else value) * kept

    def _project(self, o: Tensor, gate: Tensor | None = None, bias: bool = False) -> Tensor:
        projected = (o * (self.gate if gate is None else gate)) @ self.W_o.t()
        return self._project_bias(projected) if bias else projected

    def _project_bias(self, y: Tensor) -> Tensor:
        return y if self.b_o is None else y + self.b_o


def seen_by(target: int, length: int, causal: bool) -> slice:
    """Return the sources that a target may draw from; see `AffineMixer.seen`."""
    if not 0 <= target < length:
        raise InputError(f"target {target} is not a position of this text, which has positions 0 to {length - 1}")
    return slice(0, target + 1 if causal else length)


def check_rule(rule: str) -> None:
    """Raise InputError unless the activation rule is one of `secant`, `silu`, `identity`."""
    if rule not in get_args(Rule):
        raise InputError(f"unknown activation rule {rule!r}; choose one of {', '.join(get_args(Rule))}")


def _windows(values: Float[Tensor, "b L D"], taps: int, sources: slice | None = None) -> Float[Tensor, "b c K D"]:
    """Return values[j + δ] for every source j and δ < K, zero beyond the end."""
    sources = slice(0, values.shape[1]) if sources is None else sources
    part = values[:, sources.start : sources.stop + taps - 1]
    missing = sources.stop - sources.start + taps - 1 - part.shape[1]
    return F.pad(part, (0, 0, 0, missing)).unfold(1, taps, 1).transpose(-1, -2)


def _skip_pairs(block: Block, taps: int) -> Iterator[tuple[int, tuple[Places, Places]]]:
    """Yield, for every δ < K, the block's own places of targets and sources with i = j + δ: pair by pair."""
    for shift in range(taps):
        if isinstance(block.rows, Tensor):
            written_by = block.rows - shift - block.columns.start
            inside = ((written_by >= 0) & (written_by < block.shape[1])).nonzero()[:, 0]
            if len(inside):
                yield shift, (inside, written_by[inside])
            continue
        first = max(block.rows.start, block.columns.start + shift)
        last = min(block.rows.stop, block.columns.stop + shift)
        if first < last:
            targets = slice(first - block.rows.start, last - block.rows.start)
            start = first - shift - block.columns.start
            yield shift, (targets, slice(start, start + last - first))
