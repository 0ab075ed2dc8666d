"""The logits that a constructed model must return, from its rule, by plain arithmetic in float64."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mambascope.models.constructed.in_mamba import EPSILON
from mambascope.models.constructed.machine import Layer
from mambascope.models.constructed.mechanism import Architecture, Case, Mechanism


def expected_logits(
    mechanism: Mechanism, case: Case, architecture: Architecture, config: Any
) -> Float[Tensor, " tokens"]:
    """Return the logits after the last token of a case.

    The stream holds the token's features and what each layer adds: for each feature that is read, its weight times how
    often it is found, or, of an address that is written in steps, what so many steps make. Where a norm follows,
    a layer's sum is divided by the size of all it holds, relative to the size for which its weights are made. Then
    comes the final norm.

    Args:
        mechanism: The mechanism.
        case: One of its cases.
        architecture: One of its architectures.
        config: The configuration of the model.
    """
    machine, width = mechanism.machine_in(architecture), int(config.hidden_size)
    stream = machine.embeddings()[machine.ids[case.tokens[-1]]].clone()
    for layer, counts in zip(machine.layers, case.held, strict=True):
        held = _held(layer, counts)
        factor = _norm_after(layer, held, architecture, config)
        for carry in layer.carries:
            stream[machine.features[carry.slot]] += factor * carry.weight * held.get(carry.feature, 0)
        if layer.reference is not None:
            stream[machine.features[layer.reference]] += factor
    meant, found = float(machine.norm(len(machine.layers))), float(stream.square().sum())
    if architecture == "softmax":  # each feature counts twice, and so does the position
        meant, found = 2 * (meant + 1), 2 * (found + 1)
    epsilon = 1e-6 if architecture == "delta" else EPSILON
    return machine.readout() @ stream * math.sqrt((meant / width + epsilon) / (found / width + epsilon))


def _held(layer: Layer, counts: Mapping[str, int]) -> dict[str, float]:
    """Return what is read of each feature that a layer carries."""
    steps = {address.written: address.step for address in layer.addresses}
    found = {carry.feature: counts.get(carry.feature, 0) for carry in layer.carries}
    return {
        feature: float(count) if steps.get(feature, 1.0) == 1 else 1 - (1 - steps[feature]) ** count
        for feature, count in found.items()
    }


def _norm_after(layer: Layer, held: Mapping[str, float], architecture: Architecture, config: Any) -> float:
    """Return the factor of what a layer adds, by the norm between its memory and its output."""
    size = sum(value**2 for value in held.values()) + (layer.reference is not None)
    if architecture == "mamba2" and layer.reference is not None:
        over, epsilon = float(config.hidden_size), EPSILON
    elif architecture == "delta":  # where a query of several addresses is shared out among them
        over, epsilon = float(config.linear_value_head_dim * layer.at_once * config.linear_key_head_dim), 1e-6
    else:
        return 1.0
    return math.sqrt((layer.at_once / over + epsilon) / (size / over + epsilon))
