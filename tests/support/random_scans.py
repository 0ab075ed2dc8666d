"""Scans of random coefficients."""

import torch

from mambascope.operators.gated_delta import GatedDeltaRule
from mambascope.operators.selective_scan import SelectiveScan
from mambascope.operators.short_convolution import ShortConvolution
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


def _normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def make_delta(length, decays=1):
    """Return a gated delta rule whose heads have so many decays each."""
    keys = torch.nn.functional.normalize(_normal(2, length, 2, 3), dim=-1)
    fall = -_normal(2, length, 4, decays, seed=1).abs() / 4
    return GatedDeltaRule(
        _normal(2, length, 2, 3, seed=2), keys, 2 * _normal(2, length, 4).sigmoid(), fall, _normal(8) * 0
    )


def make_short(length, taps=4):
    """Return a short convolution between two gates."""
    write, read = _normal(2, length, 3, seed=1), _normal(2, length, 3, seed=2)
    return ShortConvolution(_normal(3, taps), write, read, _normal(3) * 0)
