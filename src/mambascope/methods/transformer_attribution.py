"""Transformer-Attribution (Chefer, Gur & Wolf, ICCV 2021, arXiv 2103.15679, eq. 5-6): attention weighted by gradients.

    Ā^λ = E_h (∇p^λ ⊙ p^λ)⁺,   R ← R + Ā^λ R,   R = I at first;   the target's row

∇p is the readout's gradient at the attention probabilities, E_h the mean over heads. The same authors' earlier form
(CVPR 2021, arXiv 2012.09838) has the probabilities' relevance in place of p; they found this one its equal.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mambascope.errors import InputError
from mambascope.methods.one_hot import one_hot
from mambascope.trace import Trace
from mambascope.trace.differentiate import Gradients


def transformer_attribution(trace: Trace, gradients: Gradients, target: int | Sequence[int]) -> Float[Tensor, "b L"]:
    """Return the scores of all sources for the readout whose gradients are given.

    Args:
        trace: A capture of a Transformer.
        gradients: `differentiate(model, readout, mixers=True, …)` on the same model and text.
        target: The readout's position, or several, whose rows are averaged; negative numbers count back from each
            text's own last token.

    Raises:
        InputError: if the gradients belong to another model, or a target is not a position of the text or
            is padding in one of the texts.
    """
    rho = one_hot(trace, target)
    for record in reversed(trace.layers):
        if record.name not in gradients.attention:
            raise InputError(
                f"there is no gradient at the attention of {record.name}: pass differentiate(…, mixers=True) of the "
                "same Transformer"
            )
        p, flow = gradients.attention[record.name]
        weighted = (p.to(rho.dtype) * flow.to(rho.dtype)).clamp_(min=0).mean(dim=1)
        rho = rho + torch.einsum("bi,bij->bj", rho, weighted)
    return rho
