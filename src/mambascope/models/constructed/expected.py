"""The logits that a constructed model must return, from its rule, by plain arithmetic in float64."""

from __future__ import annotations

import math
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mambascope.models.constructed.in_mamba import EPSILON
from mambascope.models.constructed.mechanism import Architecture, Case, Mechanism


def expected_logits(
    mechanism: Mechanism, case: Case, architecture: Architecture, config: Any
) -> Float[Tensor, " tokens"]:
    """Return the logits after the last token of a case.

    The stream holds the token's features and what each layer adds: for each feature that is read, its weight times how
    often it is found. Where a norm follows the scan, a layer's sum is divided by the size of all it holds, relative to
    the size for which its weights are made. Then comes the final norm.

    Args:
        mechanism: The mechanism.
        case: One of its cases.
        architecture: One of its architectures.
        config: The configuration of the model.
    """
    machine, width = mechanism.machine, int(config.hidden_size)
    stream = machine.embeddings()[machine.ids[case.tokens[-1]]].clone()
    for layer, held in zip(machine.layers, case.held, strict=True):
        size = sum(count**2 for count in held.values()) + (layer.reference is not None)
        normed = architecture == "mamba2" and layer.reference is not None
        factor = math.sqrt((layer.at_once / width + EPSILON) / (size / width + EPSILON)) if normed else 1.0
        for carry in layer.carries:
            stream[machine.features[carry.slot]] += factor * carry.weight * held.get(carry.feature, 0)
        if layer.reference is not None:
            stream[machine.features[layer.reference]] += factor
    meant, found = float(machine.norm(len(machine.layers))), float(stream.square().sum())
    if architecture == "softmax":  # each feature counts twice, and so does the position
        meant, found = 2 * (meant + 1), 2 * (found + 1)
    epsilon = 1e-6 if architecture == "delta" else EPSILON
    return machine.readout() @ stream * math.sqrt((meant / width + epsilon) / (found / width + epsilon))
