"""MambaLRP (Jafari, Montavon, Müller & Eberle, arXiv 2406.07592): layer-wise relevance propagation for Mamba.

Gradient times input on a graph whose forward pass is the model's and whose backward pass is frozen (section 4): the
SiLU passes its secant, Δ, B and C of the scan are constants, each branch of the gate takes half, norms keep their
statistic. Every part is then a linear map, so relevance is conserved: R_j = Σ_e x_j[e] ∂f/∂x_j[e] sums to the readout
f, less what flows into biases. Time and memory are linear in L: the scan's backward pass is one reversed scan.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from mambascope.methods.readout import FeatureReadout, OneEach, Readout
from mambascope.trace.differentiate import Gradients, differentiate
from mambascope.trace.rules import Rules

#: The published rules for language (section 4): all frozen, linear layers plain.
LRP = Rules(silu=True, scan=True, gate=True, norm=True)

#: The published rules for vision: γ = 0.25 in linear and convolution layers.
LRP_VISION = Rules(silu=True, scan=True, gate=True, norm=True, gamma=0.25)


@dataclass(frozen=True, eq=False)
class Relevance:
    """Relevance of every token, or every pixel, for a readout.

    Attributes:
        scores: R_j, signed; of pixels, rows and columns of the picture.
        value: The readout f.
        first_order: What relevance adds up to where none is lost: f itself, or a log-probability's linear part.
        outputs: What the model returned.
    """

    scores: Float[Tensor, "b *L"]
    value: Float[Tensor, " b"]
    first_order: Float[Tensor, " b"]
    outputs: Any

    @property
    def conservation_error(self) -> Float[Tensor, " b"]:
        """|f - Σ_j R_j| / |f|: what biases hold; rounding alone where the model has none."""
        total, start = self.scores.double().flatten(1).sum(dim=-1), self.first_order.double()
        return (start - total).abs() / start.abs().clamp_min(1e-300)


def mamba_lrp(
    model: nn.Module,
    readout: Callable[[Any], Float[Tensor, " b"]],
    *,
    rules: Rules = LRP,
    **inputs: Any,
) -> Relevance:
    """Return the relevance of every token for a readout of the model.

    Args:
        model: A stock model.
        readout: Given the model's outputs, returns one number per text; see `mambascope.methods.readout`.
        rules: What is frozen: all by default; switch rules off for an ablation, or set γ.
        inputs: Handed to the model: `input_ids` (b, L) or `inputs_embeds` (b, L, E), `attention_mask` (b, L), …

    Raises:
        InputError: if the inputs cannot be used or the model is quantised.
        ReconstructionError: if a norm of the model cannot be frozen.
    """
    return _relevance(differentiate(model, readout, rules=rules, **inputs), readout, -1)


def pixel_relevance(
    model: nn.Module,
    readout: Callable[[Any], Float[Tensor, " b"]],
    *,
    rules: Rules = LRP_VISION,
    **inputs: Any,
) -> Relevance:
    """Return the relevance of every pixel (b, H, W) for a readout of a vision model, its colours together.

    Pixels that no patch reads have none. What flows into the class token and the positions stays there.

    Args:
        model: A vision model that embeds patches.
        readout: Given the model's outputs, returns one number per picture; see `mambascope.methods.readout`.
        rules: What is frozen: the published rules for vision, with γ from the logit down to the pixels, unless others
            are given; `Rules()` gives the gradient times the pixels.
        inputs: Handed to the model: `pixel_values` (b, c, H, W).

    Raises:
        InputError: if there are no pixels or they cannot be used, or the model is quantised.
        ReconstructionError: if a norm of the model cannot be frozen.
    """
    return _relevance(differentiate(model, readout, rules=rules, pixels=True, **inputs), readout, 1)


def _relevance(passed: Gradients, readout: Callable[[Any], Tensor], summed: int) -> Relevance:
    """Return the input times the gradient there, summed over one axis."""
    scores = (passed.embeddings.double() * passed.at_embeddings.double()).sum(dim=summed)
    known = (Readout, OneEach, FeatureReadout)
    start = readout.first_order(passed.outputs) if isinstance(readout, known) else passed.value
    return Relevance(scores.to(passed.embeddings.dtype), passed.value, start, passed.outputs)
