"""The control: scores that know nothing, drawn at random. What a task gives them is what chance gives."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def random_scores(length: int, generator: torch.Generator | None = None) -> Float[Tensor, "1 L"]:
    """Return one independent standard normal number per token.

    Args:
        length: Tokens of the text.
        generator: Where they are drawn from; torch's own by default, so that `torch.manual_seed` repeats them.
    """
    return torch.randn(1, length, generator=generator)
