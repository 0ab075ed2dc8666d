"""The mean over channels of Mamba-1's matrices for targets that all come after some sources: one matrix product.

Between them lies a reference position r, so that the decay from source to target splits into two factors with exponents
≤ 0 (`mambascope.operators.blocks`), and the mean is a product of inner size D·N:

    M_ij = 1/D Σ_{d,n} ( g_i[d] C_i[n] exp(A[d,n] (S_i - S_r)[d]) )
                       ( Σ_{k≥j} exp(A[d,n] (S_r - S_k)[d]) Δ_k[d] B_k[n] taps_{j,k-j}[d] )

Of this product only those channels and states are taken of which something is left from the last source to r, and from
r to the first target: all others would be multiplied by factors that are exactly zero (`NEGLIGIBLE`). Far from the
diagonal few remain.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mambascope.operators.blocks import Workspace
from mambascope.operators.decays import NEGLIGIBLE, decay_in_place

#: Numbers of both factors together that are made at a time, so that they stay in the cache until they are multiplied.
FACTOR_ELEMENTS = 1 << 19


def mean_of_rectangle(
    since: Float[Tensor, "D t"],
    until: Float[Tensor, "D p"],
    rates: Float[Tensor, "D N"],
    read: Float[Tensor, "t N"],
    gate: Float[Tensor, "t D"] | None,
    write: Float[Tensor, "p N"],
    dt: Float[Tensor, "p D"],
    taps: Float[Tensor, "K D c"] | None,
    workspace: Workspace,
) -> Float[Tensor, "t c"]:
    """Return the mean over channels; it lives in the workspace.

    Args:
        since: S_i - S_r of every target, at least 0.
        until: S_r - S_k of every position k that is written to: the sources', and with taps the K - 1 to their right.
        rates: A, finite.
        read: C of the targets.
        gate: A factor per target, or None.
        write: B of the positions.
        dt: Δ of the positions.
        taps: What source j writes at position j + δ, or None for 1 at δ = 0.
        workspace: Buffers.
    """
    targets, positions = since.shape[1], until.shape[1]
    sources = positions if taps is None else taps.shape[2]
    out = workspace.take("rectangle", (targets, sources), since).zero_()
    channel, state = _left(since, until, rates)
    read, write, dt = (part.t().contiguous() for part in (read, write, dt))
    gates = None if gate is None else gate.t().contiguous()
    size = max(1, FACTOR_ELEMENTS // (targets + positions))

    def rows(name: str, values: Tensor, chosen: Tensor) -> Tensor:
        buffer = workspace.take(name, (len(chosen), values.shape[1]), values)
        return torch.index_select(values, 0, chosen, out=buffer)

    for d, n in zip(channel.split(size), state.split(size), strict=True):
        rate = rates[d, n][:, None]
        target = decay_in_place(rows("target", since, d).mul_(rate), factors=2).mul_(rows("read", read, n))
        if gates is not None:
            target *= rows("read", gates, d)
        source = decay_in_place(rows("source", until, d).mul_(rate), factors=2).mul_(rows("write", write, n))
        source *= rows("write", dt, d)
        if taps is not None:
            written, source = source, workspace.take("folded", (len(d), sources), source).zero_()
            for shift, tap in enumerate(taps):
                source.addcmul_(written[:, shift : shift + sources], rows("write", tap, d))
        out.addmm_(target.t(), source)
    return out.div_(len(rates))


def _left(since: Tensor, until: Tensor, rates: Tensor) -> tuple[Tensor, ...]:
    """Return the channels and states that neither the sources' factor nor the targets' is zero for everywhere."""
    cut = NEGLIGIBLE[rates.dtype]
    gone = torch.zeros_like(rates, dtype=torch.bool)
    for elapsed in (since, until):
        gone |= elapsed.amin(dim=1, keepdim=True) * rates <= cut  # what is not a number is kept, and stays none
    return (~gone).nonzero(as_tuple=True)
