"""MiniMax (arXiv 2501.08313): lightning attention (Qin et al., arXiv 2401.04658) beside softmax attention.

    o_i = Σ_{j≤i} (q_i · k_j) e^{-slope (i-j)} v_j,   y = W_o (σ(W_g x) ⊙ RMSNorm(o)),   [q, k, v] = SiLU(qkv_proj x)

with one slope per head, and one norm over all heads, whose statistic is frozen. A block's stream is its norm's output:
α · norm(stream) + β · y.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from mambascope.errors import UnsupportedModelError
from mambascope.families import llama
from mambascope.families.attention import AttentionFamily
from mambascope.families.family import Captured, PlainFamily, weights
from mambascope.families.held import Held, chunked_state
from mambascope.operators.affine import AffineMixer
from mambascope.operators.convolution import CausalConvolution
from mambascope.operators.decayed_attention import DecayedAttention

MODULE = "transformers.models.minimax.modeling_minimax"


def affine(mixer: Any, captured: Captured, dtype: torch.dtype) -> AffineMixer:
    """Return the layer's affine map; qkv_proj holds the rows of q, k and v head by head.

    Raises:
        UnsupportedModelError: if the activation of q, k and v is not SiLU.
    """
    if not isinstance(mixer.act_fn, nn.SiLU) and type(mixer.act_fn).__name__ != "SiLUActivation":
        raise UnsupportedModelError(
            f"this lightning attention has the activation {type(mixer.act_fn).__name__} on its values; mambascope "
            "reads SiLU"
        )
    x, heads, one = captured.x.to(dtype), mixer.num_attention_heads, captured.x.new_ones((), dtype=dtype)
    W = rearrange(weights(mixer.qkv_proj.weight, dtype), "(h three p) e -> three (h p) e", h=heads, three=3)
    mask = one if captured.mask is None else captured.mask[..., None]
    query, key = (rearrange(F.silu(x @ part.t()) * mask, "b L (h p) -> b L h p", h=heads) for part in W[:2])
    channels = W.shape[1]
    fall = -weights(mixer.slope_rate, dtype).flatten().expand(*x.shape[:2], heads)
    ungated = AffineMixer(
        x=x,
        scan=DecayedAttention(fall, write=key, read=query, skip=x.new_zeros(channels)),
        W_x=W[2],
        b_x=None,
        convolution=CausalConvolution(one.expand(channels, 1)),
        conv_bias=None,
        gate=one.expand(*x.shape[:2], channels),
        W_o=weights(mixer.out_proj.weight, dtype),
        b_o=None,
        mask=captured.mask,
    )
    norm, o = mixer.norm, ungated.scanned()
    factor = torch.rsqrt(o.pow(2).mean(dim=-1, keepdim=True) + norm.variance_epsilon) * weights(norm.weight, dtype)
    return replace(ungated, gate=F.linear(x, weights(mixer.output_gate.weight, dtype)).sigmoid() * factor)


def normed_stream(block: Any) -> tuple[nn.Module, float]:
    """Return the norm whose output is the stream of a block, and α."""
    return block.input_layernorm, float(block.attn_alpha_factor)


def beta(block: Any) -> float:
    """Return β, the factor of the mixer's output."""
    return float(block.attn_beta_factor)


def holds(mixer: Any) -> Held:
    """Return what lightning attention holds; for a backward pass its own code keeps two matrices of every block."""
    heads, width = mixer.num_attention_heads, mixer.head_dim
    return replace(chunked_state(heads, width, width), backward=2 * heads * mixer.block_size)


FAMILIES = (
    PlainFamily(
        model_type="minimax",
        mixer_class="MiniMaxLightningAttention",
        module=MODULE,
        kind="recurrence",
        affine=affine,
        holds=holds,
        constants=("slope_rate", "query_decay", "key_decay", "diagonal_decay"),
        scale=beta,
        residual=normed_stream,
        renews=True,
    ),
    AttentionFamily(
        model_type="minimax",
        mixer_class="MiniMaxAttention",
        module=MODULE,
        projections=llama.projections,
        scale=beta,
        residual=normed_stream,
        renews=True,
    ),
)
