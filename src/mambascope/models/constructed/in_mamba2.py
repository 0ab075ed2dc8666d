"""A machine as a Mamba-2: B, C and what is carried come through the convolution, Δ from the token itself.

One head holds everything that is carried; where an address is forgotten when it is written again, each address has a
head of its own, as a head has one decay. A further head gives the reference through its skip. The norm after the gate
divides what is read by its own size; W_o multiplies it again, by the size that an answer has.

Approximations: those of Mamba-1.
"""

from __future__ import annotations

import math
from typing import Any

from transformers import Mamba2Config, Mamba2ForCausalLM

from mambascope.models.constructed.in_mamba import EPSILON, SLOW, TAPS, flip, norm_weight, zero
from mambascope.models.constructed.machine import ALWAYS, FAR, FIRST, ONE, REWRITE, UNIT, Layer, Machine


def in_mamba2(machine: Machine) -> Mamba2ForCausalLM:
    """Return the machine as a stock Mamba-2, in float32."""
    heads = max(map(_heads, machine.layers))
    head_width = max(-(-len(machine.features) // heads), *(len(layer.carries) for layer in machine.layers))
    width = heads * head_width
    config = Mamba2Config(
        vocab_size=len(machine.tokens),
        hidden_size=width,
        expand=1,
        num_heads=heads,
        head_dim=head_width,
        n_groups=1,
        state_size=max(1, *(len(layer.addresses) for layer in machine.layers)),
        num_hidden_layers=len(machine.layers),
        layer_norm_epsilon=EPSILON,
        conv_kernel=TAPS,
        chunk_size=16,
        tie_word_embeddings=False,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = Mamba2ForCausalLM(config).eval().requires_grad_(False).double()
    zero(model)
    places = machine.features
    model.backbone.embeddings.weight[:, : len(places)] = machine.embeddings()
    model.lm_head.weight[:, : len(places)] = machine.readout()
    model.backbone.norm_f.weight.fill_(norm_weight(machine, len(machine.layers), width))
    for depth, (layer, block) in enumerate(zip(machine.layers, model.backbone.layers, strict=True)):
        block.norm.weight.fill_(norm_weight(machine, depth, width))
        _write(layer, block.mixer, places)
        flip(block.mixer.in_proj, block.mixer.out_proj, machine.signs(width))
    for table in (model.backbone.embeddings, model.lm_head):
        table.weight.mul_(machine.signs(width))
    return model.float()


def _heads(layer: Layer) -> int:
    """Return how many heads a layer needs."""
    kept = len(layer.addresses) if layer.forgets == REWRITE else 1
    return kept + (layer.reference is not None)


def _write(layer: Layer, mixer: Any, places: dict[str, int]) -> None:
    """Set the weights of a mixer; in_proj holds the gate, then what is carried, B, C and Δ."""
    inner, states, head_width = mixer.intermediate_size, mixer.ssm_state_size, mixer.head_dim
    kept = len(layer.addresses) if layer.forgets == REWRITE else 1
    mixer.norm.weight.fill_(1)
    for channel in range(inner):
        head = channel // head_width
        opens = layer.addresses[head].read if layer.gated and head < kept else ALWAYS
        mixer.in_proj.weight[channel, places[opens]] = ONE
    written = _steps(layer, mixer, places)
    scale = math.sqrt(layer.at_once * written**2 / inner + EPSILON) / written
    for head in range(kept):
        for k, carry in enumerate(layer.carries):
            channel = head * head_width + k
            _see(mixer, channel, carry.feature, places, lag=layer.lag or 0)
            mixer.out_proj.weight[places[carry.slot], channel] = carry.weight * scale
    for n, address in enumerate(layer.addresses):
        _see(mixer, inner + n, address.written, places)
        _see(mixer, inner + states + n, ALWAYS if layer.gated else address.read, places)
    if layer.lag is not None:
        mixer.D[:kept] = 1
    if layer.reference is not None:
        _see(mixer, kept * head_width, ALWAYS, places)
        mixer.D[kept] = 1
        mixer.out_proj.weight[places[layer.reference], kept * head_width] = scale


def _see(mixer: Any, channel: int, feature: str, places: dict[str, int], lag: int = 0) -> None:
    """Let one channel of the convolution see a feature: now, a lag ago, or, for `FIRST`, now but not one token ago."""
    mixer.in_proj.weight[mixer.intermediate_size + channel, places[ALWAYS if feature == FIRST else feature]] = ONE
    mixer.conv1d.weight[channel, 0, -1 - lag] = 1
    if feature == FIRST:
        mixer.conv1d.weight[channel, 0, -2] = -1


def _steps(layer: Layer, mixer: Any, places: dict[str, int]) -> float:
    """Set the decays and how Δ is chosen, and return Δ where something is written."""
    steps = mixer.in_proj.weight[mixer.intermediate_size + mixer.conv_dim :]
    mixer.dt_bias.fill_(-FAR)
    if layer.forgets == REWRITE:
        mixer.A_log.zero_()
        for head, address in enumerate(layer.addresses):
            steps[head, places[address.written]] = 2 * FAR
        return FAR
    mixer.A_log.fill_(math.log(SLOW) if layer.resets else -FAR)
    mixer.dt_bias[0] = UNIT
    if layer.resets:
        steps[0, places[str(layer.forgets)]] = FAR / SLOW
    return 1.0
