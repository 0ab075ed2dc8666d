"""RWKV-4 (Peng et al., arXiv 2305.13048): a decaying average of values, and a channel mix that also mixes tokens.

Time mix (eq. 16-18), for every channel, with k, v, r = linear maps of mixtures μ ⊙ x_j + (1 - μ) ⊙ x_{j-1}:

    o_i = (Σ_{j<i} e^{k_j - (i-1-j) w} v_j + e^{u + k_i} v_i) / (the same weights' sum),     y_i = W_o (σ(r_i) ⊙ o_i)

Channel mix (eq. 19-21), with k and r likewise: y_i = σ(r_i) ⊙ W_v relu(k_i)². The weights, σ(r) and one factor of
relu(k)² are frozen; the rest is linear in x_j and x_{j-1}, which are two channels of the map for each of the model's.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mambascope.errors import UnsupportedModelError
from mambascope.families.family import Captured, PlainFamily, weights
from mambascope.families.held import PER_STEP, Held
from mambascope.operators.affine import AffineMixer
from mambascope.operators.convolution import CausalConvolution
from mambascope.operators.gated_output import GatedOutput
from mambascope.operators.gated_recurrence import WeightedAverage
from mambascope.operators.short_convolution import ShortConvolution

MODULE = "transformers.models.rwkv.modeling_rwkv"


def time_mix(mixer: Any, captured: Captured, dtype: torch.dtype) -> AffineMixer:
    """Return the time mix's affine map."""
    x, W_o = captured.x.to(dtype), weights(mixer.output.weight, dtype)
    key = _mixed(x, mixer.time_mix_key) @ weights(mixer.key.weight, dtype).t()
    gate = (_mixed(x, mixer.time_mix_receptance) @ weights(mixer.receptance.weight, dtype).t()).sigmoid()
    decay, bonus = weights(mixer.time_decay, dtype).exp(), weights(mixer.time_first, dtype)
    scan = WeightedAverage.of_keys(key, decay, bonus, skip=x.new_zeros(2 * W_o.shape[1]))
    return AffineMixer(
        x=x,
        scan=scan,
        W_x=_now_and_before(mixer.value.weight, mixer.time_mix_value, dtype),
        b_x=None,
        convolution=CausalConvolution(_shift(W_o.shape[1], x)),
        conv_bias=None,
        gate=_twice(gate, -1),
        W_o=_twice(W_o, 1),
        b_o=None,
        silu=False,
    )


def channel_mix(mixer: Any, captured: Captured, dtype: torch.dtype) -> GatedOutput:
    """Return the channel mix's affine map, whose token mixing is the shift."""
    x, W_v = captured.x.to(dtype), weights(mixer.value.weight, dtype)
    width, one = W_v.shape[1], x.new_ones(())
    key = _mixed(x, mixer.time_mix_key) @ weights(mixer.key.weight, dtype).t()
    receptance = _mixed(x, mixer.time_mix_receptance) @ weights(mixer.receptance.weight, dtype).t()
    ungated = one.expand(*x.shape[:2], 2 * width)
    return GatedOutput(
        x=x,
        scan=ShortConvolution(_shift(width, x), write=ungated, read=ungated, skip=x.new_zeros(2 * width)),
        W_x=_now_and_before(mixer.key.weight, mixer.time_mix_key, dtype),
        b_x=None,
        convolution=CausalConvolution(one.expand(2 * width, 1)),
        conv_bias=None,
        gate=_twice(key.relu(), -1),
        W_o=_twice(W_v, 1),
        b_o=None,
        silu=False,
        after=receptance.sigmoid(),
    )


def _mixed(x: Float[Tensor, "b L E"], share: Tensor) -> Float[Tensor, "b L E"]:
    """Return μ ⊙ x_j + (1 - μ) ⊙ x_{j-1}, with nothing before the first token."""
    mu = weights(share, x.dtype)
    return x * mu + F.pad(x[:, :-1], (0, 0, 1, 0)) * (1 - mu)


def _now_and_before(weight: Tensor, share: Tensor, dtype: torch.dtype) -> Float[Tensor, "rows E"]:
    """Return the rows that read x_j and those that read x_{j-1}, in turn."""
    W, mu = weights(weight, dtype), weights(share, dtype).flatten()
    return torch.stack([W * mu, W * (1 - mu)], dim=1).flatten(0, 1)


def _shift(width: int, like: Tensor) -> Float[Tensor, "rows 2"]:
    """Return the taps that leave every first channel where it is and move every second one on by a token."""
    return torch.eye(2, dtype=like.dtype, device=like.device).repeat(width, 1)


def _twice(values: Tensor, axis: int) -> Tensor:
    """Return each channel's values twice in a row."""
    return values.repeat_interleave(2, dim=axis)


def own_output(model: nn.Module, mixer: Any) -> None:
    """Give a mixer of a private copy its own output projection if the model's next pass would divide it in place.

    The first pass in evaluation mode divides the weights of every `rescale_every` layers by 2, 4, … for good; the
    stream is halved after as many layers, so that the numbers of half precision do not overflow.

    Raises:
        UnsupportedModelError: if the weights are quantised, and so cannot be divided apart from the model's.
    """
    whole = next((part for part in model.modules() if type(part).__name__ == "RwkvModel"), None)
    if whole is None or whole.layers_are_rescaled:
        return
    layer = mixer.output if hasattr(mixer, "output") else mixer.value
    if not layer.weight.is_floating_point():
        raise UnsupportedModelError(
            "this RWKV model is quantised and has not run yet, and its first pass changes its weights; run it once in "
            "evaluation mode first"
        )
    layer.weight = nn.Parameter(layer.weight.detach().clone(), requires_grad=False)


def stream_after_first_norm(block: Any) -> tuple[nn.Module, float] | None:
    """Return the norm whose output is the stream in the first block, and None in the others."""
    return (block.pre_ln, 1.0) if hasattr(block, "pre_ln") else None


def holds(mixer: Any) -> Held:
    """Return what the time mix holds: weights, decays and states of two channels for each, and the loop's own steps."""
    return Held(at_once=26 * mixer.attention_hidden_size, backward=PER_STEP)


FAMILIES = (
    PlainFamily(
        model_type="rwkv",
        mixer_class="RwkvSelfAttention",
        module=MODULE,
        kind="recurrence",
        affine=time_mix,
        holds=holds,
        residual=stream_after_first_norm,
        renews=True,
        unshare=own_output,
    ),
    PlainFamily(
        model_type="rwkv",
        mixer_class="RwkvFeedForward",
        module=MODULE,
        kind="shift",
        affine=channel_mix,
        residual=stream_after_first_norm,
        renews=True,
        unshare=own_output,
    ),
)
