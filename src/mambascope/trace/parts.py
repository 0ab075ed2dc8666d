"""What a mixer read, in parts that add up, where it is not the stream alone: Zamba's shared blocks.

The mixer of a layer that is fed reads x = norm(h + t), with h the stream and t what the shared attention gave. The
norm's statistic frozen, x is linear in both: x = x^h + x^t, x^h = γ ⊙ h / rms(h + t). The shared attention itself reads
x = norm([h; e]), with e the embedded tokens, whose halves stand side by side. T_ij(x_j) is linear in x_j, so it splits
in the same way.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mambascope.errors import UnsupportedModelError
from mambascope.operators.affine import AffineMixer
from mambascope.operators.affine_map import AffineMap
from mambascope.trace.block import Block
from mambascope.trace.scanning import relative_error
from mambascope.trust import TOLERANCE


def in_parts(block: Block, operator: AffineMap, method: str) -> tuple[AffineMap, ...]:
    """Return a layer's map of each part of what its mixer read; together they give what the whole map gives.

    Args:
        block: The layer.
        operator: Its map.
        method: Name of the method that needs it, for messages.

    Returns:
        The map itself, if the mixer read the stream alone; the map of the stream's part and that of what the shared
        attention gave, if one feeds it; the map of the stream's part and that of the embedded tokens' part, if it is
        such an attention.

    Raises:
        UnsupportedModelError: if what the mixer read cannot be told apart.
    """
    if not block.aside and block.fed_by is None:
        return (operator,)
    if not isinstance(operator, AffineMixer):
        raise UnsupportedModelError(f"{method} cannot tell apart what the mixers of {block.name} read")
    first = _halves(block, operator, method) if block.aside else _of_stream(block, operator, method)
    return operator.reading(first), operator.reading(operator.x - first)


def _halves(block: Block, operator: AffineMixer, method: str) -> Float[Tensor, "b L E"]:
    """Return the stream's part of what a shared attention read."""
    if not block.trusted or block.stream_in is None:
        raise UnsupportedModelError(
            f"{method} must know what {block.name} read, which is not the stream beside the embedded tokens"
        )
    first = operator.x.clone()
    first[..., block.stream_in.shape[-1] :] = 0
    return first


def _of_stream(block: Block, operator: AffineMixer, method: str) -> Float[Tensor, "b L E"]:
    """Return the stream's part of what a mixer read that is fed by a shared attention."""
    stream, dtype = block.stream(method).to(operator.x.dtype), operator.x.dtype
    weight = getattr(block.norm, "weight", None)
    if block.read is None or weight is None:
        raise UnsupportedModelError(
            f"{method} must know what {block.name} adds to the stream before its mixer reads it, and cannot read its "
            "norm"
        )
    read = block.read.to(dtype)
    epsilon = getattr(block.norm, "variance_epsilon", getattr(block.norm, "eps", None)) or 0.0
    factor = weight.detach().to(dtype) * torch.rsqrt(read.pow(2).mean(dim=-1, keepdim=True) + epsilon)
    error = relative_error(factor * read, block.x.to(dtype))
    if not error <= TOLERANCE.get(block.x.dtype, TOLERANCE[torch.float32]):
        raise UnsupportedModelError(
            f"{method} freezes the norm before the mixer of {block.name}, which is no RMS norm: frozen as one, it is "
            f"off by {error:.1e}"
        )
    first = factor * stream
    mask = block.branch.captured.mask
    return first if mask is None else first * mask[..., None]
