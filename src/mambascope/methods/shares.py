"""ALTI's shares of one layer: of all targets, of one, or what rows of weights draw through them.

See `mambascope.methods.alti` for what they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mambascope.errors import UnsupportedModelError
from mambascope.memory import require_room
from mambascope.methods.targets import band_of, of_each_text
from mambascope.methods.value_bias import ValueBias, with_value_bias
from mambascope.operators.affine_map import ActivationRule, AffineMap
from mambascope.operators.blocks import Block as Rectangle
from mambascope.operators.blocks import numbers
from mambascope.operators.chosen_targets import strips
from mambascope.operators.permutation import as_slice
from mambascope.trace import Trace
from mambascope.trace.parts import in_parts

#: Targets whose shares of all sources are held at a time.
STRIP = 256


def shares(
    trace: Trace,
    layer: int,
    rule: ActivationRule = "secant",
    value_bias: ValueBias = "bias",
    targets: slice | None = None,
) -> Float[Tensor, "b parts t L"]:
    """Return `alti` for each part of what the mixer read (`mambascope.trace.parts`), nearly always one.

    The rows of all parts together sum to one. Arguments and errors as in `alti`.
    """
    batch, length = trace.shape
    parts = _parts(trace, layer, value_bias)
    rows = band_of(targets, length)
    require_room((batch, len(parts), rows.stop - rows.start, length), parts[0].x, "shorten the text")
    numbered = torch.arange(rows.start, rows.stop, device=parts[0].x.device)
    return _shares_of(trace, Stream(trace, layer), parts, numbered, rule).transpose(1, 2)


def shares_row(
    trace: Trace, layer: int, target: int, rule: ActivationRule = "secant", value_bias: ValueBias = "bias"
) -> Float[Tensor, "b parts L"]:
    """Return one target's row of `shares`; arguments and errors as in `alti`."""
    stream, parts = Stream(trace, layer), _parts(trace, layer, value_bias)
    length = trace.shape[1]

    def row(place: int) -> tuple[Tensor]:
        block, raw = Rectangle(slice(place, place + 1), slice(0, length)), []
        for number, operator in enumerate(parts):
            vectors = operator.contributions(place, rule)[0].transpose(1, 2)[:, :, None]
            raw.append(stream.closeness(block, vectors, residual=number == 0))
        return (_normalised(torch.stack(raw, dim=2), torch.tensor([place], device=raw[0].device))[:, 0],)

    return of_each_text(trace, target, row)[0]


def pulled_through(
    trace: Trace,
    layer: int,
    rows: Float[Tensor, "b *n L"],
    rule: ActivationRule = "secant",
    value_bias: ValueBias = "bias",
) -> Float[Tensor, "b *n parts L"]:
    """Return rows of weights of a layer's targets times its `shares`, in memory linear in L.

    Some targets' shares are held at a time. Targets that have no weight in any row cost nothing. Otherwise arguments
    and errors are as in `alti`.

    Args:
        rows: Weights of the targets.
    """
    stream, parts = Stream(trace, layer), _parts(trace, layer, value_bias)
    weights = rows.flatten(1, -2).to(parts[0].x.device)
    out = weights.new_zeros(*weights.shape[:2], len(parts), weights.shape[-1])
    for targets in strips((weights != 0).flatten(0, 1).any(dim=0).nonzero()[:, 0], STRIP):
        drawn = _shares_of(trace, stream, parts, targets, rule)
        out += torch.einsum("bnt,btpj->bnpj", weights[..., targets], drawn.to(weights.dtype))
    return out.unflatten(1, rows.shape[1:-1]).to(rows.device)


def _shares_of(
    trace: Trace, stream: Stream, parts: Sequence[AffineMap], targets: Int[Tensor, " t"], rule: ActivationRule
) -> Float[Tensor, "b t parts L"]:
    """Return the shares of some targets, given by ascending numbers."""
    raw = parts[0].x.new_zeros(len(parts[0].x), len(targets), len(parts), trace.shape[1])
    for number, operator in enumerate(parts):
        for block, tile in operator.contribution_tiles(rule, as_slice(targets)):
            places = torch.searchsorted(targets, numbers(block.rows, targets.device))
            raw[:, places, number, block.columns] = stream.closeness(block, tile, residual=number == 0)
    shares = _normalised(raw, targets)
    if trace.attention_mask is None:
        return shares
    padding = ~trace.attention_mask.bool().to(shares.device)
    return shares.masked_fill_(padding[:, targets, None, None] | padding[:, None, None], 0)


def _parts(trace: Trace, layer: int, value_bias: ValueBias) -> tuple[AffineMap, ...]:
    """Return the layer's map of each part of what its mixer read."""
    operator = with_value_bias(trace.operator(layer), value_bias)
    return in_parts(trace.layers[trace.index(layer)], operator, "ALTI")


class Stream:
    """The residual stream after one layer, and what a contribution does to it; of a layer aside, its output alone."""

    def __init__(self, trace: Trace, layer: int) -> None:
        block, dtype = trace.layers[trace.index(layer)], trace.operator(layer).x.dtype
        y = block.y.to(dtype)
        self.residual = None if block.aside else block.stream("ALTI").to(dtype)
        self.total = y if self.residual is None else self.residual + y
        self.norm = block.post_norm
        if self.norm is not None:  # a norm after the sum (BERT), its statistic frozen: linear but for its bias
            if not isinstance(self.norm, nn.LayerNorm):
                raise UnsupportedModelError(
                    f"ALTI reads only LayerNorm after a sum, but {block.name} has another norm there"
                )
            deviation = self.total.var(dim=-1, unbiased=False, keepdim=True).add(self.norm.eps).rsqrt()
            self.scale = deviation * self.norm.weight.detach().to(dtype)
            self.after = _centred(self.total, -1) * self.scale
            self.after = self.after if self.norm.bias is None else self.after + self.norm.bias.detach().to(dtype)
        else:
            self.after = self.total

    def closeness(
        self, block: Rectangle, tile: Float[Tensor, "b F t c"], residual: bool = True
    ) -> Float[Tensor, "b t c"]:
        """Return max(0, ‖ŷ_i‖₁ - ‖ŷ_i - T_ij‖₁) for one block, with the residual or without; overwrites the tile."""
        rows = block.rows
        if residual and self.residual is not None:  # it counts as the target's own contribution
            self._add_residual(tile, block, self.residual)
        if self.norm is not None:
            tile = _centred(tile, 1) * self.scale[:, rows].transpose(1, 2)[..., None]
        after = self.after[:, rows].transpose(1, 2)[..., None]
        # subtract per feature before summing, so that a zero contribution gives exactly zero in any summation order
        return tile.sub_(after).abs_().sub_(after.abs()).sum(dim=1).neg_().clamp_(min=0)

    @staticmethod
    def _add_residual(tile: Float[Tensor, "b F t c"], block: Rectangle, residual: Float[Tensor, "b L F"]) -> None:
        """Add what the stream was at every target of a block to the contribution of the target itself."""
        rows, columns = block.rows, block.columns
        if isinstance(rows, Tensor):
            inside = ((rows >= columns.start) & (rows < columns.stop)).nonzero()[:, 0]
            tile[:, :, inside, rows[inside] - columns.start] += residual[:, rows[inside]].transpose(1, 2)
            return
        first, last = max(rows.start, columns.start), min(rows.stop, columns.stop)
        if first < last:
            own = tile[:, :, first - rows.start : last - rows.start, first - columns.start : last - columns.start]
            own.diagonal(dim1=-2, dim2=-1).add_(residual[:, first:last].transpose(1, 2))


def _centred(values: Tensor, dim: int) -> Tensor:
    return values - values.mean(dim=dim, keepdim=True)


def _normalised(raw: Float[Tensor, "b t parts L"], targets: Int[Tensor, " t"]) -> Float[Tensor, "b t parts L"]:
    """Divide these targets' rows by their sum over all parts, in place."""
    sums = raw.sum(dim=(-2, -1), keepdim=True)
    empty = sums == 0
    raw /= sums.masked_fill_(empty, 1.0)
    if empty.any():
        own = torch.arange(len(targets), device=raw.device), 0, targets
        raw[:, *own] = raw[:, *own].masked_fill(empty[..., 0, 0], 1.0)
    return raw
