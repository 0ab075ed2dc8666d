"""Mamba-1's matrices for a few neighbouring tokens, channel by channel: running products of their decays ([3] eq. 14).

    alpha_ij[d] = Σ_n C_i[n] B_j[n] (Π_{k=j+1..i} exp(A[d,n] Δ_k[d])) Δ_j[d],   j ≤ i

One exponential per token, channel and state is all that it takes. Rounding errors of products grow with the number of
tokens, so that between distant ones other forms are used.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from mambascope.operators.blocks import Workspace
from mambascope.operators.decays import NEGLIGIBLE, decay_in_place


def near_matrices(
    dt: Float[Tensor, "b r D"],
    rates: Float[Tensor, "D N"],
    B: Float[Tensor, "b r N"],
    C: Float[Tensor, "b r N"],
    first: int,
    workspace: Workspace,
) -> Float[Tensor, "b D t r"]:
    """Return alpha of the tokens from `first` on as targets of all; it lives in the workspace, with channels inmost.

    Args:
        dt: Δ of neighbouring tokens.
        rates: A, finite.
        B: Write vectors.
        C: Read vectors.
        first: The first target, counted within these tokens; negative if targets that see none of them come before.
        workspace: Buffers.
    """
    (b, tokens, channels), states = dt.shape, rates.shape[1]
    shape, cut = (b, tokens, states, channels), math.exp(2 * NEGLIGIBLE[dt.dtype])
    decay = decay_in_place(torch.mul(dt[:, :, None], rates.t(), out=workspace.take("step", shape, dt)))
    kept = workspace.take("kept", shape, dt)
    out = workspace.take("near", (b, tokens - first, tokens, channels), dt).zero_()
    for target in range(tokens):
        sources = slice(0, target + 1)
        torch.threshold_(kept[:, :target].mul_(decay[:, target, None]), cut, 0)
        kept[:, target] = 1
        if target >= first:
            pairs = C[:, target, None] * B[:, sources]
            out[:, target - first, sources] = (pairs[:, :, None] @ kept[:, sources])[:, :, 0]
    return out.mul_(dt[:, None]).permute(0, 3, 1, 2)
