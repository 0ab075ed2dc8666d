"""Products of what tokens read and write, each pair decayed by all that lies between: the inside of one chunk.

All exponents are ≤ 0, however strong the decay: neighbours are taken pair by pair; further apart, the decay splits in
two at a token between them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mambascope.operators.decays import Fallen, decay_from

#: Tokens among which decays per channel are taken pair by pair; further apart, they split into two factors.
PAIRWISE = 8


def decayed_products(read: Tensor, write: Tensor, fall: Fallen) -> Float[Tensor, "*c C C"]:
    """Return Σ_n read_i[n] write_j[n] exp(fall_i[n] - fall_j[n]) for j ≤ i, zero for later j."""
    size, channels = fall.sums.shape[-2:]
    if channels > 1 and size > PAIRWISE:
        return _by_halves(read, write, fall)
    future = torch.ones(size, size, dtype=torch.bool, device=read.device).triu(1)[..., None]
    between = (fall[..., :, None, :] - fall[..., None, :, :]).masked_fill(future, -torch.inf)
    decay = decay_from(between.to(read.dtype))
    if channels == 1:
        return (read @ write.transpose(-1, -2)) * decay[..., 0]
    return torch.einsum("...in,...ijn,...jn->...ij", read, decay, write)


def _by_halves(read: Tensor, write: Tensor, fall: Fallen) -> Tensor:
    """Return the products of decays per channel: from the first half to the second they split at the middle."""
    half, dtype = fall.sums.shape[-2] // 2, read.dtype
    middle = fall[..., half - 1 : half, :]
    to_middle = decay_from((middle - fall[..., :half, :]).to(dtype), factors=2)
    from_middle = decay_from((fall[..., half:, :] - middle).to(dtype), factors=2)
    across = (read[..., half:, :] * from_middle) @ (write[..., :half, :] * to_middle).transpose(-1, -2)
    first, last = (
        decayed_products(read[..., part, :], write[..., part, :], fall[..., part, :])
        for part in (slice(half), slice(half, None))
    )
    above = torch.cat([first, torch.zeros_like(across).transpose(-1, -2)], dim=-1)
    return torch.cat([above, torch.cat([across, last], dim=-1)], dim=-2)


def products_before(read: Tensor, write: Tensor, fall: Fallen) -> Float[Tensor, "*c C C"]:
    """Return Σ_n read_i[n] write_j[n] exp(fall_{i-1}[n] - fall_j[n]) for j < i: what is read before decaying."""
    moved = F.pad(read[..., 1:, :], (0, 0, 0, 1))
    return F.pad(decayed_products(moved, write, fall)[..., :-1, :], (0, 0, 1, 0))
