"""The HiPPO-LegS matrix, from which S4 and S5 start (Gu et al., arXiv 2111.00396, appendix C)."""

from __future__ import annotations

import torch
from jaxtyping import Complex
from torch import Tensor


def hippo(
    size: int,
) -> tuple[Complex[Tensor, " N"], Complex[Tensor, " N"], Complex[Tensor, " N"], Complex[Tensor, "N N"]]:
    """Return Λ, P, B and V of LegS: A = V (Λ - P Pᴴ) Vᴴ, with the real parts of Λ all -1/2.

    A + ½ p pᵀ with p_n = √(2n+1) is -½ I plus a skew matrix, whose eigenvectors are V. P and B are given in that basis.
    """
    n = torch.arange(size, dtype=torch.float64)
    root = (2 * n + 1).sqrt()
    A = -torch.outer(root, root).tril(-1) - torch.diag(n + 1)
    low = (n + 0.5).sqrt()
    skew = A + torch.outer(low, low) + 0.5 * torch.eye(size)
    angles, V = torch.linalg.eigh(-1j * skew)
    back = V.conj().t()
    return torch.complex(torch.full_like(angles, -0.5), angles), back @ low.to(V.dtype), back @ root.to(V.dtype), V
