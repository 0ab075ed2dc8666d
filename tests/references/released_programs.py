"""What the code of *The Hidden Attention of Mamba Models* (arXiv 2403.01590) computes, dense, from a description of it.

One picture or text at a time, about the class token at position c; nothing here is imported from the package:

* A layer is one vector per channel. The loop over sources t runs while t < c, and its decay starts at t + 1 and ends at
  c - 1, so C_c Π_{k=t+1..c-1} exp(Δ_k A) Δ_t B_t, and the class token's own entry stays 0. The scan that reads the
  tokens from the end has such a vector in its own order, of which the entries after c are taken.
* Rollout puts the mean over channels into every row of a matrix, adds I, divides rows by their sum, and multiplies.
* Every map ends by leaving out the class token and clamping at 0.
"""

import torch


def class_vector(forwards, backwards, c):
    """Return one layer's vector (D, L) from `dense_reference` layers, each in its own order; the second may be None."""
    vector = _before(forwards, c)
    if backwards is not None:
        vector[:, c + 1 :] = _before(backwards, len(backwards.dt) - 1 - c).flip(1)[:, c + 1 :]
    return vector


def raw_attention(vectors, c):
    """Return the mean over layers of vectors brought to [0, 1] together, without the class token (L - 1,)."""
    return _finished(torch.stack([scaled(vector).mean(dim=0) for vector in vectors]).mean(dim=0), c)


def rollout(vectors, c):
    """Return the class token's row of the product of the layers' matrices, first layer first, without it (L - 1,)."""
    return _finished(_rolled([vector.mean(dim=0) for vector in vectors], c), c)


def attribution(vectors, gradients, c):
    """Return the same of vectors weighted by gradients (L, E) at the layers' outputs (L - 1,)."""
    rows = []
    for vector, gradient in zip(vectors, gradients, strict=True):
        strength = gradient.clamp(min=0).max(dim=1).values
        rows.append(scaled(vector.clamp(min=0)).mean(dim=0) * scaled(strength))
    return _finished(_rolled(rows, c), c)


def scaled(values):
    """Bring values to [0, 1]; values all alike to 0, where the formula says 0/0."""
    spread = values.max() - values.min()
    return (values - values.min()) / spread if spread > 0 else torch.zeros_like(values)


def _before(scan, c):
    vector = torch.zeros_like(scan.dt.t())
    for t in range(c):
        decay = torch.ones_like(scan.B[t])
        for k in range(t + 1, c):
            decay = decay * torch.exp(scan.dt[k][:, None] * scan.A)
        vector[:, t] = (scan.C[c] * decay * scan.dt[t][:, None] * scan.B[t]).sum(dim=-1)
    return vector


def _rolled(rows, c):
    product = torch.eye(len(rows[0]), dtype=rows[0].dtype)
    for row in rows:
        matrix = row.expand(len(row), -1) + torch.eye(len(row), dtype=row.dtype)
        product = matrix / matrix.sum(dim=-1, keepdim=True) @ product
    return product[c]


def _finished(row, c):
    return torch.cat([row[:c], row[c + 1 :]]).clamp(min=0)
