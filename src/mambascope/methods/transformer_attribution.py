"""Transformer-Attribution (Chefer, Gur & Wolf, ICCV 2021, arXiv 2103.15679, eq. 5-6): attention weighted by gradients.

    Ā^λ = E_h (∇p^λ ⊙ p^λ)⁺,   R ← R + Ā^λ R,   R = I at first;   the target's row

∇p is the readout's gradient at the attention probabilities, E_h the mean over heads. The same authors' earlier form
(CVPR 2021, arXiv 2012.09838) uses the relevance of the probabilities instead of p; they found both equally good.

Models that also have mixers without such probabilities are read by Mamba-Attribution, which was made from this method
for them, and which is this method in their attention layers (`mambascope.methods.mamba_attribution`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mambascope.errors import UnsupportedModelError
from mambascope.methods.checked import checked
from mambascope.methods.method import ATTENTION, Method, MethodResult, number_of
from mambascope.methods.one_hot import one_hot
from mambascope.readouts import FeatureReadout, Readout
from mambascope.trace import Branch, Trace
from mambascope.trace.differentiate import Gradients


@checked
def transformer_attribution(trace: Trace, readout: Readout | FeatureReadout) -> Float[Tensor, "b L"]:
    """Return the scores of all sources for a readout; if it has several positions, their rows are averaged.

    Args:
        trace: A capture of a Transformer.
        readout: The readout, with its positions; negative numbers count back from each text's own last token.

    Raises:
        InputError: if a position does not exist or is padding in one of the texts.
        UnsupportedModelError: if a layer is not softmax attention.
    """
    return from_gradients(trace, trace.gradients(readout), readout.positions)


def from_gradients(trace: Trace, gradients: Gradients, targets: Sequence[int]) -> Float[Tensor, "b L"]:
    """Return `transformer_attribution` of these targets, given a readout's gradients at the attention probabilities."""
    rho = one_hot(trace, targets)
    for block in reversed(trace.layers):
        rho = rho + sum(weighted_pull(branch, gradients, rho) for branch in block.branches)
    return rho


def weighted_pull(branch: Branch, gradients: Gradients, rho: Float[Tensor, "b L"]) -> Float[Tensor, "b L"]:
    """Return ρ Ā of one attention layer, Ā = E_h (∇p ⊙ p)⁺; the factor of its output is in the gradient.

    Raises:
        UnsupportedModelError: if the layer is not softmax attention.
    """
    if branch.name not in gradients.attention:
        raise UnsupportedModelError(
            f"{branch.name} is a {type(branch.mixer).__name__}, which has no attention probabilities, but "
            "Transformer-Attribution weights those; mamba-attribution reads both kinds"
        )
    p, flow = gradients.attention[branch.name]
    weighted = (p.to(rho.dtype) * flow.to(rho.dtype)).clamp_(min=0).mean(dim=1)
    return torch.einsum("bi,bij->bj", rho.to(p.device), weighted).to(rho.device)


METHODS = [
    Method(
        "transformer-attribution",
        "rollout of the positive part of attention weighted by the logit's gradient",
        "Chefer et al. 2021, arXiv 2103.15679",
        signed=False,
        needs="backward",
        cost="quadratic",
        passes=3.0,
        growth=0.1,
        kinds=ATTENTION,
        score=lambda trace, readout, variant: MethodResult(transformer_attribution(trace, number_of(readout))),
        asks=True,
        column="attribution",
    ),
]
