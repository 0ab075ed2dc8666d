"""RecurrentGemma (Botev et al., arXiv 2404.07839): Griffin's RG-LRU (De et al., arXiv 2402.19427) beside attention.

    h_k = a_k ⊙ h_{k-1} + √(1 - a_k²) ⊙ i_k ⊙ s_k,     a_k = exp(-8 r_k ⊙ softplus(Λ)),     y = W_o (GeLU(W_y x) ⊙ h)

with s the convolution of W_x x, which has no activation, and i, r = σ(linear maps of s), one per block of channels. At
position 0 the state starts anew: a is 0, and the root 1. All of i, a and the GeLU are frozen.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from mambascope.errors import InputError
from mambascope.families import llama
from mambascope.families.attention import AttentionFamily
from mambascope.families.family import Captured, PlainFamily, weights
from mambascope.operators.affine import AffineMixer
from mambascope.operators.convolution import CausalConvolution
from mambascope.operators.gated_recurrence import GatedRecurrence

MODULE = "transformers.models.recurrent_gemma.modeling_recurrent_gemma"

#: c of [Griffin] eq. 6, by which the recurrence gate is multiplied in the exponent.
POWER = 8.0


def affine(mixer: Any, captured: Captured, dtype: torch.dtype) -> AffineMixer:
    """Return the mixer's affine map; the gates of the recurrence follow from the convolution's output."""
    x, W_o = captured.x.to(dtype), weights(mixer.linear_out.weight, dtype)
    W_x, b_x = weights(mixer.linear_x.weight, dtype), weights(mixer.linear_x.bias, dtype)
    convolution = CausalConvolution(weights(mixer.conv_1d.weight, dtype)[:, 0].flip(1))
    conv_bias = weights(mixer.conv_1d.bias, dtype)
    s = convolution.apply(F.linear(x, W_x, b_x)) + conv_bias
    gate = F.linear(x, weights(mixer.linear_y.weight, dtype), weights(mixer.linear_y.bias, dtype))
    return AffineMixer(
        x=x,
        scan=recurrence(mixer.rg_lru, s, captured.scan["position_ids"]),
        W_x=W_x,
        b_x=b_x,
        convolution=convolution,
        conv_bias=conv_bias,
        gate=mixer.act_fn(gate),
        W_o=W_o,
        b_o=weights(mixer.linear_out.bias, dtype),
        silu=False,
    )


def recurrence(unit: Any, s: Float[Tensor, "b L D"], places: Int[Tensor, "#b L"]) -> GatedRecurrence:
    """Return the RG-LRU's operator from its input, at the positions that the model gave its tokens.

    Raises:
        InputError: if positions start anew within a text.
    """
    if (places[:, 1:] == 0).any():
        raise InputError(
            "position_ids hold 0 after the first token, where the recurrence would start anew; pass each text in a row "
            "of its own"
        )
    written = _gate(s, unit.input_gate_weight, unit.input_gate_bias)
    fall = -POWER * _gate(s, unit.recurrent_gate_weight, unit.recurrent_gate_bias)
    fall = fall * F.softplus(weights(unit.recurrent_param, s.dtype))
    first = (places == 0)[..., None]
    root = torch.where(first, 1.0, (1 - (2 * fall).exp()).sqrt())
    return GatedRecurrence(fall=fall, write=written * root, skip=s.new_zeros(s.shape[-1]))


def _gate(s: Float[Tensor, "b L D"], weight: Float[Tensor, "h c d"], bias: Float[Tensor, "h d"]) -> Tensor:
    """Return σ of a linear map of each block of channels."""
    blocks = rearrange(s, "b L (h c) -> b L h c", h=len(weight))
    mapped = torch.einsum("blhc,hcd->blhd", blocks, weights(weight, s.dtype)) + weights(bias, s.dtype)
    return mapped.sigmoid().flatten(2)


FAMILIES = (
    PlainFamily(
        model_type="recurrent_gemma",
        mixer_class="RecurrentGemmaRecurrentBlock",
        module=MODULE,
        kind="recurrence",
        affine=affine,
        arguments=("position_ids",),
    ),
    AttentionFamily(
        model_type="recurrent_gemma",
        mixer_class="RecurrentGemmaAttention",
        module=MODULE,
        projections=llama.projections,
    ),
)
