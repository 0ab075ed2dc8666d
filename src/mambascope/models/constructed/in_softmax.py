"""A machine as softmax attention, a GPT-2 of one head per layer.

Positions are features too, one for each place, so that a lag and the first token are addresses. A feature stands in two
dimensions, +1 and -1, so that LayerNorm finds the mean 0 and is a constant factor. Scores of a match exceed all others
by MARGIN. Where an address is forgotten when it is written again, the score grows by MARGIN with each position, and a
match counts more than all positions together. The MLPs are zero.

Softmax takes means: several sources that match share the weight, and W_o multiplies it by as many as an answer has. So
a sum over a number of sources that varies cannot be read from one head. Approximation, relative to an answer of 1: what
does not match gets e^-MARGIN for each token.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from mambascope.models.constructed.in_mamba import EPSILON, zero
from mambascope.models.constructed.machine import ALWAYS, FIRST, REWRITE, Layer, Machine

MARGIN = 40.0


def in_softmax(machine: Machine) -> GPT2LMHeadModel:
    """Return the machine as a stock GPT-2, in float32."""
    half = len(machine.features) + machine.length
    config = GPT2Config(
        vocab_size=len(machine.tokens),
        n_positions=machine.length,
        n_embd=2 * half,
        n_layer=len(machine.layers),
        n_head=1,
        n_inner=1,
        layer_norm_epsilon=EPSILON,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = GPT2LMHeadModel(config).eval().requires_grad_(False).double()
    zero(model)
    places = dict(machine.features) | {_position(k): len(machine.features) + k for k in range(machine.length)}
    body = model.transformer
    body.wte.weight.copy_(_paired(machine.embeddings(), half))
    body.wpe.weight.copy_(_paired(torch.eye(half, dtype=torch.float64)[len(machine.features) :], half))
    model.lm_head.weight.copy_(_paired(machine.readout(), half) / 2)
    body.ln_f.weight.fill_(_norm_weight(machine, len(machine.layers), half))
    for depth, (layer, block) in enumerate(zip(machine.layers, body.h, strict=True)):
        block.ln_1.weight.fill_(_norm_weight(machine, depth, half))
        block.ln_2.weight.fill_(1)
        query, key, value = block.attn.c_attn.weight.split(2 * half, dim=1)
        _choose(layer, machine.length, places, query, key)
        for k, carry in enumerate(layer.carries):
            value[:, k] = _see(carry.feature, places)
            block.attn.c_proj.weight[k] += carry.weight * layer.at_once * 2 * _see(carry.slot, places)
    return model.float()


def _choose(layer: Layer, length: int, places: dict[str, int], query: Tensor, key: Tensor) -> None:
    """Set which sources a target reads: scores are query times key over the root of the head's width."""
    size = math.sqrt(len(query))
    if layer.lag is not None:
        for position in range(layer.lag, length):
            query[:, position] = MARGIN * size * _see(_position(position), places)
            key[:, position] = _see(_position(position - layer.lag), places)
        return
    later = layer.forgets == REWRITE
    match = MARGIN * (length if later else 1)
    for n, address in enumerate(layer.addresses):
        query[:, n] = match * size * _see(address.read, places)
        key[:, n] = _see(_position(0) if address.written == FIRST else address.written, places)
    if later:
        n = len(layer.addresses)
        query[:, n] = MARGIN * size * _see(ALWAYS, places)
        key[:, n] = sum(position * _see(_position(position), places) for position in range(length))


def _see(feature: str, places: dict[str, int]) -> Float[Tensor, " width"]:
    """Return weights that read a feature: half of +1 and half of -1."""
    weights = torch.zeros(2 * len(places), dtype=torch.float64)
    weights[places[feature]], weights[len(places) + places[feature]] = 0.5, -0.5
    return weights


def _paired(table: Float[Tensor, "rows n"], half: int) -> Float[Tensor, "rows width"]:
    """Return features as +1 in one half of the width and -1 in the other."""
    full = torch.nn.functional.pad(table, (0, half - table.shape[1]))
    return torch.cat([full, -full], dim=1)


def _norm_weight(machine: Machine, depth: int, half: int) -> float:
    """Return the weight that undoes the norm; each feature counts twice, and a position is one more."""
    return math.sqrt(2 * (machine.norm(depth) + 1) / (2 * half) + EPSILON)


def _position(number: int) -> str:
    return f"position {number}"
