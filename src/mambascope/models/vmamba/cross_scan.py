"""VMamba's cross-scan (arXiv 2401.10166, section 4.2): the four orders in which the patches of a picture are read."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

#: Names of the four orders, as `cross_scan` returns them.
NAMES = ("rows", "columns", "rows backwards", "columns backwards")


def cross_scan(rows: int, columns: int, device: torch.device | None = None) -> tuple[Int[Tensor, " L"], ...]:
    """Return, for each order, the patch that is read at every step: by rows, by columns, and both backwards.

    Patches are numbered row by row. The cross-merge, which adds the scans' outputs patch by patch, is the inverse.
    """
    by_rows = torch.arange(rows * columns, device=device)
    by_columns = by_rows.view(rows, columns).t().flatten()
    return by_rows, by_columns, by_rows.flip(0), by_columns.flip(0)
