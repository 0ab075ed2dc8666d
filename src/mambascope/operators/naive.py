"""The executable specification: every formula as loops over tokens, in float64; slow but plain.

Tests compare the fast forms with these. Arguments are single sequences, without the batch axis.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def selective_scan_matrix(
    dt: Float[Tensor, "L D"], A: Float[Tensor, "D N"], B: Float[Tensor, "L N"], C: Float[Tensor, "L N"]
) -> Float[Tensor, "D L L"]:
    """Return alpha of Mamba-1 ([3] eq. 14): products of discretised decays, one pair after the other."""
    L, D = dt.shape
    alpha = torch.zeros(D, L, L, dtype=torch.float64)
    for i in range(L):
        for j in range(i + 1):
            decay = torch.ones_like(A, dtype=torch.float64)
            for k in range(j + 1, i + 1):
                decay = decay * torch.exp(dt[k].double()[:, None] * A.double())
            written = dt[j].double()[:, None] * B[j].double()
            alpha[:, i, j] = (C[i].double() * decay * written).sum(dim=-1)
    return alpha


def state_space_dual_matrix(
    dt: Float[Tensor, "L H"], A: Float[Tensor, " H"], B: Float[Tensor, "L G N"], C: Float[Tensor, "L G N"]
) -> Float[Tensor, "H L L"]:
    """Return alpha of Mamba-2 ([2] eq. 16), one pair after the other."""
    L, H = dt.shape
    group = torch.arange(H) // (H // B.shape[1])
    alpha = torch.zeros(H, L, L, dtype=torch.float64)
    for i in range(L):
        for j in range(i + 1):
            decay = torch.ones(H, dtype=torch.float64)
            for k in range(j + 1, i + 1):
                decay = decay * torch.exp(dt[k].double() * A.double())
            product = (C[i].double() * B[j].double()).sum(dim=-1)[group]
            alpha[:, i, j] = product * decay * dt[j].double()
    return alpha


def gated_delta_matrix(
    q: Float[Tensor, "L G N"], k: Float[Tensor, "L G N"], beta: Float[Tensor, "L H"], decay: Float[Tensor, "L H n"]
) -> Float[Tensor, "H L L"]:
    """Return M of the gated delta rule ([8], [9]): its recurrence, token by token, for a value of one at each source.

    Every source has a state of its own; a token decays all of them, removes what they hold under its key, and writes
    its value to its own.
    """
    L, H = beta.shape
    M = torch.zeros(H, L, L, dtype=torch.float64)
    for h in range(H):
        group = h // (H // k.shape[1])
        states = torch.zeros(L, k.shape[2], dtype=torch.float64)
        for t in range(L):
            key, b = k[t, group].double(), beta[t, h].double()
            states = states * torch.exp(decay[t, h].double())
            states = states - b * (states @ key)[:, None] * key
            states[t] += b * key
            M[h, t] = states @ q[t, group].double()
    return M


def convolution(u: Float[Tensor, "L D"], w: Float[Tensor, "D K"], b: Float[Tensor, " D"]) -> Float[Tensor, "L D"]:
    """Return the causal depthwise convolution with bias; w[:, 0] is the tap on the current token."""
    a = torch.zeros(u.shape, dtype=torch.float64)
    for k in range(u.shape[0]):
        a[k] = b.double()
        for delta in range(min(w.shape[1], k + 1)):
            a[k] += w[:, delta].double() * u[k - delta].double()
    return a


def contribution_vectors(
    alpha: Float[Tensor, "D L L"],
    skip: Float[Tensor, " D"],
    u: Float[Tensor, "L D"],
    w: Float[Tensor, "D K"],
    a: Float[Tensor, "L D"],
    gate: Float[Tensor, "L D"],
    W_o: Float[Tensor, "E D"],
    rule: str = "secant",
) -> Float[Tensor, "L L E"]:
    """Return T_ij(x_j) for all pairs (methods section 3) from scan, convolution, activation rule, gate and W_o."""
    L, K = u.shape[0], w.shape[1]
    T = torch.zeros(L, L, W_o.shape[0], dtype=torch.float64)
    for i in range(L):
        for j in range(i + 1):
            total = torch.zeros(u.shape[1], dtype=torch.float64)
            for k in range(j, min(i, j + K - 1) + 1):
                part = w[:, k - j].double() * u[j].double()
                if rule == "secant":
                    part = part * torch.sigmoid(a[k].double())
                elif rule == "silu":
                    part = part * torch.sigmoid(part)
                weight = alpha[:, i, k].double() + (skip.double() if i == k else 0)
                total = total + weight * part
            T[i, j] = W_o.double() @ (gate[i].double() * total)
    return T


def attention_vectors(
    p: Float[Tensor, "H L L"], x: Float[Tensor, "L E"], W_V: Float[Tensor, "D E"], W_O: Float[Tensor, "F D"]
) -> Float[Tensor, "L L F"]:
    """Return T_ij(x_j) = Σ_h p^h_ij W_O^h W_V^h x_j of softmax attention ([6] section 2.2), head by head."""
    (H, L, _), P = p.shape, W_V.shape[0] // p.shape[0]
    T = torch.zeros(L, L, W_O.shape[0], dtype=torch.float64)
    for i in range(L):
        for j in range(L):
            for h in range(H):
                head = slice(h * P, (h + 1) * P)
                T[i, j] += p[h, i, j].double() * (W_O[:, head].double() @ (W_V[head].double() @ x[j].double()))
    return T


def bias_vectors(
    alpha: Float[Tensor, "D L L"],
    skip: Float[Tensor, " D"],
    constant: Float[Tensor, "L D"],
    a: Float[Tensor, "L D"],
    gate: Float[Tensor, "L D"],
    W_o: Float[Tensor, "E D"],
    b_o: Float[Tensor, " E"] | None = None,
) -> Float[Tensor, "L E"]:
    """Return β_i for all targets with the secant rule: the part of the output that comes from no token.

    `constant` is the part of a that depends on no token: the convolution's bias plus the convolved bias of W_x.
    """
    L = a.shape[0]
    beta = torch.zeros(L, W_o.shape[0], dtype=torch.float64)
    for i in range(L):
        total = torch.zeros(a.shape[1], dtype=torch.float64)
        for k in range(i + 1):
            weight = alpha[:, i, k].double() + (skip.double() if i == k else 0)
            total = total + weight * torch.sigmoid(a[k].double()) * constant[k].double()
        beta[i] = W_o.double() @ (gate[i].double() * total)
        if b_o is not None:
            beta[i] += b_o.double()
    return beta
