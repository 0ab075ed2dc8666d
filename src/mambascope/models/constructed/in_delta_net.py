"""A machine as gated delta nets, those of Qwen3-Next: keys are written, read, and written over.

A layer is one head: the key is the address that a token writes, the query the one that it reads, the value what is
carried. β = σ(FAR) is 1, so writing an address again removes what it held, unless the address is written in steps; then
β is the step. Nothing else decays, but that a reset forgets all. A token without an
address has the key 0, which writes nothing. A lag is a tap of the convolution of values under one constant key. The
norm before the gate divides what is read by its own size; W_o multiplies it again, by the size that an answer has. The
MLPs are zero.

Approximations, relative to an answer of 1: of what is written over, the l2 norms of keys leave 1e-6 / LONG², and β
leaves e^-FAR.
"""

from __future__ import annotations

import math
from typing import Any

from transformers import Qwen3NextConfig, Qwen3NextForCausalLM

from mambascope.models.constructed.in_mamba import TAPS, flip, norm_weight, zero
from mambascope.models.constructed.machine import ALWAYS, FAR, FIRST, ONE, Layer, Machine

EPSILON = 1e-6
#: The length of keys and queries before they are normalised: SiLU(LONG) is LONG, within e^-LONG of it.
LONG = 1000.0


def in_delta_net(machine: Machine) -> Qwen3NextForCausalLM:
    """Return the machine as a stock Qwen3-Next of delta nets alone, in float32."""
    width, layers = len(machine.features), machine.layers
    config = Qwen3NextConfig(
        vocab_size=len(machine.tokens),
        hidden_size=width,
        num_hidden_layers=len(layers),
        layer_types=["linear_attention"] * len(layers),
        linear_num_key_heads=1,
        linear_num_value_heads=1,
        linear_key_head_dim=max(1, *(len(layer.addresses) for layer in layers)),
        linear_value_head_dim=max(len(layer.carries) for layer in layers),
        linear_conv_kernel_dim=TAPS,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=4,
        num_experts=0,
        intermediate_size=1,
        rms_norm_eps=EPSILON,
        max_position_embeddings=machine.length,
        use_cache=False,  # a cache of delta nets alone has no length for this class
        tie_word_embeddings=False,
    )
    model = Qwen3NextForCausalLM(config).eval().requires_grad_(False).double()
    zero(model)
    model.model.embed_tokens.weight.copy_(machine.embeddings())
    model.lm_head.weight.copy_(machine.readout())
    # this class multiplies by 1 + weight
    model.model.norm.weight.fill_(norm_weight(machine, len(layers), width, EPSILON) - 1)
    for depth, (layer, block) in enumerate(zip(layers, model.model.layers, strict=True)):
        block.input_layernorm.weight.fill_(norm_weight(machine, depth, width, EPSILON) - 1)
        mixer = block.linear_attn
        _write(layer, mixer, machine.features)
        flip(mixer.in_proj_qkvz, mixer.out_proj, machine.signs(width))
        mixer.in_proj_ba.weight.mul_(machine.signs(width))
    for table in (model.model.embed_tokens, model.lm_head):
        table.weight.mul_(machine.signs(width))
    return model.float()


def _write(layer: Layer, mixer: Any, places: dict[str, int]) -> None:
    """Set the weights of a mixer; in_proj_qkvz holds queries, keys, values, gate; the convolution the first three."""
    keys, values = mixer.head_k_dim, mixer.head_v_dim
    mixer.norm.weight.fill_(1)
    mixer.in_proj_qkvz.weight[2 * keys + values :, places[ALWAYS]] = ONE
    _step(layer, mixer, places)
    if layer.resets:  # Δ is e^-FAR, and FAR where all is forgotten
        mixer.A_log.fill_(0)
        mixer.dt_bias.fill_(-FAR)
        mixer.in_proj_ba.weight[1, places[str(layer.forgets)]] = 2 * FAR
        addresses = [(address.written, address.read) for address in layer.addresses]
    elif layer.lag is None:
        mixer.A_log.fill_(-FAR)
        addresses = [(address.written, address.read) for address in layer.addresses]
    else:  # everything is forgotten at once: exp(-e^10 softplus(0)) is 0
        mixer.A_log.fill_(10)
        addresses = [(ALWAYS, ALWAYS)]
    for n, (written, read) in enumerate(addresses):
        _see(mixer, n, read, LONG, places)
        _see(mixer, keys + n, written, LONG, places)
    read_size = 1 / math.sqrt(layer.at_once * keys)
    scale = math.sqrt(layer.at_once * read_size**2 / values + EPSILON) / read_size
    for k, carry in enumerate(layer.carries):
        _see(mixer, 2 * keys + k, carry.feature, ONE, places, lag=layer.lag or 0)
        mixer.out_proj.weight[places[carry.slot], k] = carry.weight * scale


def _step(layer: Layer, mixer: Any, places: dict[str, int]) -> None:
    """Set β, by the address that is written if they differ."""
    if all(address.step == 1 for address in layer.addresses):
        mixer.in_proj_ba.weight[0, places[ALWAYS]] = FAR
        return
    for address in layer.addresses:
        step = math.log(address.step / (1 - address.step)) if address.step < 1 else FAR
        mixer.in_proj_ba.weight[0, places[address.written]] = step


def _see(mixer: Any, channel: int, feature: str, size: float, places: dict[str, int], lag: int = 0) -> None:
    """Let one channel of the convolution see a feature: now, a lag ago, or, for `FIRST`, now but not one token ago."""
    mixer.in_proj_qkvz.weight[channel, places[ALWAYS if feature == FIRST else feature]] = size
    mixer.conv1d.weight[channel, 0, -1 - lag] = 1
    if feature == FIRST:
        mixer.conv1d.weight[channel, 0, -2] = -1
