"""Refusing a map that would not fit in memory, before it is computed."""

from __future__ import annotations

import math

import psutil
import torch

from mambascope.errors import MapTooLargeError


def require_room(shape: tuple[int, ...], like: torch.Tensor, way_out: str) -> None:
    """Raise MapTooLargeError, with the size and the way out, if a map of this shape would not fit in free memory.

    Args:
        shape: Shape of the map.
        like: A tensor of its dtype and device.
        way_out: What to do instead, as a clause.
    """
    needed = math.prod(shape) * like.element_size()
    free = available_bytes(like.device)
    if needed > free:
        raise MapTooLargeError(
            f"a map of shape {shape} needs {gibibytes(needed)}, but only {gibibytes(free)} are free; {way_out}"
        )


def available_bytes(device: torch.device) -> int:
    """Return how many bytes a new tensor on this device could take."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def gibibytes(count: int) -> str:
    """Return a size as text."""
    return f"{count / 2**30:.1f} GiB"
