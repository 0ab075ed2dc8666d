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

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from mambascope.methods.checked import checked
from mambascope.methods.method import LATIM, AnyReadout, Method, MethodResult
from mambascope.methods.one_hot import one_hot
from mambascope.methods.shares import pulled_through, shares, shares_row
from mambascope.methods.value_bias import ValueBias
from mambascope.numbering import whole_numbers
from mambascope.operators.affine_map import ActivationRule
from mambascope.trace import Trace
from mambascope.trace.block import Block

#: Given a layer and rows of weights of its targets, returns the rows times the layer's shares.
Pull = Callable[[Block, Float[Tensor, "b *n L"]], Float[Tensor, "b *n parts L"]]


@checked
def alti(
    trace: Trace,
    layer: int,
    rule: ActivationRule = "secant",
    *,
    value_bias: ValueBias = "bias",
    targets: slice | None = None,
) -> Float[Tensor, "b t L"]:
    """Return one layer's C; every row sums to one, but for those of padding, which are zero.

    If no source brings the sum closer to the output, the whole share goes to the target itself. If the mixer read two
    vectors at each position (see above), a position has the share of both.

    Args:
        trace: A capture.
        layer: Number of the layer, from 0; negative numbers count from the end.
        rule: The activation rule.
        value_bias: `source` puts the bias of softmax attention's values into the vectors, as the Transformer papers'
            code does; `bias` leaves it in the layer's bias.
        targets: The rows to return, a slice of consecutive positions; by default all.

    Raises:
        InputError: if the layer, the rule, the value bias or the targets do not exist.
        UnsupportedModelError: if the block's input was not captured.
        MapTooLargeError: if the map would not fit in memory.
    """
    return shares(trace, layer, rule, value_bias, targets).sum(dim=1)


@checked
def alti_row(
    trace: Trace, layer: int, target: int, rule: ActivationRule = "secant", *, value_bias: ValueBias = "bias"
) -> Float[Tensor, "b L"]:
    """Return one target's row of `alti`, in O(L·D·(N + E)); arguments and errors as there."""
    return shares_row(trace, layer, target, rule, value_bias).sum(dim=1)


def passed_on(
    pull: Pull, fed_by: Block | None, rows: Float[Tensor, "b *n parts L"]
) -> tuple[Float[Tensor, "b *n L"], Float[Tensor, "b *n L"]]:
    """Return what weights of a layer's sources give to the stream before it, and directly to the embedded tokens.

    Args:
        pull: Given a layer and weights of its targets, returns the weights times its `shares`.
        fed_by: The shared attention that feeds the layer, or None.
        rows: Weights of what the layer read, for each part of it.
    """
    of_stream = rows[..., 0, :]
    if fed_by is None:
        return of_stream, torch.zeros_like(of_stream)
    drawn = pull(fed_by, rows[..., 1, :])
    return of_stream + drawn[..., 0, :], drawn[..., 1, :]


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
    pull = partial(_pull, trace, rule, value_bias)
    targets, rows = whole_numbers(target, "target"), one_hot(trace, target)[:, None]
    direct = torch.zeros_like(rows)
    for block in reversed(trace.updates):
        if block is trace.updates[-1]:  # of the last layer only the targets' own rows are needed
            last = [shares_row(trace, trace.number_of(block), one, rule, value_bias) for one in targets]
            sources = torch.stack(last).mean(dim=0)[:, None].to(rows.device)
        else:
            sources = pull(block, rows)
        rows, drawn = passed_on(pull, block.fed_by, sources)
        direct = direct + drawn
    return (rows + direct)[:, 0]


@checked
def alti_rollout(
    trace: Trace, rule: ActivationRule = "secant", *, value_bias: ValueBias = "bias"
) -> Float[Tensor, "b L L"]:
    """Return R^Λ for every target; arguments as in `alti`."""
    pull = partial(_pull, trace, rule, value_bias)
    product: Tensor | None = None
    for block in trace.updates:
        own = shares(trace, trace.number_of(block), rule, value_bias).transpose(1, 2).to(trace.device)
        stream, direct = passed_on(pull, block.fed_by, own)
        product = stream + direct if product is None else stream @ product + direct
    assert product is not None
    return product


def _pull(
    trace: Trace, rule: ActivationRule, value_bias: ValueBias, block: Block, rows: Float[Tensor, "b *n L"]
) -> Float[Tensor, "b *n parts L"]:
    return pulled_through(trace, trace.number_of(block), rows, rule, value_bias)


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
        band=lambda trace, layer, targets: alti(trace, layer, targets=targets),
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
