"""MambaVision's windows: its last stages read a picture in separate squares (arXiv 2407.08083, section 3.1)."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


def to_windows(x: Float[Tensor, "b H W E"], side: int) -> Float[Tensor, "w L E"]:
    """Return the windows of every picture, row by row, L = side²; zeros pad the last ones on the right and below."""
    _, rows, columns, _ = x.shape
    padded = F.pad(x, (0, 0, 0, -columns % side, 0, -rows % side))
    return rearrange(padded, "b (y p) (x q) e -> (b y x) (p q) e", p=side, q=side)


def from_windows(windows: Float[Tensor, "w L E"], side: int, rows: int, columns: int) -> Float[Tensor, "b H W E"]:
    """Return pictures of `rows` and `columns` from their windows, without the padding."""
    down, right = -(-rows // side), -(-columns // side)
    x = rearrange(windows, "(b y x) (p q) e -> b (y p) (x q) e", y=down, x=right, p=side, q=side)
    return x[:, :rows, :columns]
