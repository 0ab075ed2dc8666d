"""Scores packed small for the page: every row coarsely, its top sources exactly.

One layer's scores, or their mean over layers, become one block of bytes, deflated and written in base64:

    codes    int8     row after row, each as long as its target can see: sign(s) · round(127 · sqrt(|s| / m)), m being
                      the row's largest |s|, so that a score is known to 1 % of the row's largest or better
    order    uint16   the positions of the row's top sources, best first, ties by position (uint32 past 65,535 tokens)
    exact    float32  their scores, which also give m; stored as four planes, first all lowest bytes and so on, because
                      sign and exponent repeat and deflate then finds them

All numbers are little-endian. A row with fewer sources than `TOP` fills up with position 0 and score 0.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

TOP = 8
CODES = 127
THUMBNAIL = 48


def pack_layer(matrix: Float[Tensor, "target source"], lengths: Sequence[int]) -> str:
    """Return one layer's block of bytes, deflated, in base64.

    Args:
        matrix: The scores.
        lengths: How many sources, from the first, each target's row keeps; what lies behind must be zero.
    """
    order, exact = top_sources(matrix, lengths)
    codes = quantise(matrix)
    kept = np.concatenate([codes[i, :length] for i, length in enumerate(lengths)])
    positions = order.numpy().astype("<u2" if matrix.shape[1] <= 0xFFFF else "<u4")
    planes = np.ascontiguousarray(exact.numpy().astype("<f4").view(np.uint8).reshape(-1, 4).T)
    return deflated(kept.tobytes() + positions.tobytes() + planes.tobytes())


def top_sources(
    matrix: Float[Tensor, "target source"], lengths: Sequence[int]
) -> tuple[Int[Tensor, "target top"], Float[Tensor, "target top"]]:
    """Return the positions and exact scores of each row's `TOP` largest absolute scores, ordered as `Attribution.top`.

    A float's bits, read as an integer, order like the float does; with the position in the lower bits one integer sort
    settles ties towards the earlier position.
    """
    width = matrix.shape[1]
    size = matrix.abs().contiguous().view(torch.int32).long()
    key = size * 2**31 + torch.arange(width - 1, -1, -1)
    beyond = torch.arange(width) >= torch.tensor(list(lengths))[:, None]
    key = key.masked_fill(beyond, -1)
    best, order = key.topk(min(TOP, width), dim=1)
    exact = matrix.gather(1, order).masked_fill(best < 0, 0.0)
    order = order.masked_fill(best < 0, 0)
    missing = (0, TOP - order.shape[1])
    return torch.nn.functional.pad(order, missing), torch.nn.functional.pad(exact, missing)


def quantise(matrix: Float[Tensor, "target source"]) -> np.ndarray:
    """Return the int8 codes of the scores, each row on the scale of its own largest."""
    scores = matrix.double().numpy()
    largest = np.abs(scores).max(axis=1, keepdims=True)
    share = np.abs(scores) / np.where(largest > 0, largest, 1.0)
    return (np.sign(scores) * np.rint(CODES * np.sqrt(share))).astype(np.int8)


def thumbnail(matrix: Float[Tensor, "target source"]) -> np.ndarray:
    """Return the map in at most 48 × 48 int8 codes on one scale: of every patch the score of largest size."""
    scores = matrix.numpy()
    for axis in (0, 1):
        edges = np.linspace(0, scores.shape[axis], min(scores.shape[axis], THUMBNAIL) + 1).astype(int)[:-1]
        most, least = np.maximum.reduceat(scores, edges, axis), np.minimum.reduceat(scores, edges, axis)
        scores = np.where(most >= -least, most, least)
    largest = float(np.abs(scores).max()) or 1.0
    return (np.sign(scores) * np.rint(CODES * np.sqrt(np.abs(scores) / largest))).astype(np.int8)


def deflated(data: bytes) -> str:
    """Return bytes in zlib format (which browsers call `deflate`) as base64."""
    return base64.b64encode(zlib.compress(data, 9)).decode("ascii")
