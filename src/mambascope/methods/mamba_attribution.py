"""Mamba-Attribution (Ali, Zimerman & Wolf, arXiv 2403.01590, section 4.2): rollout weighted by gradients.

    β^λ = I + ( mean_e ∇y'^λ ⊙ mean_d alpha^λ )⁺,   ρ = e_t Π_λ β^λ

∇y' is the readout's true gradient at the mixer's output, one number per target row after the mean over its width. The
positive part looks at single entries, so time is quadratic in L, by tiles; memory is linear. On softmax attention the
same formula has the gradient at the layer's output; Transformer-Attribution proper is in `transformer_attribution`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mambascope.errors import InputError, UnsupportedModelError
from mambascope.methods.hidden_attention import mean_tiles
from mambascope.methods.method import HIDDEN_ATTENTION, SCAN, AnyReadout, Method, MethodResult, number_of
from mambascope.methods.one_hot import one_hot
from mambascope.methods.reference_code import (
    Variant,
    check_variant,
    first_reference_layer,
    min_max,
    real_tokens,
    reference_rollout,
    reference_row,
)
from mambascope.methods.targets import of_each_text
from mambascope.readouts import FeatureReadout, Readout
from mambascope.trace import Trace
from mambascope.trace.differentiate import Gradients


def mamba_attribution(
    trace: Trace, readout: Readout | FeatureReadout, *, variant: Variant = "published"
) -> Float[Tensor, "b L"]:
    """Return the scores of all sources for a readout; where it has several positions, their rows are averaged.

    Args:
        trace: A capture.
        readout: What is explained, with its positions; negative numbers count back from each text's own last token.
        variant: `reference-code` is what the paper's code does: one target's row alone per layer, hidden attention
            clamped at 0 and brought to [0, 1], times the largest positive gradient of each source, brought to [0, 1]
            over tokens. That code leaves the target out of its answer; here it keeps its place, with the score 0. Where
            the readout reads one token, the last layer gives nothing: its gradient is zero at every other source.

    Raises:
        InputError: if a position does not exist or is padding in one of the texts, or variant does not exist.
        UnsupportedModelError: if the reference code is asked of softmax attention, or the gradients' means over
            the width are zero but for rounding, as where nothing but LayerNorms follows, which take means out.
    """
    check_variant(variant)
    return from_gradients(trace, trace.gradients(readout), readout.positions, variant)


def from_gradients(
    trace: Trace, gradients: Gradients, targets: Sequence[int], variant: Variant = "published"
) -> Float[Tensor, "b L"]:
    """Return `mamba_attribution` of these targets for the number whose gradients at the mixers are given."""
    flows = [gradients.mixers[block.branch.name][1] for block in trace.layers]
    if variant == "reference-code":
        if len(targets) != 1:
            raise InputError("the reference code's Mamba-Attribution explains one target at a time")
        layers = range(first_reference_layer(len(trace.layers)), len(trace.layers))
        rows = of_each_text(
            trace, targets[0], lambda place: tuple(_released(trace, k, flows[k], place) for k in layers)
        )
        return reference_rollout(rows)
    _require_means(flows)
    rho = one_hot(trace, targets)
    for layer in reversed(range(len(trace.layers))):
        scan = trace.operator(layer).scan
        slope = flows[layer].to(rho.dtype).mean(dim=-1)
        below = rho.clone()
        for block, tile in mean_tiles(scan):
            weighted = (tile * slope[:, block.rows, None]).clamp_(min=0)
            below[:, block.columns] += torch.einsum("bt,btc->bc", rho[:, block.rows], weighted)
        rho = below
    return rho


def _require_means(flows: Sequence[Float[Tensor, "b L E"]]) -> None:
    """Raise UnsupportedModelError if every layer's gradient has no mean over its width beyond rounding."""
    if not any(flow.any() for flow in flows):
        return  # the readout depends on no layer, which is no matter of means
    for flow in flows:
        # E roundings of the backward pass, each of a few eps of the largest entry, leave their mean this far from zero
        rounding = 16 * torch.finfo(flow.dtype).eps / flow.shape[-1] ** 0.5
        if flow.double().mean(dim=-1).abs().amax() > rounding * flow.abs().amax():
            return
    raise UnsupportedModelError(
        "Mamba-Attribution takes the mean of gradients over a layer's width, and here it is zero but for rounding, as "
        "LayerNorms follow, which take means out; choose another method, or of a model with stages an earlier one"
    )


def _released(trace: Trace, layer: int, flow: Tensor, target: int) -> Float[Tensor, "b L"]:
    real = real_tokens(trace)
    attention = min_max(reference_row(trace, layer, target).clamp(min=0), real).mean(dim=1)
    strength = flow.to(attention.dtype).clamp(min=0).amax(dim=-1)
    return attention * min_max(strength[:, None], real)[:, 0]


def _scored(trace: Trace, readout: AnyReadout, variant: Variant) -> MethodResult:
    return MethodResult(mamba_attribution(trace, number_of(readout), variant=variant))


METHODS = [
    Method(
        "mamba-attribution",
        "rollout of hidden attention weighted by the logit's gradient, its positive part",
        HIDDEN_ATTENTION,
        signed=False,
        needs="backward",
        cost="quadratic",
        passes=3.0,
        growth=0.1,
        kinds=SCAN,
        score=_scored,
        reference_code=True,
        asks=True,
        takes_means=True,
        column="attribution",
    ),
]
