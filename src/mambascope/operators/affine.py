"""One mixer between its projections, as the exact affine map of its input tokens (methods section 3).

With the data-dependent coefficients frozen at their forward values,

    y_i = Σ_{j≤i} T_ij(x_j) + β_i
    T_ij(x_j) = W_o ( g_i ⊙ M Σ_{k=j}^{min(i, j+K-1)} (alpha_ik + D [i=k]) ⊙ f(w_{k-j} ⊙ W_x x_j) )

where f is the activation rule: `secant`, σ(a_k) times its argument, is exact; `silu` is LaTIM's choice ([5] eq. 13);
`identity` is for models without the activation. M is the identity or, where a LayerNorm follows the scan, its
subtraction of the mean over channels: I - 11ᵀ/D, or the same head by head. The rest of the norm, its frozen deviation
and its weight, is part of g, and its bias is `offset`. Other convolutions write at other tokens k
(`mambascope.operators.grid_convolution`).

Softmax attention is the same map: alpha = p, one tap of ones, no activation, gate 1, no skip, W_x = W_V; its sum runs
over every source that the target sees, and the three activation rules agree ([6] section 2.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mambascope.operators.affine_map import ActivationRule, AffineMap, check_rule
from mambascope.operators.blocks import Block, Places, Workspace
from mambascope.operators.chosen_targets import within, within_band
from mambascope.operators.convolution import Convolution
from mambascope.operators.frozen import frozen_scan
from mambascope.operators.token_mixer import TokenMixer

#: Sources whose taps are held at a time.
PART = 1024


@dataclass(frozen=True, eq=False, repr=False)
class AffineMixer(AffineMap):
    """One mixer with its coefficients frozen: an affine map from source tokens to target tokens.

    Attributes:
        x: The mixer's input, zero at padded tokens.
        scan: The token mixing itself.
        W_x: The part of the input projection that leads to the convolution and the scan.
        b_x: Its bias, or None.
        convolution: The convolution, which looks back.
        conv_bias: Its bias, or None.
        gate: g, everything that multiplies the scan's output (less its mean) before W_o.
        W_o: Output projection.
        b_o: Its bias, or None.
        mask: True at real tokens; None when there is no padding, or alpha itself leaves it out.
        silu: Whether a SiLU follows the convolution; without it f is the identity, whatever the activation rule.
        centred: Into how many groups of neighbouring channels the scan's output falls, from each of which its mean is
            subtracted: 1 for all channels together, the number of heads for a norm per head; 0 for no such norm.
        offset: What is added before W_o and depends on no token; None for nothing.
        whole: The map of the whole input, where x is a part of what the mixer read; see `reading`.
    """

    x: Float[Tensor, "b L E"]
    scan: TokenMixer
    W_x: Float[Tensor, "D E"]
    b_x: Float[Tensor, " D"] | None
    convolution: Convolution
    conv_bias: Float[Tensor, " D"] | None
    gate: Float[Tensor, "b L D"]
    W_o: Float[Tensor, "F D"]
    b_o: Float[Tensor, " F"] | None
    mask: Bool[Tensor, "b L"] | None = None
    silu: bool = True
    centred: int = 0
    offset: Float[Tensor, "b L D"] | None = None
    whole: AffineMixer | None = None

    @property
    def causal(self) -> bool:
        """Whether no target depends on later tokens."""
        return self.scan.causal

    @property
    def conv(self) -> Float[Tensor, "D K"]:
        """Convolution taps."""
        return self.convolution.taps

    @property
    def inner_width(self) -> int:
        """D, the number of channels."""
        return self.conv.shape[0]

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
        return constant if self.b_x is None else constant + self.convolution.apply(self.b_x.expand_as(self.u))

    @cached_property
    def preactivation(self) -> Float[Tensor, "b L D"]:
        """a, the convolution's output."""
        return self.convolution.apply(self.u) + self.constant

    @cached_property
    def slope(self) -> Float[Tensor, "b L D"]:
        """σ(a), the secant of the SiLU, or 1 without a SiLU; zero where padding was removed after the convolution."""
        if self.whole is not None:
            return self.whole.slope
        slope = torch.sigmoid(self.preactivation) if self.silu else torch.ones_like(self.u)
        return slope if self.mask is None else slope * self.mask[..., None]

    def reading(self, x: Float[Tensor, "b L E"]) -> AffineMixer:
        """Return the map of a part of the input, with everything that is frozen as the whole input made it.

        The contributions of parts that add up to the input add up to its contributions, with the rule `secant` or
        without a SiLU; biases belong to the whole.
        """
        return replace(self, x=x, whole=self if self.whole is None else self.whole)

    def projecting_in(self, dtype: torch.dtype) -> AffineMixer:
        """Return the same map with products with W_o in another dtype; see `AffineMap`."""
        return replace(self, W_o=self.W_o.to(dtype))

    def scanned(self) -> Float[Tensor, "b L D"]:
        """Return o, the output of the scan with its skip, rebuilt from the frozen coefficients."""
        return self._scan(self.slope * self.preactivation)

    def received(self, o: Float[Tensor, "b t D"], rows: slice = slice(None)) -> Float[Tensor, "b t D"]:
        """Return what W_o receives at some targets from the scan's output: norm and gate, with the norm's bias."""
        received = self._centre(o) * self.gate[:, rows]
        return received if self.offset is None else received + self.offset[:, rows]

    def output(self) -> Float[Tensor, "b L F"]:
        """Return y, rebuilt from the frozen coefficients by one scan."""
        return self._written(self.scanned())

    def through(self, tokens: Float[Tensor, "b L E"]) -> Float[Tensor, "b L F"]:
        """Return Σ_j T_ij + β_i of other tokens, differentiable in them; see `AffineMap`."""
        tokens = tokens if self.mask is None else tokens * self.mask[..., None]
        a = self.convolution.apply(tokens @ self.W_x.t()) + self.constant
        s = self.slope * a
        return self._written(frozen_scan(self.scan, s) + self.scan.skip * s)

    def bias(self, rule: ActivationRule = "secant") -> Float[Tensor, "b L F"]:
        """Return β for every target: the part of the output that comes from biases and from no token."""
        check_rule(rule)
        return self._written(self._scan(self._activate(self.constant, self.slope, rule)))

    def explained(self, rule: ActivationRule = "secant") -> Float[Tensor, "b L F"]:
        """Return Σ_j T_ij + β_i under an activation rule, by one scan of what all sources write together."""
        check_rule(rule)
        written = self.convolution.gather(self.source_taps(slice(0, self.length), rule))
        return self._written(self._scan(written + self._activate(self.constant, self.slope, rule)))

    def contributions(
        self, target: int, rule: ActivationRule = "secant"
    ) -> tuple[Float[Tensor, "b L F"], Float[Tensor, "b F"]]:
        """Return the vectors T_ij(x_j) of one target i for every source j, and its bias β_i; see `AffineMap`."""
        check_rule(rule)
        row = self._row(target)
        vectors = self.x.new_zeros(self.x.shape[0], self.length, self.W_o.shape[0])
        own = torch.zeros_like(row[:, 0])
        for sources in self._parts(self.seen(target)):
            mixed = self._through_taps(row, sources, self.source_taps(sources, rule))
            vectors[:, sources] = (self._centre(mixed) * self.gate[:, target, None]) @ self.W_o.t()
            constant = self._activate(self.constant[:, sources], self.slope[:, sources], rule, sources)
            own += torch.einsum("bcd,bcd->bd", row[:, sources], constant)
        return vectors, self._written(own[:, None], slice(target, target + 1))[:, 0]

    def passed_on(self, sources: Bool[Tensor, "b L"]) -> Float[Tensor, "b L F"]:
        """Return what the values σ(a) a of some sources give to every target, by one scan; see `AffineMap`."""
        mixed = self._scan(self.slope * self.preactivation * sources[..., None])
        return (self._centre(mixed) * self.gate) @ self.W_o.t()

    def pull(self, q: Float[Tensor, "b L F"], rule: ActivationRule = "secant") -> Float[Tensor, "b L"]:
        """Return Σ_i q_i · T_ij(x_j) for every source j, by one reversed scan; see `AffineMap`."""
        check_rule(rule)
        return self._pull(self._centre(self.gate * (q @ self.W_o)), lambda sources: self.source_taps(sources, rule))

    def implicit_pull(self, v: Float[Tensor, "b L"]) -> Float[Tensor, "b L"]:
        """Return vᵀ times the implicit attention averaged over channels, by one reversed scan."""
        return self._pull(self.gate * v[..., None] / self.inner_width, self.unit_taps)

    def implicit_row(self, target: int) -> Float[Tensor, "b c"]:
        """Return one row of the implicit attention averaged over channels, for the sources that the target sees."""
        row, seen = self._row(target), self.seen(target)
        parts = [self._through_taps(row, sources, self.unit_taps(sources)) for sources in self._parts(seen)]
        return torch.cat([(mixed * self.gate[:, target, None]).mean(dim=-1) for mixed in parts], dim=1)

    def implicit_mean(self, targets: slice | None = None) -> Float[Tensor, "b t L"]:
        """Return the implicit attention averaged over channels, of all targets or of a slice."""
        rows = slice(0, self.length) if targets is None else targets
        out = self.x.new_zeros(self.x.shape[0], rows.stop - rows.start, self.length)
        workspace = Workspace()
        for block in within(self.scan.mean_blocks(self.taps), rows):
            taps, gate = self.unit_taps(block.columns), self.gate[:, block.rows]
            tile = self.scan.mean(block, taps, gate, workspace)
            for shift, (own, sources) in _skip_pairs(block, self.taps):
                direct = torch.einsum("btd,d,bdt->bt", gate[:, own], self.scan.skip, taps[:, shift, :, sources])
                tile[:, own, sources].diagonal(dim1=-2, dim2=-1).add_(direct / self.inner_width)
            out[:, within_band(block, rows), block.columns] = tile
        return out

    def coarse_blocks(self, taps: int = 1) -> Iterator[Block]:
        """Yield the blocks of the scan."""
        return self.scan.blocks(max(taps, self.taps))

    def received_tile(self, block: Block, rule: ActivationRule, workspace: Workspace) -> Float[Tensor, "b D t c"]:
        """Return g_i ⊙ M Σ_k (alpha_ik + D [i=k]) ⊙ taps of one block: the contribution before W_o."""
        columns, gate = block.columns, self.gate[:, block.rows]
        key = (id(self), columns.start, columns.stop)
        taps = workspace.keep("source taps", key, lambda: self.source_taps(columns, rule).contiguous())
        if not self.centred:
            return self._mixed(block, taps, gate, workspace)
        return self._centre(self._mixed(block, taps, None, workspace), channels=1) * _by_channel(gate)

    def implicit_tile(self, block: Block, workspace: Workspace) -> Float[Tensor, "b D t c"]:
        """Return the matrix acting on u per channel for one block."""
        columns = block.columns
        taps = workspace.keep(
            "unit taps", (id(self), columns.start, columns.stop), lambda: self.unit_taps(columns).contiguous()
        )
        return self._mixed(block, taps, self.gate[:, block.rows], workspace)

    def source_taps(self, sources: slice, rule: ActivationRule = "secant") -> Float[Tensor, "b K D c"]:
        """Return what every source j writes with each tap; what lies beyond the end or the edge is never read."""
        taps = self.conv.t().contiguous()[..., None] * self.u[:, None, sources].transpose(-1, -2)
        if rule == "secant" or not self.silu:
            return taps * self.convolution.at_written(self.slope, sources)
        taps = F.silu(taps) if rule == "silu" else taps
        if self.mask is None:
            return taps
        kept = self.mask[..., None].to(taps.dtype).expand_as(self.u)
        return taps * self.convolution.at_written(kept, sources)

    def unit_taps(self, sources: slice) -> Float[Tensor, "b K D c"]:
        """Return the secant taps of a unit source: the map that acts on u; zero for padding, where u is zero."""
        taps = self.convolution.at_written(self.slope, sources) * self.conv.t().contiguous()[..., None]
        return taps if self.mask is None else taps * self.mask[:, None, None, sources]

    def _mixed(
        self, block: Block, taps: Float[Tensor, "b K D c"], gate: Float[Tensor, "b t D"] | None, workspace: Workspace
    ) -> Float[Tensor, "b D t c"]:
        """Return g_i ⊙ Σ_k (alpha_ik + D [i=k]) ⊙ taps of one block."""
        tile = self.scan.mix(block, taps, gate, workspace)
        for shift, (targets, sources) in _skip_pairs(block, self.taps):
            direct = self.scan.skip[:, None] * taps[:, shift, :, sources]
            direct = direct if gate is None else direct * gate[:, targets].transpose(1, 2)
            if isinstance(targets, slice):
                tile[:, :, targets, sources].diagonal(dim1=-2, dim2=-1).add_(direct)
            else:
                tile[:, :, targets, sources] += direct
        return tile

    def _row(self, target: int) -> Float[Tensor, "b c D"]:
        """Return the target's row of alpha + D for the sources that it sees, per channel."""
        seen = self.seen(target)
        row = self.x.new_empty(self.x.shape[0], seen.stop, self.inner_width)
        for sources in self._parts(seen):
            alpha = self.scan.tile(slice(target, target + 1), sources)
            row[:, sources] = self.scan.channels(alpha)[:, :, 0].transpose(1, 2)
        row[:, target] += self.scan.skip
        return row

    def _parts(self, seen: slice) -> Iterator[slice]:
        """Yield the sources in parts, of which the taps are held at a time."""
        for start in range(0, seen.stop, PART):
            yield slice(start, min(start + PART, seen.stop))

    def _through_taps(
        self, row: Float[Tensor, "b t D"], sources: slice, taps: Float[Tensor, "b K D c"]
    ) -> Float[Tensor, "b c D"]:
        """Return, summed over taps, the row's value where each of some sources writes times what it writes there."""
        mixed, at_written = torch.zeros_like(row[:, sources]), self.convolution.at_written(row, sources)
        for value, written in zip(at_written.unbind(1), taps.unbind(1), strict=True):
            mixed.addcmul_(value.transpose(1, 2), written.transpose(1, 2))
        return mixed

    def _pull(self, v: Tensor, source_taps: Callable[[slice], Tensor]) -> Float[Tensor, "b L"]:
        """Return Σ_i v_i · Σ_k (alpha_ik + D [i=k]) ⊙ taps for every source, a chunk of sources at a time."""
        flow = torch.addcmul(self.scan.apply_transposed(v), self.scan.skip, v)
        out = v.new_zeros(v.shape[:2])
        for sources in self._parts(slice(0, self.length)):
            out[:, sources] = (self.convolution.at_written(flow, sources) * source_taps(sources)).sum(dim=(1, 2))
        return out

    def _scan(self, s: Tensor) -> Tensor:
        return torch.addcmul(self.scan.apply(s), self.scan.skip, s)

    def _activate(self, value: Tensor, slope: Tensor, rule: ActivationRule, places: slice = slice(None)) -> Tensor:
        """Return part of a after the activation rule, at some positions, as `slope`."""
        if rule == "secant" or not self.silu:
            return slope * value
        kept = 1.0 if self.mask is None else self.mask[:, places, None]
        return (F.silu(value) if rule == "silu" else value) * kept

    def _centre(self, values: Tensor, channels: int = -1) -> Tensor:
        """Return the values, less their mean over each group of channels if a norm subtracts it."""
        if not self.centred:
            return values
        groups = values.unflatten(channels, (int(self.centred), -1))
        dim = channels if channels < 0 else channels + 1
        return (groups - groups.mean(dim=dim, keepdim=True)).flatten(dim - 1, dim)

    def _written(self, o: Float[Tensor, "b t D"], rows: slice = slice(None)) -> Float[Tensor, "b t F"]:
        """Return y at some targets from the scan's output: norm, gate and W_o, with all biases."""
        y = self.received(o, rows) @ self.W_o.t()
        return y if self.b_o is None else y + self.b_o


def _by_channel(gate: Float[Tensor, "b t D"]) -> Float[Tensor, "b D t 1"]:
    return gate.transpose(1, 2)[..., None]


def _skip_pairs(block: Block, taps: int) -> Iterator[tuple[int, tuple[Places, Places]]]:
    """Yield every δ < K with the places, counted within the block, of the targets and sources with i = j + δ."""
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
