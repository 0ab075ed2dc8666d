"""Kernels of state-space models against their recurrences, step by step, and against the papers' other forms."""

import pytest
import torch

from dense_reference import distance
from mambascope.operators import kernels, naive_recurrences

#: Powers of matrices whose condition is a few hundred, by doubling and step by step, in complex128.
BOUND = 1e-12
LENGTHS = (1, 2, 63, 64, 65, 200)
D, N = 3, 8


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def complex_draw(*shape, seed=0):
    return torch.complex(draw(*shape, seed=seed), draw(*shape, seed=seed + 100))


def falling(seed=0):
    """Eigenvalues in the left half plane."""
    return torch.complex(-draw(D, N, seed=seed).abs() - 0.01, 3 * draw(D, N, seed=seed + 1))


STEP = torch.tensor([0.01, 0.1, 0.9], dtype=torch.float64)


@pytest.mark.parametrize("length", LENGTHS, ids=lambda n: f"L{n}")
def test_s4_is_the_recurrence_of_the_bilinear_rule(length):
    low, B, C = complex_draw(D, N, seed=2), complex_draw(D, N, seed=3), complex_draw(D, N, seed=4)
    A = torch.diag_embed(falling()) - low[:, :, None] * low.conj()[:, None]
    half, one = STEP[:, None, None] / 2 * A, torch.eye(N)
    inverse = torch.linalg.inv(one - half)
    driven = (inverse @ (STEP[:, None] * B)[..., None])[..., 0]
    expected = naive_recurrences.state_space_kernel(inverse @ (one + half), driven, C, length)
    assert distance(kernels.s4_kernel(falling(), low, low, B, C, STEP, length), expected) < BOUND


@pytest.mark.parametrize("length", LENGTHS, ids=lambda n: f"L{n}")
def test_s4d_is_the_recurrence_of_the_held_input(length):
    B, C = complex_draw(D, N, seed=3), complex_draw(D, N, seed=4)
    A = (STEP[:, None] * falling()).exp()
    expected = naive_recurrences.state_space_kernel(torch.diag_embed(A), (A - 1) / falling() * B, 2 * C, length)
    assert distance(kernels.s4d_kernel(falling(), B, C, STEP, length), expected) < BOUND


@pytest.mark.parametrize("length", LENGTHS, ids=lambda n: f"L{n}")
def test_dss_exp_is_s4d_without_the_other_of_a_pair(length):
    W = complex_draw(D, N, seed=4)
    expected = kernels.s4d_kernel(falling(), torch.ones_like(W), W, STEP, length) / 2
    assert distance(kernels.dss_kernel(falling(), W, STEP, length), expected) < BOUND


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("length", LENGTHS, ids=lambda n: f"L{n}")
def test_dss_softmax_is_the_softmax_over_its_horizon(length, sign):
    """Also with eigenvalues in the right half plane, which the softmax allows."""
    eigenvalues = torch.where(torch.arange(N) % 2 == 0, falling(), sign * falling())
    W, horizon = complex_draw(D, N, seed=4), 200
    rows = (STEP[:, None, None] * eigenvalues[..., None] * torch.arange(horizon)).exp()
    soft = rows / rows.sum(dim=-1, keepdim=True)
    expected = torch.einsum("dn,dnl->dl", W / eigenvalues, soft).real[:, :length]
    assert distance(kernels.dss_kernel(eigenvalues, W, STEP, length, horizon), expected) < BOUND


def test_no_softmax_overflows():
    eigenvalues = torch.complex(torch.full((1, 1), 300.0), torch.ones(1, 1)).to(torch.complex128)
    kernel = kernels.dss_kernel(eigenvalues, torch.ones_like(eigenvalues), torch.ones(1).double(), 100, horizon=100)
    assert kernel.isfinite().all()
    assert abs(kernel).argmax() == 99


def test_single_precision_parameters_lose_nothing_over_long_texts():
    """The angle of a power is taken in float64: in float32 it would be off by a tenth after some thousand tokens."""
    eigenvalues = torch.complex(torch.tensor([[-1e-4]]), torch.tensor([[25.0]]))
    one = torch.ones(1, 1, dtype=torch.complex64)
    kernel = kernels.s4d_kernel(eigenvalues, one, one, torch.ones(1), 20000)
    exact = kernels.s4d_kernel(eigenvalues.to(torch.complex128), one, one, torch.ones(1).double(), 20000)
    assert kernel.dtype == torch.float32
    assert distance(kernel.double(), exact) < 1e-6
