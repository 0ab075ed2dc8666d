"""LFM2 (Liquid AI, arXiv 2511.23404): a short convolution between two gates, beside attention with norms of q and k.

    y = W_o (C ⊙ conv(B ⊙ W_x x)),     [B, C, W_x x] = in_proj x

B is the gate of a source and C that of a target, both frozen; the convolution has K taps and no activation.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mambascope.families import llama
from mambascope.families.attention import AttentionFamily, Projections
from mambascope.families.family import Captured, Family, ScanCall, weights
from mambascope.operators.affine import AffineMixer
from mambascope.operators.convolution import CausalConvolution
from mambascope.operators.short_convolution import ShortConvolution


def read(hidden_states: Tensor, weight: Tensor, bias: Tensor | None = None, *_: Any, **__: Any) -> ScanCall:
    """Read one `causal_conv1d_fn` call, which has channels before tokens and whose input is B ⊙ W_x x."""
    return ScanCall(
        s=hidden_states.transpose(1, 2),
        coefficients={
            "taps": weight.flip(1),
            "gate": weight.new_ones(()).expand_as(hidden_states.transpose(1, 2)),
            "D": torch.zeros_like(weight[:, 0]),
        },
        give=lambda o: o.transpose(1, 2).to(hidden_states.dtype),
        take=lambda o: o.transpose(1, 2),
        bias=bias,
    )


def convolution(consumed: dict[str, Tensor], dtype: torch.dtype) -> ShortConvolution:
    """Return the operator of a call: the convolution alone, whose gates are 1."""
    taps, ungated, skip = (consumed[name].to(dtype) for name in ("taps", "gate", "D"))
    return ShortConvolution(taps, write=ungated, read=ungated, skip=skip)


def affine(mixer: Any, captured: Captured, dtype: torch.dtype) -> AffineMixer:
    """Return the mixer's affine map: both gates are part of alpha, and nothing comes between it and W_o."""
    x, in_proj = captured.x.to(dtype), mixer.in_proj
    x = x if captured.mask is None else x * captured.mask[..., None]
    W, b = weights(in_proj.weight, dtype), weights(in_proj.bias, dtype)
    channels = W.shape[0] // 3
    B, C, _ = F.linear(x, W, b).chunk(3, dim=-1)
    conv_bias, one = weights(mixer.conv.bias, dtype), x.new_ones(())
    taps = weights(mixer.conv.weight, dtype)[:, 0].flip(1)
    return AffineMixer(
        x=x,
        scan=ShortConvolution(taps, write=B, read=C, skip=x.new_zeros(channels)),
        W_x=W[2 * channels :],
        b_x=None if b is None else b[2 * channels :],
        convolution=CausalConvolution(one.expand(channels, 1)),
        conv_bias=None,
        gate=one.expand(*x.shape[:2], channels),
        W_o=weights(mixer.out_proj.weight, dtype),
        b_o=weights(mixer.out_proj.bias, dtype),
        silu=False,
        offset=None if conv_bias is None else C * conv_bias,
    )


def reads_padding(mixer: Any) -> bool:
    """Return whether the product of two biases, B's and the values', enters the convolution at masked padding."""
    bias = mixer.in_proj.bias
    if bias is None:
        return False
    B, _, values = bias.detach().chunk(3)
    return mixer.conv.weight.shape[-1] > 1 and bool((B * values).any())


def projections(mixer: Any, heads: int) -> Projections:
    """Return v_proj, its heads repeated for every query head that they serve, and out_proj."""
    return llama.shared_values(mixer.v_proj, mixer.out_proj, mixer.head_dim, heads)


def _families(model_type: str, prefix: str) -> tuple[Family, AttentionFamily]:
    module = f"transformers.models.{model_type}.modeling_{model_type}"
    return (
        Family(
            model_type=model_type,
            mixer_class=f"{prefix}ShortConv",
            module=module,
            kind="conv",
            scan_function="causal_conv1d_fn",
            token_axis=2,
            read=read,
            scan=convolution,
            affine=affine,
            reads_padding=reads_padding,
        ),
        AttentionFamily(
            model_type=model_type, mixer_class=f"{prefix}Attention", module=module, projections=projections
        ),
    )


FAMILIES = (*_families("lfm2", "Lfm2"), *_families("lfm2_moe", "Lfm2Moe"))
