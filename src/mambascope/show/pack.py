"""Scores packed small for the page: every row coarsely, its top sources exactly.

One layer's scores, or their mean over layers, become one block of bytes, deflated and written in base64:

    codes    int8     row after row, each as long as its target can see: sign(s) · round(127 · sqrt(|s| / m)), m being
                      the row's largest |s|, so that a score is known to 1 % of the row's largest or better
    behind   uint16   how far behind the row's target its top sources are, best first, ties by position: first every
                      row's best, then every row's second and so on (uint32 past 32,767 tokens; modulo its range)
    exact    float32  the scores of those sources, in the same order; they also give m

`behind` and `exact` are stored as planes: first the lowest byte of every number, then the next, because high bytes
repeat and deflate then finds them. All numbers are little-endian. A row with fewer sources than `TOP` fills up with
position 0 and score 0.
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


def pack_layer(matrix: Float[Tensor, "target source"], targets: Sequence[int], lengths: Sequence[int]) -> str:
    """Return one layer's block of bytes, deflated, in base64.

    Args:
        matrix: The scores.
        targets: The positions of the targets.
        lengths: How many sources, from the first, each target's row keeps; the others must be zero.
    """
    order, exact = top_sources(matrix, lengths)
    codes = quantise(matrix)
    kept = np.concatenate([codes[i, :length] for i, length in enumerate(lengths)])
    behind = (torch.tensor(list(targets))[:, None] - order).T.numpy()
    return deflated(
        kept.tobytes()
        + _planes(behind.astype("<u2" if matrix.shape[1] <= 0x7FFF else "<u4"))
        + _planes(exact.T.numpy().astype("<f4"))
    )


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
    """Return the map in at most 48 × 48 int8 codes on one scale, each the largest absolute score of its area."""
    scores = matrix.numpy()
    for axis in (0, 1):
        edges = np.linspace(0, scores.shape[axis], min(scores.shape[axis], THUMBNAIL) + 1).astype(int)[:-1]
        most, least = np.maximum.reduceat(scores, edges, axis), np.minimum.reduceat(scores, edges, axis)
        scores = np.where(most >= -least, most, least)
    largest = float(np.abs(scores).max()) or 1.0
    return (np.sign(scores) * np.rint(CODES * np.sqrt(np.abs(scores) / largest))).astype(np.int8)


def _planes(numbers: np.ndarray) -> bytes:
    flat = np.ascontiguousarray(numbers).reshape(-1)
    return flat.view(np.uint8).reshape(len(flat), -1).T.tobytes()


def deflated(data: bytes) -> str:
    """Return bytes in zlib format (which browsers call `deflate`) as base64."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_FILTERED)  # 3 % less than the default here
    return base64.b64encode(squeeze.compress(data) + squeeze.flush()).decode("ascii")
