"""The row that a product over layers starts from: one-hot at the targets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mambascope.methods.targets import positions
from mambascope.trace import Trace
from mambascope.trace.block import precision


def one_hot(trace: Trace, target: int | Sequence[int]) -> Float[Tensor, "b L"]:
    """Return a row for each text with equal weights at the targets, which sum to one.

    Args:
        trace: A capture.
        target: One position, or several; negative numbers count back from each text's own last token.

    Raises:
        InputError: if a target is not a position, is padding in one of the texts, or there is none.
    """
    last = trace.layers[-1]
    rho = torch.zeros(trace.shape, dtype=precision(last.like.dtype), device=trace.device)
    targets = positions(trace, target).to(rho.device)
    return rho.scatter_add_(1, targets, rho.new_full(targets.shape, 1 / targets.shape[1]))
