"""The executable specification of further mixers: their recurrences, token by token, in float64; slow but plain.

Every source has a state of its own and a value of one, so what a target reads of that state is the entry of the matrix.
Arguments are single sequences, without the batch axis; `mambascope.operators.naive` holds the other formulas.
"""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from torch import Tensor


def long_convolution_matrix(
    kernel: Float[Tensor, "M L"], write: Float[Tensor, "L M"], read: Float[Tensor, "L M"]
) -> Float[Tensor, "M L L"]:
    """Return alpha of a gated convolution, one pair after the other."""
    M, L = kernel.shape
    alpha = torch.zeros(M, L, L, dtype=torch.float64)
    for i in range(L):
        for j in range(i + 1):
            alpha[:, i, j] = read[i].double() * kernel[:, i - j].double() * write[j].double()
    return alpha


def channel_decay_matrix(
    fall: Float[Tensor, "L H N"],
    write: Float[Tensor, "L H N"],
    read: Float[Tensor, "L H N"],
    own: Float[Tensor, "L H"] | None = None,
) -> Float[Tensor, "H L L"]:
    """Return alpha of linear attention with a decay per key channel; with `own`, it reads before it writes."""
    L, H, N = fall.shape
    alpha = torch.zeros(H, L, L, dtype=torch.float64)
    states = torch.zeros(H, L, N, dtype=torch.float64)
    for t in range(L):
        if own is not None:
            alpha[:, t] = torch.einsum("hln,hn->hl", states, read[t].double())
            alpha[:, t, t] = own[t].double()
        states = states * torch.exp(fall[t].double())[:, None]
        states[:, t] += write[t].double()
        if own is None:
            alpha[:, t] = torch.einsum("hln,hn->hl", states, read[t].double())
    return alpha


def generalised_delta_matrix(
    read: Float[Tensor, "L H N"],
    probe: Float[Tensor, "L H N"],
    erase: Float[Tensor, "L H N"],
    write: Float[Tensor, "L H N"],
    fall: Float[Tensor, "L H n"],
) -> Float[Tensor, "H L L"]:
    """Return alpha of S_t = S_{t-1} (diag(w_t) + probe_t erase_tᵀ) + v_t write_tᵀ, o_t = S_t read_t (RWKV-7)."""
    L, H, N = write.shape
    alpha = torch.zeros(H, L, L, dtype=torch.float64)
    states = torch.zeros(H, L, N, dtype=torch.float64)
    for t in range(L):
        for h in range(H):
            change = torch.diag(torch.exp(fall[t, h].double()).expand(N))
            change = change + torch.outer(probe[t, h].double(), erase[t, h].double())
            states[h] = states[h] @ change
            states[h, t] += write[t, h].double()
            alpha[h, t] = states[h] @ read[t, h].double()
    return alpha


def trapezoidal_matrix(
    fall: Float[Tensor, "L H"],
    now: Float[Tensor, "L H"],
    before: Float[Tensor, "L H"],
    B: Float[Tensor, "L H N"],
    C: Float[Tensor, "L H N"],
) -> Float[Tensor, "H L L"]:
    """Return alpha of h_t = exp(fall_t) h_{t-1} + before_t B_{t-1} v_{t-1} + now_t B_t v_t, o_t = C_t · h_t."""
    L, H, N = B.shape
    alpha = torch.zeros(H, L, L, dtype=torch.float64)
    states = torch.zeros(H, L, N, dtype=torch.float64)
    for t in range(L):
        states = states * torch.exp(fall[t].double())[:, None, None]
        if t > 0:
            states[:, t - 1] += before[t].double()[:, None] * B[t - 1].double()
        states[:, t] += now[t].double()[:, None] * B[t].double()
        alpha[:, t] = torch.einsum("hln,hn->hl", states, C[t].double())
    return alpha


def state_space_kernel(
    A: Complex[Tensor, "D N N"], B: Complex[Tensor, "D N"], C: Complex[Tensor, "D N"], length: int
) -> Float[Tensor, "D L"]:
    """Return Re C A^k B for k < L, one step after the other: A and B are already discretised."""
    state, kernel = B.to(torch.complex128), []
    for _ in range(length):
        kernel.append((C.to(torch.complex128) * state).sum(dim=-1).real)
        state = torch.einsum("dmn,dn->dm", A.to(torch.complex128), state)
    return torch.stack(kernel, dim=-1)
