"""Kernels of long convolutions from the parameters of state-space models: what a token adds to the output k later.

A model h' = A h + B v, y = Re C h, discretised with a step Δ, has the kernel Re C Ā^k B̄ for k = 0, 1, … . Sums are
taken in complex128, since the angle of Ā^k grows with k. Kernels of a diagonal A cost O(D·N·L); S4's is made exactly
from the dense discretised matrix, by doubling, in O(D·N²·(L + N log L)): cheap for the small states of our layers.
"""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from torch import Tensor


def s4_kernel(
    eigenvalues: Complex[Tensor, "D N"],
    P: Complex[Tensor, "D N"],
    Q: Complex[Tensor, "D N"],
    B: Complex[Tensor, "D N"],
    C: Complex[Tensor, "D N"],
    step: Float[Tensor, " D"],
    length: int,
) -> Float[Tensor, "D L"]:
    """Return S4's kernel: A = Λ - P Qᴴ, made discrete by the bilinear rule (Gu et al., arXiv 2111.00396).

    Ā = (I - Δ/2 A)⁻¹ (I + Δ/2 A),   B̄ = (I - Δ/2 A)⁻¹ Δ B.

    Args:
        eigenvalues: Λ, all of them: of a conjugate pair both.
        P: Left vector of the low-rank term.
        Q: Right vector of the low-rank term.
        B: Input vector.
        C: Output vector.
        step: Δ.
        length: L.
    """
    A = torch.diag_embed(eigenvalues.to(torch.complex128)) - P[:, :, None] * Q.conj()[:, None]
    half, one = step.double()[:, None, None] / 2 * A, torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    driven = (step[:, None] * B)[..., None].to(A.dtype)
    power, states = torch.linalg.solve(one - half, torch.cat([one + half, driven], dim=-1)).split([len(one), 1], dim=-1)
    while states.shape[-1] < length:
        states = torch.cat([states, power @ states], dim=-1)
        power = power @ power
    kernel = torch.einsum("dn,dnl->dl", C.to(A.dtype), states[..., :length])
    return kernel.real.to(step.dtype)


def s4d_kernel(
    eigenvalues: Complex[Tensor, "D N"],
    B: Complex[Tensor, "D N"],
    C: Complex[Tensor, "D N"],
    step: Float[Tensor, " D"],
    length: int,
) -> Float[Tensor, "D L"]:
    """Return S4D's kernel by zero-order hold (arXiv 2206.11893): 2 Re Σ_n C B (exp(Δλ) - 1)/λ exp(kΔλ).

    Args:
        eigenvalues: λ ≠ 0, one of every conjugate pair.
        B: Input vector.
        C: Output vector.
        step: Δ.
        length: L.
    """
    exponent = step.double()[:, None] * eigenvalues
    weight = 2 * C * B * torch.expm1(exponent) / eigenvalues
    return torch.einsum("dn,dnl->dl", weight, damped(exponent, length)).real.to(step.dtype)


def dss_kernel(
    eigenvalues: Complex[Tensor, "D N"],
    W: Complex[Tensor, "D N"],
    step: Float[Tensor, " D"],
    length: int,
    horizon: int | None = None,
) -> Float[Tensor, "D L"]:
    """Return the kernel of a diagonal state space (Gupta et al., arXiv 2203.14343, proposition 1).

    DSS_exp is Re Σ_n W (exp(Δλ) - 1)/λ exp(kΔλ). DSS_softmax is Re Σ_n W/λ softmax_k(kΔλ), the softmax over the tokens
    of a horizon, which is a number of the model's: were it that of the text, the kernel would depend on the text.

    Args:
        eigenvalues: λ ≠ 0; for DSS_exp, and beyond the horizon, real parts must not be positive.
        W: Output weights.
        step: Δ.
        length: L.
        horizon: Tokens over which the softmax is taken; None for DSS_exp.
    """
    exponent = step.double()[:, None] * eigenvalues
    if horizon is None:
        weight, last = torch.expm1(exponent), torch.zeros_like(exponent)
    else:
        grows = exponent.real > 0  # such terms are counted from the horizon back, so that no number overflows
        falling = torch.where(grows, -exponent, exponent)
        weight = torch.expm1(falling) / torch.expm1(horizon * falling)
        last = torch.where(grows, (1 - horizon) * exponent, 0)
    terms = damped(exponent, length, last)
    return torch.einsum("dn,dnl->dl", W / eigenvalues * weight, terms).real.to(step.dtype)


def damped(
    exponent: Complex[Tensor, "D N"], length: int, first: Complex[Tensor, "D N"] | None = None
) -> Complex[Tensor, "D N L"]:
    """Return exp(first + k exponent) for k < L."""
    times = torch.arange(length, dtype=torch.float64, device=exponent.device)
    turned = exponent.to(torch.complex128)[..., None] * times
    return (turned if first is None else turned + first[..., None]).exp()
