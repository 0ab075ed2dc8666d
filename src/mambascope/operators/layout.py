"""The order in which a tensor's numbers lie in memory."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def tokens_in_line(values: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
    """Return the same numbers with the channels of each token side by side, as `contiguous` does.

    Where the tokens of each channel lie side by side, as a convolution leaves them, torch turns a matrix block by
    block, but any larger tensor number by number, which takes up to four times as long: so the texts are copied singly.
    """
    if values.is_contiguous() or values.requires_grad or values.stride(1) != 1:
        return values.contiguous()
    copied = values.new_empty(values.shape)
    for text, given in zip(copied, values, strict=True):
        text.copy_(given)
    return copied
