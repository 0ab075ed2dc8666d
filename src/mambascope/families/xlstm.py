"""xLSTM (Beck et al., arXiv 2405.04517; xLSTM-7B, arXiv 2503.13427): the mLSTM, a norm of each head, a gate.

    C_i = f_i C_{i-1} + e^{ĩ_i} k_i v_iᵀ,   n_i = f_i n_{i-1} + e^{ĩ_i} k_i,   h_i = C_iᵀ q_i / max(|n_i · q_i|, 1)

with f = σ(f̃), q scaled by 1/√N, and ĩ, f̃ capped. The model divides all by e^{m_i}, m_i the largest exponent so far (at
least that of an empty state at the start, 0, decayed), and adds ε to the denominator. The LayerNorm of each head has
its deviation frozen; the mean that it subtracts is linear and is kept.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mambascope.families.family import Captured, PlainFamily, weights
from mambascope.families.held import Held, chunked_state
from mambascope.operators.affine import AffineMixer
from mambascope.operators.convolution import CausalConvolution
from mambascope.operators.decayed_attention import DecayedAttention


def affine(mixer: Any, captured: Captured, dtype: torch.dtype) -> AffineMixer:
    """Return the layer's affine map."""
    x, config, norm = captured.x.to(dtype), mixer.config, mixer.multihead_norm
    (q, k, v, gate), (write, keep) = _parts(mixer, dtype), _gates(mixer, dtype)
    cap = config.gate_soft_cap
    entering, keeping = (_capped(F.linear(x, *part), cap) for part in (write, keep))
    query, key = (rearrange(F.linear(x, *part), "b L (h n) -> b L h n", h=config.num_heads) for part in (q, k))
    W_v, one = v[0], x.new_ones(())
    channels = len(W_v)
    ungated = AffineMixer(
        x=x,
        scan=mlstm(query, key, entering, F.logsigmoid(keeping), config.eps, x.new_zeros(channels)),
        W_x=W_v,
        b_x=v[1],
        convolution=CausalConvolution(one.expand(channels, 1)),
        conv_bias=None,
        gate=one.expand(*x.shape[:2], channels),
        W_o=weights(mixer.out_proj.weight, dtype),
        b_o=weights(mixer.out_proj.bias, dtype),
        silu=False,
        centred=config.num_heads,
    )
    heads = rearrange(ungated.scanned(), "b L (h p) -> b L h p", h=config.num_heads)
    deviation = heads.var(dim=-1, unbiased=False, keepdim=True).add(norm.eps).rsqrt().expand_as(heads).flatten(2)
    factor = F.linear(x, *gate).sigmoid()
    return replace(
        ungated,
        gate=factor * deviation * weights(norm.weight, dtype),
        offset=None if norm.bias is None else factor * weights(norm.bias, dtype),
    )


def mlstm(
    query: Float[Tensor, "b L H N"],
    key: Float[Tensor, "b L H N"],
    entering: Float[Tensor, "b L H"],
    kept: Float[Tensor, "b L H"],
    eps: float,
    skip: Float[Tensor, " D"],
) -> DecayedAttention:
    """Return the operator of an mLSTM, its normaliser frozen.

    Args:
        query, key: q and k, not yet scaled.
        entering: ĩ, the logarithm of what enters the state.
        kept: Logarithm of f.
        eps: What is added to the denominator.
        skip: Zero per channel.
    """
    largest, tops = torch.zeros_like(entering[:, 0]), []
    for i in range(entering.shape[1]):
        largest = torch.maximum(largest + kept[:, i], entering[:, i])
        tops.append(largest)
    top = torch.stack(tops, dim=1)
    before = F.pad(top[:, :-1], (0, 0, 1, 0))
    fall, write = kept + before - top, key * (entering - top).exp()[..., None]
    read = query * query.shape[-1] ** -0.5
    ones = torch.ones_like(entering)  # one channel per head, of which each token writes 1: n · q
    weight = DecayedAttention(fall, write, read, skip=torch.zeros_like(entering[0, 0])).apply(ones)
    denominator = torch.maximum(weight.abs(), (-top).exp()) + eps
    return DecayedAttention(fall, write, read / denominator[..., None], skip)


def _capped(values: Tensor, cap: float | None) -> Tensor:
    return values if cap is None else cap * torch.tanh(values / cap)


def _parts(mixer: Any, dtype: torch.dtype) -> list[tuple[Tensor, Tensor | None]]:
    """Return weight and bias of q, k, v and the output gate, which are four layers or one."""
    if mixer.config.weight_mode == "single":
        return [_linear(part, dtype) for part in (mixer.q, mixer.k, mixer.v, mixer.ogate_preact)]
    return _split(mixer.qkv_opreact, dtype, [mixer.qk_dim, mixer.qk_dim, mixer.v_dim, mixer.v_dim])


def _gates(mixer: Any, dtype: torch.dtype) -> list[tuple[Tensor, Tensor | None]]:
    """Return weight and bias of the input gate and the forget gate."""
    if mixer.config.weight_mode == "single":
        return [_linear(part, dtype) for part in (mixer.igate_preact, mixer.fgate_preact)]
    return _split(mixer.ifgate_preact, dtype, [mixer.config.num_heads] * 2)


def _linear(layer: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    return weights(layer.weight, dtype), weights(layer.bias, dtype)


def _split(layer: Any, dtype: torch.dtype, widths: list[int]) -> list[tuple[Tensor, Tensor | None]]:
    W, b = _linear(layer, dtype)
    biases = [None] * len(widths) if b is None else b.split(widths)
    return list(zip(W.split(widths), biases, strict=True))


def holds(mixer: Any) -> Held:
    """Return what the mLSTM holds; for a backward pass its own code keeps less than its linear maps are counted for."""
    heads = mixer.config.num_heads
    return replace(chunked_state(heads, mixer.qk_dim // heads, mixer.v_dim // heads), backward=0)


FAMILY = PlainFamily(
    model_type="xlstm",
    mixer_class="xLSTMLayer",
    module="transformers.models.xlstm.modeling_xlstm",
    kind="recurrence",
    affine=affine,
    holds=holds,
)
