"""Matrix products in a precision that not every processor multiplies itself."""

from __future__ import annotations

import time
from functools import lru_cache

import torch
from torch import Tensor

#: Side of the matrices by whose product a device is tried, and how many times slower than float32 it may be.
TRIED, SLOWER = 256, 4


def multiply(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """Write the matrix product of two tensors of out's dtype, by float32 where the device would emulate that dtype.

    The numbers are the same: float32 holds a product of two such numbers, and sums are in float32 in either case.
    """
    if multiplies(out.dtype, out.device):
        return torch.matmul(a, b, out=out)
    return out.copy_(a.float() @ b.float())


@lru_cache
def multiplies(dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether a device multiplies numbers of a dtype itself, as a short trial shows.

    For bfloat16, a processor without instructions for it takes some 70 times as long as for float32.
    """
    if dtype not in (torch.bfloat16, torch.float16):
        return True
    return _seconds(dtype, device) < SLOWER * _seconds(torch.float32, device)


def _seconds(dtype: torch.dtype, device: torch.device) -> float:
    """Return the shortest time of a few products of two square matrices."""
    one = torch.ones(TRIED, TRIED, dtype=dtype, device=device)
    taken = []
    for _ in range(4):
        started = time.perf_counter()
        (one @ one)[0, 0].item()  # waits for the device
        taken.append(time.perf_counter() - started)
    return min(taken)
