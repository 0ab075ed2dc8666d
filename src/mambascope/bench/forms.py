"""What the same maps cost without this package: loops over pairs of tokens, and dense tensors of all pairs.

All follow the papers' formulas, from their text and not from their code. A loop takes one pair of tokens after the
other (Ali et al., arXiv 2403.01590, section 3):

    alpha_ij = C_i (Π_{k=j+1}^{i} exp(Δ_k A)) Δ_j B_j

The published form multiplies the decays of every pair anew, which is cubic in the number of tokens; the plain loop
keeps a running product from the target back to each source. The dense form holds the decays of all pairs at once.
Contributions to LaTIM's map are, in loop and dense form, vectors
T_ij = W_o (g_i ⊙ Σ_k (alpha_ik + D [i=k]) ⊙ σ(a_k) ⊙ w_{k-j} ⊙ u_j), of which the norm is taken (arXiv 2502.15612).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def looped(scan: Any) -> Float[Tensor, "M L L"]:
    """Return a scan's matrices, pair by pair: one per channel (Mamba) or head (Mamba-2)."""
    decay, written, read = _coefficients(scan)
    alpha = decay.new_zeros(decay.shape[1], len(decay), len(decay))
    for i in range(len(decay)):
        kept = read[i]
        for j in range(i, -1, -1):
            alpha[:, i, j] = (kept * written[j]).sum(dim=-1)
            kept = kept * decay[j]
    return alpha


def published(scan: Any) -> Float[Tensor, "M L L"]:
    """Return the same matrices, each pair's decays multiplied anew."""
    length = scan.dt.shape[1]
    alpha = scan.dt.new_zeros(len(scan.A), length, length)
    for i in range(length):
        alpha[:, i, : i + 1] = published_row(scan, i)
    return alpha


def published_row(scan: Any, target: int) -> Float[Tensor, "M c"]:
    """Return one target's row of them, for the sources that it sees."""
    decay, written, read = _coefficients(scan)
    row = decay.new_zeros(decay.shape[1], target + 1)
    for j in range(target + 1):
        kept = torch.ones_like(decay[0])
        for k in range(j + 1, target + 1):
            kept = kept * decay[k]
        row[:, j] = (read[target] * kept * written[j]).sum(dim=-1)
    return row


def looped_mean(scan: Any) -> Float[Tensor, "L L"]:
    """Return the mean of those matrices, pair by pair."""
    decay, written, read = _coefficients(scan)
    alpha = decay.new_zeros(len(decay), len(decay))
    for i in range(len(decay)):
        kept = read[i]
        for j in range(i, -1, -1):
            alpha[i, j] = (kept * written[j]).sum() / decay.shape[1]
            kept = kept * decay[j]
    return alpha


def dense(scan: Any) -> Float[Tensor, "M L L"]:
    """Return the same matrices from one tensor with the decay of every pair."""
    elapsed, (_, written, read) = scan.dt[0].cumsum(dim=0), _coefficients(scan)
    fall = elapsed[:, None] - elapsed[None]
    future = torch.ones(fall.shape[:2], dtype=torch.bool, device=fall.device).triu(1)
    pairs = (fall[..., None] * _rates(scan)).masked_fill_(future[..., None, None], -torch.inf).exp_()
    if pairs.shape[-1] == 1:  # one decay per head
        return torch.einsum("imn,jmn,ijm->mij", read, written, pairs[..., 0])
    return pairs.mul_(read[:, None]).mul_(written[None]).sum(dim=-1).permute(2, 0, 1)


def dense_bytes(scan: Any) -> int:
    """Return about how many bytes the dense form takes: its pairs, and as many again for what is made of them."""
    length, rates = scan.dt.shape[1], _rates(scan)
    return 2 * scan.dt.element_size() * length**2 * rates.numel()


def looped_contributions(operator: Any) -> Float[Tensor, "L L"]:
    """Return the norms of T_ij, one vector after the other."""
    alpha, norms = looped(operator.scan), operator.u.new_zeros(2 * (operator.length,))
    for i in range(operator.length):
        norms[i, : i + 1] = _looped_norms(operator, _per_channel(operator, alpha[:, i : i + 1], i), i)
    return norms


def looped_row(operator: Any) -> Float[Tensor, " L"]:
    """Return the norms of the last target's T_ij, one source after the other."""
    decay, written, read = _coefficients(operator.scan)
    last = operator.length - 1
    alpha, kept = decay.new_zeros(decay.shape[1], 1, len(decay)), read[last]
    for j in range(last, -1, -1):
        alpha[:, 0, j] = (kept * written[j]).sum(dim=-1)
        kept = kept * decay[j]
    return _looped_norms(operator, _per_channel(operator, alpha, last), last)


def dense_contributions(operator: Any) -> Float[Tensor, "L L"]:
    """Return the norms of T_ij from one tensor of every pair's channels."""
    every = slice(0, operator.length)
    received = _received(operator, _per_channel(operator, dense(operator.scan), 0), every, every)
    return (received @ operator.W_o.t()).norm(dim=-1)


def contribution_bytes(operator: Any) -> int:
    """Return about how many bytes the dense contributions take: their channels three times over, and the vectors."""
    pairs = operator.length**2 * operator.u.element_size()
    return dense_bytes(operator.scan) + pairs * (3 * operator.inner_width + 2 * len(operator.W_o))


def _rates(scan: Any) -> Float[Tensor, "M n"]:
    return scan.A if scan.A.ndim == 2 else scan.A[:, None]


def _coefficients(scan: Any) -> tuple[Float[Tensor, "L M n"], Float[Tensor, "L M N"], Float[Tensor, "L M N"]]:
    """Return exp(Δ A), Δ B and C of every token and map; heads of a group share B and C."""
    maps = len(scan.A)
    if scan.B.ndim == 3:
        B, C = (part[0, :, None].expand(-1, maps, -1) for part in (scan.B, scan.C))
    else:
        B, C = (part[0].repeat_interleave(maps // part.shape[2], dim=1) for part in (scan.B, scan.C))
    step = scan.dt[0, :, :, None]
    return (step * _rates(scan)).exp(), step * B, C


def _per_channel(operator: Any, alpha: Float[Tensor, "M t L"], first: int) -> Float[Tensor, "D t L"]:
    """Return alpha + D [i=k] per channel, for targets from `first` on."""
    alpha = alpha.repeat_interleave(operator.inner_width // len(alpha), dim=0)
    alpha.diagonal(offset=first, dim1=1, dim2=2).add_(operator.scan.skip[:, None])
    return alpha


def _looped_norms(operator: Any, row: Float[Tensor, "D 1 L"], target: int) -> Float[Tensor, " c"]:
    """Return the norms of one target's vectors, source by source."""
    own = slice(target, target + 1)
    vectors = (_received(operator, row, own, slice(j, j + 1))[0, 0] for j in range(target + 1))
    return torch.stack([(operator.W_o @ one).norm() for one in vectors])


def _received(operator: Any, alpha: Float[Tensor, "D t L"], targets: slice, sources: slice) -> Float[Tensor, "t c D"]:
    """Return what W_o receives of some sources at some targets, given the targets' rows."""
    u, slope, taps = operator.u[0], operator.slope[0], operator.conv
    total: Any = 0
    for shift in range(operator.taps):
        places = slice(sources.start + shift, sources.stop + shift)
        row, share = alpha[:, :, places].permute(1, 2, 0), slope[places]
        short = (0, 0, 0, sources.stop - sources.start - len(share))  # beyond the end
        total = total + F.pad(row * share, short) * taps[:, shift] * u[sources]
    return total * operator.gate[0, targets, None]
