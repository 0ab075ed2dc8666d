"""Rollout, ALTI and ALTI-Logit through the runs of `hybrid_reference`, dense and slow, from the papers' formulas.

Zamba's graph is followed edge by edge: h' = h + A x,  x = h + t,  t = B (h and e), e the embedded tokens. Nothing here
is imported from the package.
"""

from __future__ import annotations

import torch


def rollout(run):
    """Return Π (I + Ā), from the last layer to the first, with the graph of shared blocks followed edge by edge.

    h' = h + Ā x,  x = h + t,  t = B̄ (h + e): every position a number, every token-wise map left out.
    """
    length = len(run.stream)
    eye = torch.eye(length, dtype=run.stream.dtype)
    h = e = eye
    for update in run.updates:
        t = 0 if update.shared is None else update.shared.mean @ (h + e)
        h = h + update.mixing.mean @ (h + t)
    return h


def rollout_normalised(run):
    """The same with every row of a layer's matrix divided by its sum over all that the layer draws from."""
    eye = torch.eye(len(run.stream), dtype=run.stream.dtype)
    h = eye
    for update in run.updates:
        from_h, from_e = eye + update.mixing.mean, torch.zeros_like(eye)
        if update.shared is not None:
            drawn = update.mixing.mean @ update.shared.mean
            from_h, from_e = from_h + drawn, drawn
        sums = (from_h + from_e).sum(dim=1, keepdim=True)
        h = (from_h @ h + from_e) / sums
    return h


def shares(parts, after, residual=None):
    """Return c_ij = max(0, ‖ŷ_i‖₁ - ‖ŷ_i - T_ij‖₁) of every part, divided by their sum; the residual is in T^1_ii."""
    length, count = len(after), len(parts)
    c = torch.zeros(count, length, length, dtype=after.dtype)
    for i in range(length):
        for number, T in enumerate(parts):
            for j in range(length):
                vector = T[i, j] + (residual[i] if residual is not None and number == 0 and i == j else 0)
                c[number, i, j] = max(0.0, float(after[i].abs().sum() - (after[i] - vector).abs().sum()))
        if c[:, i].sum() == 0:
            c[0, i, i] = 1.0
    return list(c / c.sum(dim=(0, 2))[None, :, None])


def alti_of(update):
    """Return what the stream after an update draws from the stream before it, and directly from the embedded tokens."""
    mixing = update.mixing
    C = shares(mixing.parts, update.residual + mixing.y, update.residual)
    if update.shared is None:
        return C[0], torch.zeros_like(C[0])
    A = shares(update.shared.parts, update.shared.y)
    return C[0] + C[1] @ A[0], C[1] @ A[1]


def alti_rollout(run):
    R = torch.eye(len(run.stream), dtype=run.stream.dtype)
    for update in run.updates:
        stream, direct = alti_of(update)
        R = stream @ R + direct
    return R


def alti_logit(run, target, token):
    """Return the share of each input in each update of the logit, an attention aside before the update it feeds."""
    q, R, rows = run.direction(target, token), torch.eye(len(run.stream), dtype=run.stream.dtype), []
    for update in run.updates:
        pulled = [T[target] @ q for T in update.mixing.parts]
        if update.shared is not None:
            A = shares(update.shared.parts, update.shared.y)
            rows.append(pulled[1] @ (A[0] @ R + A[1]))
        rows.append(pulled[0] @ R)
        stream, direct = alti_of(update)
        R = stream @ R + direct
    return torch.stack(rows)
