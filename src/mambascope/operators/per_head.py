"""Block products of operators whose channels share one matrix per head: Mamba-2's scan and softmax attention."""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from mambascope.operators.blocks import Workspace


def mix_heads(
    alpha: Float[Tensor, "b H t reach"],
    taps: Float[Tensor, "b K D c"] | None,
    gate: Float[Tensor, "b t D"] | None,
    channels: int,
    workspace: Workspace,
) -> Float[Tensor, "b D t c"]:
    """Return Σ_δ gate_i alpha_i,j+δ taps_jδ for every channel of a block; see `TokenMixer.mix`.

    Args:
        alpha: The heads' matrices with the K-1 sources to the right of the block, zero beyond the end.
        taps: What source j writes at position j+δ; None means 1 at δ = 0.
        gate: A factor per target, 1 by default.
        channels: D, divided among the heads evenly and in order.
        workspace: Buffers; the answer lives in one.
    """
    b, H, t, reach = alpha.shape
    c = reach if taps is None else taps.shape[-1]
    out = workspace.take("mixed", (b, H, channels // H, t, c), alpha)
    if taps is None:
        out.copy_(alpha[:, :, None])
    else:
        by_head = rearrange(taps, "b k (h p) c -> k b h p 1 c", h=H)
        torch.mul(alpha[:, :, None, :, :c], by_head[0], out=out)
        for shift in range(1, len(by_head)):
            out.addcmul_(alpha[:, :, None, :, shift : shift + c], by_head[shift])
    if gate is not None:
        out *= rearrange(gate, "b t (h p) -> b h p t 1", h=H)
    return out.flatten(1, 2)


def mean_over_heads(
    alpha: Float[Tensor, "b H t reach"],
    taps: Float[Tensor, "b K D c"] | None,
    gate: Float[Tensor, "b t D"] | None,
    channels: int,
) -> Float[Tensor, "b t c"]:
    """Return `mix_heads` averaged over channels, by products of inner size P that never hold the D matrices."""
    if taps is None and gate is None:
        return alpha.mean(dim=1)
    b, H, t, reach = alpha.shape
    c = reach if taps is None else taps.shape[-1]
    one = alpha.new_ones(b, 1, channels, 1)
    gates = (
        repeat(one, "b 1 (h p) 1 -> b h t p", t=t, h=H)
        if gate is None
        else rearrange(gate, "b t (h p) -> b h t p", h=H)
    )
    taps = repeat(one, "b 1 d 1 -> b 1 d c", c=c) if taps is None else taps
    total = alpha.new_zeros(b, t, c)
    for shift in range(taps.shape[1]):
        weight = gates @ rearrange(taps[:, shift], "b (h p) c -> b h p c", h=H)
        total += torch.einsum("bhtc,bhtc->btc", alpha[..., shift : shift + c], weight)
    return total / channels
