"""Mamba-Attribution (Ali, Zimerman & Wolf, arXiv 2403.01590, section 4.2): rollout weighted by gradients.

    β^λ = I + ( mean_e ∇y'^λ ⊙ mean_d alpha^λ )⁺,   ρ = e_t Π_λ β^λ

∇y' is the readout's true gradient at the mixer's output, averaged over its width to one number per target. The positive
part needs single entries, so time is quadratic in L, tile by tile; memory is linear. Other mixers without a softmax,
such as delta rules, have the same formula, with the mean of their matrices. Shared attention that feeds a mixer (Zamba)
is walked as in `mambascope.methods.rollout`.

In a hybrid's softmax attention β is Transformer-Attribution's, I + E_h (∇p ⊙ p)⁺ (`transformer_attribution`). The paper
derives its own formula from it, for a layer whose matrix is never computed: there is no gradient at alpha, so that at
the output takes its place, one number per target. Attention computes p, so nothing needs to take the place of ∇p, and
each layer has the formula that was published for its kind. Both are factors of the same product. Mixers side by side
are added to the stream, and so are their terms: β = I + Σ_b (…)⁺; the factor of a mixer's output is in its gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mambascope.errors import InputError, UnsupportedModelError
from mambascope.methods.checked import checked
from mambascope.methods.hidden_attention import mean_tiles
from mambascope.methods.layer_by_layer import rolled
from mambascope.methods.method import ATTENTION, HIDDEN_ATTENTION, AnyReadout, Method, MethodResult, number_of
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
from mambascope.methods.transformer_attribution import weighted_pull
from mambascope.readouts import FeatureReadout, Readout
from mambascope.trace import Branch, Trace
from mambascope.trace.block import Block
from mambascope.trace.differentiate import Gradients


@checked
def mamba_attribution(
    trace: Trace, readout: Readout | FeatureReadout, *, variant: Variant = "published"
) -> Float[Tensor, "b L"]:
    """Return the scores of all sources for a readout; if it has several positions, their rows are averaged.

    Args:
        trace: A capture.
        readout: The readout, with its positions; negative numbers count back from each text's own last token.
        variant: `reference-code` does what the paper's code does: it takes only one target's row per layer, hidden
            attention clamped at 0 and rescaled to [0, 1], times the largest positive gradient of each source, rescaled
            to [0, 1] over tokens. That code drops the target from its result; here it keeps its place, with score 0. If
            the readout reads one token, the last layer gives nothing: its gradient is zero at every other source.

    Raises:
        InputError: if a position does not exist or is padding in one of the texts, or the variant does not exist.
        UnsupportedModelError: if the variant is `reference-code` and a layer is softmax attention, or the means of the
            gradients over the width are zero up to rounding, as when only LayerNorms follow, which remove means.
    """
    check_variant(variant)
    return from_gradients(trace, trace.gradients(readout), readout.positions, variant)


def from_gradients(
    trace: Trace, gradients: Gradients, targets: Sequence[int], variant: Variant = "published"
) -> Float[Tensor, "b L"]:
    """Return `mamba_attribution` of these targets, given a readout's gradients at the mixers."""
    if variant == "reference-code":
        if len(targets) != 1:
            raise InputError("the reference code's Mamba-Attribution explains one target at a time")
        layers = range(first_reference_layer(len(trace.layers)), len(trace.layers))
        flows = [gradients.mixers[block.branch.name][1] for block in trace.layers]
        rows = of_each_text(
            trace, targets[0], lambda place: tuple(_reference_code_row(trace, k, flows[k], place) for k in layers)
        )
        return reference_rollout(rows)
    weighed = [branch for branch in trace.branches if branch.kind != "attention"]
    _require_means([gradients.mixers[branch.name][1] for branch in weighed])

    def pull(block: Block, rho: Float[Tensor, "b L"]) -> Float[Tensor, "b L"]:
        return torch.stack([_pull(branch, gradients, rho) for branch in block.branches]).sum(dim=0)

    return rolled(trace, one_hot(trace, targets), pull)


def _pull(branch: Branch, gradients: Gradients, rho: Float[Tensor, "b L"]) -> Float[Tensor, "b L"]:
    """Return ρ (mean_e ∇y' ⊙ mean_d alpha)⁺ of one mixer, or ρ E_h (∇p ⊙ p)⁺ if it is softmax attention."""
    if branch.kind == "attention":
        return weighted_pull(branch, gradients, rho)
    slope = gradients.mixers[branch.name][1].to(rho.dtype).mean(dim=-1)
    below = torch.zeros_like(rho)
    for block, tile in mean_tiles(branch.operator().scan):
        weighted = (tile * slope[:, block.rows, None]).clamp_(min=0)
        below[:, block.columns] += torch.einsum("bt,btc->bc", rho[:, block.rows], weighted)
    return below


def _require_means(flows: Sequence[Float[Tensor, "b L E"]]) -> None:
    """Raise UnsupportedModelError if every layer's gradient has zero mean over its width, up to rounding."""
    if not any(flow.any() for flow in flows):
        return  # there are none, or the readout depends on no layer: all gradients are zero
    for flow in flows:
        # the size of a mean of E rounding errors in the backward pass, each a few eps of the largest entry
        rounding = 16 * torch.finfo(flow.dtype).eps / flow.shape[-1] ** 0.5
        if flow.double().mean(dim=-1).abs().amax() > rounding * flow.abs().amax():
            return
    raise UnsupportedModelError(
        "Mamba-Attribution takes the mean of gradients over a layer's width, which is zero here up to rounding, "
        "because LayerNorms follow, which remove means; choose another method or, in a model with stages, an earlier "
        "stage"
    )


def _reference_code_row(trace: Trace, layer: int, flow: Tensor, target: int) -> Float[Tensor, "b L"]:
    real = real_tokens(trace)
    attention = min_max(reference_row(trace, layer, target).clamp(min=0), real).mean(dim=1)
    strength = flow.to(attention.dtype).clamp(min=0).amax(dim=-1)
    return attention * min_max(strength[:, None], real)[:, 0]


def _scored(trace: Trace, readout: AnyReadout, variant: Variant) -> MethodResult:
    return MethodResult(mamba_attribution(trace, number_of(readout), variant=variant))


METHODS = [
    Method(
        "mamba-attribution",
        "rollout of the positive part of hidden attention weighted by the logit's gradient",
        HIDDEN_ATTENTION,
        signed=False,
        needs="backward",
        cost="quadratic",
        passes=3.0,
        growth=0.1,
        never_alone=ATTENTION,
        score=_scored,
        reference_code=True,
        asks=True,
        takes_means=True,
        column="attribution",
    ),
]
