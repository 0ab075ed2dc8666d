"""The control: scores that know nothing, drawn at random. What a task gives them is what chance gives."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mambascope.methods.method import AnyReadout, Method, MethodResult
from mambascope.trace import Trace


def random_scores(length: int, generator: torch.Generator | None = None) -> Float[Tensor, "1 L"]:
    """Return one independent standard normal number per token.

    Args:
        length: Tokens of the text.
        generator: Where they are drawn from; torch's own by default, so that `torch.manual_seed` repeats them.
    """
    return torch.randn(1, length, generator=generator)


def _drawn(trace: Trace, readout: AnyReadout, variant: str) -> MethodResult:
    """For the sources that the positions see."""
    scores = random_scores(trace.shape[1])
    scores[:, trace.operator(0).seen(max(readout.positions)).stop :] = 0
    return MethodResult(scores)


METHODS = [
    Method(
        "random",
        "a control: scores drawn at random, which know nothing of the model",
        "Samek et al. 2017, arXiv 1509.06321",
        signed=True,
        offered=False,
        score=_drawn,
    ),
]
