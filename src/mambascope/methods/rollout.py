"""Attention rollout of hidden attention (Ali, Zimerman & Wolf, arXiv 2403.01590, section 4.1; Abnar & Zuidema 2020).

    ρ = e_t Π_λ (I + Ā^λ),   Ā = mean over channels of alpha

taken from the last layer down to the first. One target's row costs one reversed scan per layer: ρ ← ρ + ρ Ā^λ. The
options that need single entries (absolute values, max, min or product over channels, a discard ratio) need the
matrices, so their time and memory are quadratic in L.

In Zamba's layers the mixer reads h + t, and t comes from an attention B that read the stream h and the embedded tokens
e side by side. Every sum counts each of its terms in full, as h + y does, and so does W_V [h; e] = W_h h + W_e e:

    ρ ← ρ + σ + τ,   σ = ρ Ā,   τ = σ B̄,      and τ once more for the tokens e, from which it goes no further down
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mambascope.errors import InputError
from mambascope.memory import require_room
from mambascope.methods.checked import checked
from mambascope.methods.hidden_attention import hidden_attention_mean, map_tiles, pair_tiles
from mambascope.methods.layer_by_layer import rolled
from mambascope.methods.method import HIDDEN_ATTENTION, AnyReadout, Method, MethodResult
from mambascope.methods.one_hot import one_hot
from mambascope.methods.reference_code import (
    Variant,
    check_variant,
    first_reference_layer,
    reference_rollout,
    reference_row,
)
from mambascope.methods.targets import looks_ahead, of_each_text, without_padding
from mambascope.numbering import shown, whole_numbers
from mambascope.trace import Trace
from mambascope.trace.block import Block

#: How the maps of a layer's channels (or heads) are reduced to one; `product` is the geometric mean of absolute values.
Reduction = Literal["mean", "max", "min", "product"]


@checked
def rollout_row(
    trace: Trace, target: int | Sequence[int], *, normalise: bool = False, variant: Variant = "published"
) -> Float[Tensor, "b L"]:
    """Return the target's row of the rollout through all layers, in time and memory linear in L.

    Args:
        trace: A capture.
        target: One position, or several, whose rows are averaged; negative numbers count back from each text's own last
            token.
        normalise: Divide every row of a layer's matrix, I + Ā, by its sum, as Abnar & Zuidema do for softmax attention.
            Hidden attention is signed, so a sum may be close to zero.
        variant: `reference-code` copies the target's row into all rows and clamps the scores at 0, as the paper's code
            does (only for one target, without `normalise`). That code drops the target; here it keeps its place, with
            the score 0.

    Raises:
        InputError: if the target or variant does not exist, or the target is padding in one of the texts.
        UnsupportedModelError: if the variant is `reference-code` and a layer is softmax attention, or a layer changes
            the stream in a way that is not known, such as by another factor.
    """
    check_variant(variant)
    if variant == "reference-code":
        targets = whole_numbers(target, "target")
        if len(targets) != 1 or normalise:
            raise InputError("the reference code's rollout explains one target at a time and cannot be normalised")
        layers = range(first_reference_layer(len(trace.layers)), len(trace.layers))
        rows = of_each_text(
            trace, targets[0], lambda place: tuple(reference_row(trace, k, place).mean(dim=1) for k in layers)
        )
        return reference_rollout(rows)
    return rolled(trace, one_hot(trace, target), Block.mean_pull, _divided if normalise else None)


@checked
def rollout(
    trace: Trace,
    *,
    channels: Reduction = "mean",
    absolute: bool = False,
    normalise: bool = False,
    discard: float = 0.0,
) -> Float[Tensor, "b L L"]:
    """Return the rollout of every target, Π_λ (I + A^λ) from the last layer to the first: L³ operations per layer.

    Args:
        trace: A capture.
        channels: How a layer's maps are reduced to one.
        absolute: Take absolute values of each map first.
        normalise: Divide every row of I + A by its sum.
        discard: Fraction of the entries that a target sees in a layer, the smallest in absolute value, that is set to
            zero first; at least 0 and below 1.

    Raises:
        InputError: if `channels` or `discard` cannot be used.
        UnsupportedModelError: if a layer changes the stream in a way that is not known, such as by another factor.
        MapTooLargeError: if the maps would not fit in memory.
    """
    if not 0 <= discard < 1:
        raise InputError(f"discard must be a fraction of entries, at least 0 and below 1, found {discard}")
    for block in trace.layers:
        block.require_trusted("rollout")
    batch, length = trace.shape
    like = trace.operator(0).x
    require_room((3, batch, length, length), like, "explain one position, or shorten the text")
    identity = torch.eye(length, dtype=like.dtype, device=like.device)
    product = identity.expand(batch, -1, -1)

    def kept(block: Block) -> Float[Tensor, "b L L"]:
        layer = trace.number_of(block)
        return discarded(reduced_map(trace, layer, channels, absolute), discard, _seen(trace, layer)).to(like.device)

    for block in trace.updates:
        mixed = kept(block)
        if block.fed_by is None:
            step = identity + mixed
            product = (step / step.sum(dim=-1, keepdim=True) if normalise else step) @ product
        else:
            drawn = mixed @ kept(block.fed_by)
            step = identity + mixed + drawn
            divisor = (step + drawn).sum(dim=-1, keepdim=True) if normalise else 1.0
            product = (step / divisor) @ product + drawn / divisor
    return without_padding(trace, product.contiguous())


def _divided(block: Block, rho: Float[Tensor, "b L"]) -> Float[Tensor, "b L"]:
    """Return ρ with each target's weight divided by the sum of its row of the layer's matrix."""
    ones = torch.ones_like(rho)
    read = ones if block.fed_by is None else ones + 2 * block.fed_by.mean_apply(ones)
    return rho / (1 + block.mean_apply(read))


def reduced_map(
    trace: Trace, layer: int, channels: Reduction = "mean", absolute: bool = False
) -> Float[Tensor, "b L L"]:
    """Return one layer's hidden attention with its maps reduced to one, zero where a target cannot see.

    Raises:
        InputError: if the reduction does not exist.
    """
    if channels not in get_args(Reduction):
        raise InputError(f"unknown reduction {shown(channels)}; choose one of {', '.join(get_args(Reduction))}")
    if channels == "mean" and not absolute:
        return hidden_attention_mean(trace, layer)
    scan = trace.operator(layer).scan
    out = scan.skip.new_zeros(trace.shape[0], trace.shape[1], trace.shape[1])
    # one negligible decay makes a product zero, so that it must be known to smaller values
    for block, tile in pair_tiles(scan) if channels == "product" else map_tiles(scan):
        sizes = tile.abs() if absolute or channels == "product" else tile
        out[:, block.rows, block.columns] = _reduced(sizes, channels)
    return out


def discarded(matrix: Float[Tensor, "b L L"], share: float, seen: Int[Tensor, "b L"]) -> Float[Tensor, "b L L"]:
    """Return the matrix with a share of the entries that each target sees, the smallest in absolute value, set to zero.

    Args:
        matrix: The matrix, zero where a target cannot see.
        share: The share, at least 0 and below 1.
        seen: How many sources each target sees.
    """
    if not share:
        return matrix
    unseen = matrix.shape[-1] - seen  # these are zero, the smallest of all
    gone = unseen + (share * seen.double()).long()
    size_rank = matrix.abs().argsort(dim=-1, stable=True).argsort(dim=-1)
    return matrix.masked_fill(size_rank < gone[..., None], 0.0)


def _seen(trace: Trace, layer: int) -> Int[Tensor, "b L"]:
    """Return how many sources each target of a layer sees, not counting padding."""
    device, mask = trace.operator(layer).x.device, trace.attention_mask
    real = torch.ones(trace.shape, dtype=torch.long, device=device) if mask is None else mask.long().to(device)
    ahead = looks_ahead(trace, layer)
    return real.sum(dim=-1, keepdim=True).expand_as(real) if ahead else real.cumsum(dim=-1)


def _reduced(tile: Float[Tensor, "b M t c"], channels: Reduction) -> Float[Tensor, "b t c"]:
    if channels == "mean":
        return tile.mean(dim=1)
    if channels == "product":
        return tile.log().mean(dim=1).exp()
    return tile.amax(dim=1) if channels == "max" else tile.amin(dim=1)


def _scored(trace: Trace, readout: AnyReadout, variant: Variant) -> MethodResult:
    return MethodResult(rollout_row(trace, readout.positions, variant=variant))


def _normalised(trace: Trace, readout: AnyReadout, variant: Variant) -> MethodResult:
    return MethodResult(rollout_row(trace, readout.positions, normalise=True))


METHODS = [
    Method(
        "rollout",
        "product over layers of identity plus hidden attention",
        HIDDEN_ATTENTION,
        signed=True,
        score=_scored,
        whole_map=rollout,
        reference_code=True,
        from_inputs=True,
        column="rollout",
    ),
    Method(
        "rollout-normalised",
        "rollout with every row of identity plus hidden attention divided by its sum",
        "Abnar & Zuidema 2020, arXiv 2005.00928",
        signed=True,
        offered=False,
        score=_normalised,
        from_inputs=True,
        whole_map=partial(rollout, normalise=True),
    ),
]
