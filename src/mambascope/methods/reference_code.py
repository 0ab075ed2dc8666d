"""What the reference code of *The Hidden Attention of Mamba Models* (arXiv 2403.01590) computes where it differs.

It keeps one row per layer, that of the class token (here, for a text, the target's). The decay from a source stops one
step before the target, and the target's own entry is exactly 0: the loop over sources ends before it, and the loop of
the backward scan begins after it. It starts at layer 15 of 24, and in rollout copies the row into every row of the
layer's matrix, so that the product has a closed form (methods section 5):

    M_λ = (I + 1 a_λᵀ) / (1 + s_λ),  s_λ = Σ_j a_λ[j]
    ρ = e_t Π_λ 1/(1 + s_λ) + Σ_λ a_λ/(1 + s_λ) Π_{m<λ} 1/(1 + s_m)

At the end it clamps the scores at 0 and drops the class token. Here they are clamped too, but the target keeps its
place, with the score 0, so that scores line up with tokens; the term of e_t is dropped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mambascope.errors import InputError, UnsupportedModelError
from mambascope.numbering import shown
from mambascope.operators.multi_scan import MultiScan
from mambascope.operators.selective_scan import SelectiveScan
from mambascope.operators.stacked_scans import StackedScans
from mambascope.operators.state_space_dual import StateSpaceDual
from mambascope.operators.token_mixer import TokenMixer
from mambascope.trace import Trace

#: `published`: what the paper's formulas say, always the default. `reference-code`: what its code does.
Variant = Literal["published", "reference-code"]

#: The reference code skips this share of the layers: 15 of 24.
SKIPPED_LAYERS = 15 / 24


def check_variant(variant: str) -> None:
    """Raise InputError unless the variant is `published` or `reference-code`."""
    if variant not in get_args(Variant):
        if variant == "released":
            raise InputError("variant 'released' is now called 'reference-code'")
        raise InputError(f"unknown variant {shown(variant)}; choose one of {', '.join(get_args(Variant))}")


def first_reference_layer(layers: int) -> int:
    """Return the first layer that the reference code reads in a model with this number of layers."""
    return min(round(layers * SKIPPED_LAYERS), layers - 1)


def reference_row(trace: Trace, layer: int, target: int) -> Float[Tensor, "b M L"]:
    """Return the target's row of hidden attention per map, with decays stopped at the token before the target.

    C_i exp(A (S_{i-1} - S_j)) Δ_j B_j instead of C_i exp(A (S_i - S_j)) Δ_j B_j, for j < i; 0 for the target itself.
    Scans in several directions are added.

    Raises:
        UnsupportedModelError: if the layer is not a selective scan.
    """
    scan = trace.operator(layer).scan
    if not isinstance(scan, MultiScan):
        return _early_row(scan, trace.shape, layer, target)
    row = scan.skip.new_zeros(trace.shape[0], scan.maps, trace.shape[1])
    for part in scan.parts:
        own = _early_row(part.mixer, trace.shape, layer, int(part.permutation.steps[target]))
        row += part.scale * own[..., part.permutation.steps]
    return row


def _early_row(scan: TokenMixer, shape: tuple[int, int], layer: int, target: int) -> Float[Tensor, "b M L"]:
    """Return one scan's row."""
    if isinstance(scan, StackedScans):
        return torch.cat([_early_row(part, shape, layer, target) for part in scan.parts], dim=1)
    if not isinstance(scan, (SelectiveScan, StateSpaceDual)):
        raise UnsupportedModelError(
            f"layer {layer} is no selective scan: variant='reference-code' reproduces code for selective scans only"
        )
    row = scan.skip.new_zeros(shape[0], scan.maps, shape[1])
    still = scan.dt.clone()
    still[:, target] = 0  # no decay at the target itself
    row[..., :target] = dataclasses.replace(scan, dt=still).tile(slice(target, target + 1), slice(0, target))[:, :, 0]
    return row


def reference_rollout(rows: Sequence[Float[Tensor, "b L"]]) -> Float[Tensor, "b L"]:
    """Return the reference code's rollout for the target, from one row a_λ per layer in order, each 0 at the target.

    It is the closed form without e_t, clamped at 0, so that the target's own score is 0.
    """
    rho = torch.zeros_like(rows[0])
    kept = torch.ones_like(rows[0][:, :1])
    for a in (row.to(rho.device) for row in rows):
        share = 1 / (1 + a.sum(dim=-1, keepdim=True))
        rho = rho + a * share * kept
        kept = kept * share
    return rho.clamp(min=0)


def min_max(values: Float[Tensor, "b ..."], real: Bool[Tensor, "b ..."] | None = None) -> Float[Tensor, "b ..."]:
    """Return the values of each text rescaled to [0, 1]; all zero if they are all equal.

    Args:
        values: Values, one text per row.
        real: False where a value belongs to padding, which is ignored and becomes 0; broadcast to the values.
    """
    low = high = flat = values.flatten(1)
    if real is not None:
        outside = ~real.to(values.device).expand_as(values).flatten(1)
        low, high = flat.masked_fill(outside, torch.inf), flat.masked_fill(outside, -torch.inf)
    least, most = low.amin(dim=1, keepdim=True), high.amax(dim=1, keepdim=True)
    scaled = (flat - least) / torch.where(most > least, most - least, torch.ones_like(most))
    return (scaled if real is None else scaled.masked_fill(outside, 0.0)).view(values.shape)


def real_tokens(trace: Trace, seen: int | None = None) -> Bool[Tensor, "b 1 s"] | None:
    """Return which of the first `seen` tokens (by default all) are not padding; None if the trace has no mask."""
    return None if trace.attention_mask is None else trace.attention_mask[:, None, :seen].bool()
