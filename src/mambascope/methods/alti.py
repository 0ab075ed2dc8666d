"""ALTI on token contributions (Ferrando et al., arXiv 2203.04212; on Mamba: LaTIM, arXiv 2502.15612, section 4).

A source's share of the layer's output ŷ_i, the residual stream after the layer, is how much closer to it the source
brings the sum:

    c_ij = max(0, ‖ŷ_i‖₁ - ‖ŷ_i - T_ij‖₁),   rows divided by their sum,   the residual x_i counted in T_ii

Every pair has a vector, so a layer costs L²·D·E operations. Over layers: R^1 = C^1, R^λ = C^λ R^{λ-1}.

The bias b_V of softmax attention's values belongs to no source here, so that T_ij is linear in x_j: it is part of the
layer's bias. The Transformer papers' code puts it into the vectors, T_ij = Σ_h p^h_ij W_O^h (W_V^h x_j + b_V^h), as
`value_bias="source"` does. Nothing else differs from their code. Other mixers have no such bias.

Where the mixer reads x = norm(h + t), with t from an attention that layers share (Zamba), T_ij is linear in both, and h
and t have shares of their own (`mambascope.trace.parts`); those of t are passed on by the shares C' of the attention,
whose output is no residual stream, so that no residual is counted there, and whose sources are h and the embedded
tokens e. With S and D what the stream after the layer draws from h and, directly, from e:

    S = C^h + C^t C'^h,   D = C^t C'^e,   R^λ = S R^{λ-1} + D
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mambascope.errors import InputError, UnsupportedModelError
from mambascope.memory import require_room
from mambascope.methods.checked import checked
from mambascope.methods.method import LATIM, AnyReadout, Method, MethodResult
from mambascope.methods.one_hot import one_hot
from mambascope.methods.targets import of_each_text, without_padding
from mambascope.numbering import shown, whole_numbers
from mambascope.operators.affine_map import ActivationRule, AffineMap
from mambascope.operators.attention_layer import AttentionLayer
from mambascope.operators.blocks import Block as Rectangle
from mambascope.operators.normed_map import NormedMap
from mambascope.operators.sum_of_maps import SumOfMaps
from mambascope.trace import Trace
from mambascope.trace.block import Block
from mambascope.trace.parts import in_parts

#: Where the bias of attention's values is counted: in the layer's bias, or in the contributions of the sources.
ValueBias = Literal["bias", "source"]


@checked
def alti(
    trace: Trace, layer: int, rule: ActivationRule = "secant", *, value_bias: ValueBias = "bias"
) -> Float[Tensor, "b L L"]:
    """Return one layer's C; every row sums to one, but for those of padding, which are zero.

    If no source brings the sum closer to the output, the whole share goes to the target itself. If the mixer read two
    vectors at each position (see above), a position has the share of both.

    Args:
        trace: A capture.
        layer: Number of the layer, from 0; negative numbers count from the end.
        rule: The activation rule.
        value_bias: `source` puts the bias of softmax attention's values into the vectors, as the Transformer papers'
            code does; `bias` leaves it in the layer's bias.

    Raises:
        InputError: if the layer, the rule or the value bias does not exist.
        UnsupportedModelError: if the block's input was not captured.
        MapTooLargeError: if the map would not fit in memory.
    """
    return shares(trace, layer, rule, value_bias).sum(dim=1)


def shares(
    trace: Trace, layer: int, rule: ActivationRule = "secant", value_bias: ValueBias = "bias"
) -> Float[Tensor, "b parts L L"]:
    """Return `alti` for each part of what the mixer read (`mambascope.trace.parts`), nearly always one.

    The rows of all parts together sum to one. Arguments and errors as in `alti`.
    """
    stream, parts = _Stream(trace, layer), _parts(trace, layer, value_bias)
    batch, length = trace.shape
    require_room((batch, len(parts), length, length), parts[0].x, "shorten the text")
    raw = parts[0].x.new_zeros(batch, length, len(parts), length)
    for number, operator in enumerate(parts):
        for block, tile in operator.contribution_tiles(rule):
            raw[:, block.rows, number, block.columns] = stream.closeness(block, tile, residual=number == 0)
    return without_padding(trace, _normalised(raw, 0).transpose(1, 2))


@checked
def alti_row(
    trace: Trace, layer: int, target: int, rule: ActivationRule = "secant", *, value_bias: ValueBias = "bias"
) -> Float[Tensor, "b L"]:
    """Return one target's row of `alti`, in O(L·D·(N + E)); arguments and errors as there."""
    return shares_row(trace, layer, target, rule, value_bias).sum(dim=1)


def shares_row(
    trace: Trace, layer: int, target: int, rule: ActivationRule = "secant", value_bias: ValueBias = "bias"
) -> Float[Tensor, "b parts L"]:
    """Return one target's row of `shares`; arguments and errors as in `alti`."""
    stream, parts = _Stream(trace, layer), _parts(trace, layer, value_bias)
    length = trace.shape[1]

    def row(place: int) -> tuple[Tensor]:
        block, raw = Rectangle(slice(place, place + 1), slice(0, length)), []
        for number, operator in enumerate(parts):
            vectors = operator.contributions(place, rule)[0].transpose(1, 2)[:, :, None]
            raw.append(stream.closeness(block, vectors, residual=number == 0))
        return (_normalised(torch.stack(raw, dim=2), place)[:, 0],)

    return of_each_text(trace, target, row)[0]


def passed_on(
    shares_of: Callable[[Block], Float[Tensor, "b parts L L"]], fed_by: Block | None, rows: Float[Tensor, "b n parts L"]
) -> tuple[Float[Tensor, "b n L"], Float[Tensor, "b n L"]]:
    """Return what weights of a layer's sources give to the stream before it, and directly to the embedded tokens.

    Args:
        shares_of: Given a layer, returns its `shares`.
        fed_by: The shared attention that feeds the layer, or None.
        rows: Weights of what the layer read, for each part of it.
    """
    if fed_by is None:
        return rows[:, :, 0], torch.zeros_like(rows[:, :, 0])
    drawn = shares_of(fed_by)
    return rows[:, :, 0] + rows[:, :, 1] @ drawn[:, 0], rows[:, :, 1] @ drawn[:, 1]


@checked
def alti_rollout_row(
    trace: Trace, target: int | Sequence[int], rule: ActivationRule = "secant", *, value_bias: ValueBias = "bias"
) -> Float[Tensor, "b L"]:
    """Return the target's row of R^Λ = C^Λ … C^1: rows sum to one, so that a score is a share.

    Args:
        trace: A capture.
        target: One position, or several, whose rows are averaged; negative numbers count back from each text's own last
            token.
        rule, value_bias: As in `alti`.
    """
    shares_of = partial(_shares_of, trace, rule, value_bias)
    targets, rows = whole_numbers(target, "target"), one_hot(trace, target)[:, None]
    direct = torch.zeros_like(rows)
    for block in reversed(trace.updates):
        if block is trace.updates[-1]:  # of the last layer only the targets' own rows are needed
            last = [shares_row(trace, trace.number_of(block), one, rule, value_bias) for one in targets]
            sources = torch.stack(last).mean(dim=0)[:, None]
        else:
            sources = torch.einsum("bni,bpij->bnpj", rows, shares_of(block))
        rows, drawn = passed_on(shares_of, block.fed_by, sources)
        direct = direct + drawn
    return (rows + direct)[:, 0]


@checked
def alti_rollout(
    trace: Trace, rule: ActivationRule = "secant", *, value_bias: ValueBias = "bias"
) -> Float[Tensor, "b L L"]:
    """Return R^Λ for every target; arguments as in `alti`."""
    shares_of = partial(_shares_of, trace, rule, value_bias)
    product: Tensor | None = None
    for block in trace.updates:
        stream, direct = passed_on(shares_of, block.fed_by, shares_of(block).transpose(1, 2))
        product = stream + direct if product is None else stream @ product + direct
    assert product is not None
    return product


def _shares_of(trace: Trace, rule: ActivationRule, value_bias: ValueBias, block: Block) -> Float[Tensor, "b parts L L"]:
    return shares(trace, trace.number_of(block), rule, value_bias)


def _parts(trace: Trace, layer: int, value_bias: ValueBias) -> tuple[AffineMap, ...]:
    """Return the layer's map of each part of what its mixer read."""
    operator = with_value_bias(trace.operator(layer), value_bias)
    return in_parts(trace.layers[trace.index(layer)], operator, "ALTI")


def with_value_bias(operator: AffineMap, value_bias: str) -> AffineMap:
    """Return a layer's map with the bias of attention's values counted as asked; maps of other mixers are unchanged.

    For `source`, a 1 is appended to every token, and b_V to W_V as its column: W_V x_j + b_V is linear in (x_j, 1).

    Raises:
        InputError: if the value bias is neither `bias` nor `source`.
    """
    if value_bias not in get_args(ValueBias):
        raise InputError(f"unknown value_bias {shown(value_bias)}; choose one of {', '.join(get_args(ValueBias))}")
    if isinstance(operator, NormedMap):
        return dataclasses.replace(operator, inner=with_value_bias(operator.inner, value_bias))
    if value_bias == "source" and isinstance(operator, SumOfMaps):
        parts = (dataclasses.replace(part, mixer=with_value_bias(part.mixer, value_bias)) for part in operator.parts)
        return dataclasses.replace(operator, parts=tuple(parts))
    if value_bias == "bias" or not isinstance(operator, AttentionLayer) or operator.b_x is None:
        return operator
    x = torch.cat([operator.x, torch.ones_like(operator.x[..., :1])], dim=-1)
    return dataclasses.replace(operator, x=x, W_x=torch.cat([operator.W_x, operator.b_x[:, None]], dim=1), b_x=None)


class _Stream:
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
        rows, columns = block.rows, block.columns
        first, last = max(rows.start, columns.start), min(rows.stop, columns.stop)
        if first < last and residual and self.residual is not None:  # it counts as the target's own contribution
            own = tile[:, :, first - rows.start : last - rows.start, first - columns.start : last - columns.start]
            own.diagonal(dim1=-2, dim2=-1).add_(self.residual[:, first:last].transpose(1, 2))
        if self.norm is not None:
            tile = _centred(tile, 1) * self.scale[:, rows].transpose(1, 2)[..., None]
        after = self.after[:, rows].transpose(1, 2)[..., None]
        # subtract per feature before summing, so that a zero contribution gives exactly zero in any summation order
        return tile.sub_(after).abs_().sub_(after.abs()).sum(dim=1).neg_().clamp_(min=0)


def _centred(values: Tensor, dim: int) -> Tensor:
    return values - values.mean(dim=dim, keepdim=True)


def _normalised(raw: Float[Tensor, "b t parts L"], first: int) -> Float[Tensor, "b t parts L"]:
    """Divide rows by their sum over all parts, in place; `first` is the position of the first target."""
    sums = raw.sum(dim=(-2, -1), keepdim=True)
    empty = sums == 0
    raw /= sums.masked_fill_(empty, 1.0)
    if empty.any():
        raw[:, :, 0, first:].diagonal(dim1=-2, dim2=-1).masked_fill_(empty[..., 0, 0], 1.0)
    return raw


def _rollout(trace: Trace, readout: AnyReadout, variant: str) -> MethodResult:
    row = alti_rollout_row(trace, readout.positions)
    return MethodResult(row, {"conservation_error": abs(1 - float(row.sum()))})


METHODS = [
    Method(
        "latim-alti",
        "share of each source in the residual stream after the layer, by ℓ1 distance",
        LATIM,
        signed=False,
        row=alti_row,
        map=alti,
    ),
    Method(
        "alti-rollout",
        "product of the layers' ALTI shares: share of each input in the last layer",
        LATIM,
        signed=False,
        cost="quadratic",
        passes=3.0,
        growth=0.1,
        score=_rollout,
        whole_map=alti_rollout,
        column="attribution",
    ),
]
