"""Theorem 1 of the Hidden Attention paper (arXiv 2403.01590), measured on reference layers of every kind."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mambascope.models.layers import LAYERS
from mambascope.theory.classification import Classification, Kind, classify

#: What the theorem says of the layers that it names.
THEOREM: dict[str, Kind] = {
    "S4": "fixed",
    "DSS": "fixed",
    "S5": "fixed",
    "GSS": "diagonal data control",
    "Hyena": "diagonal data control",
    "SelectiveSSM": "data-controlled",
}


def measured_layers(width: int = 8, length: int = 32, seed: int = 0) -> Iterator[tuple[str, Classification]]:
    """Yield the name of each reference layer, with random weights in float64, and how it mixes tokens."""
    for name, made in LAYERS.items():
        layer = made(width=width, seed=seed).to(torch.float64).eval()
        yield name, classify(layer, length=length, seed=seed)
