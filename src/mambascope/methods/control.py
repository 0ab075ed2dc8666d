"""The control: random scores. Their result on a task is the chance level."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mambascope.methods.method import AnyReadout, Method, MethodResult
from mambascope.methods.targets import positions, reach
from mambascope.trace import Trace


def random_scores(length: int, generator: torch.Generator | None = None) -> Float[Tensor, "1 L"]:
    """Return one independent standard normal number per token.

    Args:
        length: Number of tokens of the text.
        generator: The random generator; by default torch's own, so that `torch.manual_seed` repeats the scores.
    """
    return torch.randn(1, length, generator=generator, dtype=torch.float32)  # whatever the caller's default is


def _drawn(trace: Trace, readout: AnyReadout, variant: str) -> MethodResult:
    """Return random scores for the sources that the positions see, and zero for the others."""
    scores = random_scores(trace.shape[1])
    scores[:, reach(trace, positions(trace, readout.positions)[0].tolist()) :] = 0
    return MethodResult(scores if trace.attention_mask is None else scores * trace.attention_mask.cpu())


METHODS = [
    Method(
        "random",
        "a control: random scores, independent of the model",
        "Samek et al. 2017, arXiv 1509.06321",
        signed=True,
        offered=False,
        score=_drawn,
    ),
]
