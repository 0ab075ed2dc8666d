"""A machine as a Mamba-1: features select B, C and Δ, and the convolution looks back.

Channels hold one bit each. Those that carry something have a scan; beside them are channels whose activation B, C and Δ
are projected from. `W_x` gives a feature that is on the value `ONE`, which SiLU makes 1; the gate is SiLU(ONE) = 1
everywhere. A lag is a tap of the convolution that passes through the skip D.

Approximations, relative to an answer of 1: what should be kept decays by at most `SLOW` per token (only where the
memory is reset), else by e^-FAR; what should be forgotten or kept out leaves e^-FAR.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MambaConfig, MambaForCausalLM

from mambascope.models.constructed.machine import ALWAYS, FAR, FIRST, ONE, REWRITE, UNIT, Carry, Layer, Machine

#: The decay rate of a memory that a reset clears: a step of FAR / SLOW does.
SLOW = 1e-8
EPSILON = 1e-5
TAPS = 4


def in_mamba(machine: Machine) -> MambaForCausalLM:
    """Return the machine as a stock Mamba-1, in float32."""
    plans = [_Plan(layer) for layer in machine.layers]
    width = max(len(machine.features), *(len(plan.channels) for plan in plans))
    config = MambaConfig(
        vocab_size=len(machine.tokens),
        hidden_size=width,
        expand=1,
        state_size=max(1, *(len(layer.addresses) for layer in machine.layers)),
        time_step_rank=max(plan.steps for plan in plans),
        num_hidden_layers=len(plans),
        layer_norm_epsilon=EPSILON,
        conv_kernel=TAPS,
        tie_word_embeddings=False,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = MambaForCausalLM(config).eval().requires_grad_(False).double()
    zero(model)
    places = machine.features
    model.backbone.embeddings.weight[:, : len(places)] = machine.embeddings()
    model.lm_head.weight[:, : len(places)] = machine.readout()
    model.backbone.norm_f.weight.fill_(norm_weight(machine, len(plans), width))
    for depth, (plan, block) in enumerate(zip(plans, model.backbone.layers, strict=True)):
        block.norm.weight.fill_(norm_weight(machine, depth, width))
        plan.write(block.mixer, places)
        flip(block.mixer.in_proj, block.mixer.out_proj, machine.signs(width))
    for table in (model.backbone.embeddings, model.lm_head):
        table.weight.mul_(machine.signs(width))
    return model.float()


def flip(reading: Any, writing: Any, signs: Tensor) -> None:
    """Turn the signs of the stream's dimensions in what reads it and what writes to it."""
    reading.weight.mul_(signs)
    writing.weight.mul_(signs[:, None])


def zero(model: nn.Module) -> None:
    """Set every weight to zero."""
    for parameter in model.parameters():
        parameter.zero_()


def norm_weight(machine: Machine, depth: int, width: int, epsilon: float = EPSILON) -> float:
    """Return the weight that undoes the norm before a layer: the root mean square of the stream."""
    return math.sqrt(machine.norm(depth) / width + epsilon)


class _Plan:
    """The channels of one layer: (feature, lag, address), the address for those that are kept for one alone."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        addresses = range(len(layer.addresses)) if layer.forgets == REWRITE else (None,)
        self.carrying: list[tuple[int | None, Carry]] = [(a, carry) for a in addresses for carry in layer.carries]
        self.reads = [ALWAYS if layer.gated else address.read for address in layer.addresses]
        selecting = [address.written for address in layer.addresses] + self.reads
        selecting += [str(layer.forgets)] if layer.resets else []
        self.selecting = list(dict.fromkeys(selecting))
        self.channels = [carry.feature for _, carry in self.carrying] + self.selecting
        self.channels += [] if layer.reference is None else [ALWAYS]
        self.steps = len(layer.addresses) if layer.forgets == REWRITE else 1

    def write(self, mixer: Any, places: dict[str, int]) -> None:
        """Set the weights of a mixer."""
        layer, inner = self.layer, mixer.intermediate_size
        first = len(self.carrying)
        for channel, feature in enumerate(self.channels):
            self._convolve(mixer, channel, feature, carrying=channel < first, places=places)
        for channel in range(inner):
            opens = layer.addresses[self.carrying[channel][0] or 0].read if layer.gated and channel < first else ALWAYS
            mixer.in_proj.weight[inner + channel, places[opens]] = ONE
        rank, states = mixer.time_step_rank, mixer.ssm_state_size
        for n, address in enumerate(layer.addresses):
            mixer.x_proj.weight[rank + n, first + self.selecting.index(address.written)] = 1
            mixer.x_proj.weight[rank + states + n, first + self.selecting.index(self.reads[n])] = 1
        mixer.A_log.fill_(math.log(SLOW) if layer.resets else 0 if layer.forgets == REWRITE else -FAR)
        written = self._steps(mixer)
        for channel, (_, carry) in enumerate(self.carrying):
            mixer.out_proj.weight[places[carry.slot], channel] = carry.weight / written
        if layer.lag is not None:
            mixer.D[:first] = 1
        if layer.reference is not None:  # through the skip alone: its scan writes nothing
            last = len(self.channels) - 1
            mixer.D[last] = 1
            mixer.dt_proj.bias[last], mixer.dt_proj.weight[last] = -FAR, 0
            mixer.out_proj.weight[places[layer.reference], last] = 1

    def _convolve(self, mixer: Any, channel: int, feature: str, *, carrying: bool, places: dict[str, int]) -> None:
        """Let one channel see a feature: now, a lag ago, or, for `FIRST`, now but not one token ago."""
        mixer.in_proj.weight[channel, places[ALWAYS if feature == FIRST else feature]] = ONE
        taps: Tensor = mixer.conv1d.weight[channel, 0]
        taps[-1 - ((self.layer.lag or 0) if carrying else 0)] = 1
        if feature == FIRST:
            taps[-2] = -1

    def _steps(self, mixer: Any) -> float:
        """Set how Δ is chosen, and return Δ where something is written."""
        layer, first = self.layer, len(self.carrying)
        if layer.forgets != REWRITE:
            mixer.dt_proj.bias.fill_(UNIT)
            if layer.resets:
                mixer.x_proj.weight[0, first + self.selecting.index(str(layer.forgets))] = 1
                mixer.dt_proj.weight[:, 0] = FAR / SLOW
            return 1.0
        mixer.dt_proj.bias.fill_(-FAR)
        for a, address in enumerate(layer.addresses):
            mixer.x_proj.weight[a, first + self.selecting.index(address.written)] = 1
        for channel, (number, _) in enumerate(self.carrying):
            mixer.dt_proj.weight[channel, number] = 2 * FAR
        return float(torch.nn.functional.softplus(torch.tensor(FAR, dtype=torch.float64)))
