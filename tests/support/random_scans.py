"""Scans of random coefficients."""

import torch

from mambascope.operators.selective_scan import SelectiveScan
from mambascope.operators.state_space_dual import StateSpaceDual


def make_scan(kind: str, length: int, batch: int = 2, dtype=torch.float64, seed: int = 0):
    """Return an operator with coefficients as a trained model would have them."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    def positive(*shape):
        return torch.nn.functional.softplus(normal(*shape))

    if kind == "mamba1":
        B, C = normal(batch, length, 3), normal(batch, length, 3)
        return SelectiveScan(positive(batch, length, 5), -positive(5, 3), B, C, normal(5))
    B, C = normal(batch, length, 2, 3), normal(batch, length, 2, 3)
    return StateSpaceDual(positive(batch, length, 4), -positive(4), B, C, normal(8))
