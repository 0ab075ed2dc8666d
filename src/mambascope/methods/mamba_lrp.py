"""MambaLRP (Jafari, Montavon, Müller & Eberle, arXiv 2406.07592): layer-wise relevance propagation for Mamba.

Gradient times input on a graph whose forward pass is the model's and whose backward pass is frozen (section 4): the
SiLU passes its secant, Δ, B and C of the scan are constants, each branch of the gate takes half, norms keep their
statistic. Every part is then a linear map, so relevance is conserved: R_j = Σ_e x_j[e] ∂f/∂x_j[e] sums to the readout
f, less what flows into biases. Time and memory are linear in L: the scan's backward pass is one reversed scan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from mambascope.errors import InputError
from mambascope.methods.readout import FeatureReadout, OneEach, Readout
from mambascope.trace.differentiate import differentiate
from mambascope.trace.rules import Rules

#: The published rules for language (section 4): all frozen, linear layers plain.
LRP = Rules(silu=True, scan=True, gate=True, norm=True)

#: The published rules for vision: γ = 0.25 in linear and convolution layers.
LRP_VISION = Rules(silu=True, scan=True, gate=True, norm=True, gamma=0.25)


def published_rules(inputs: Mapping[str, Any]) -> Rules:
    """Return the rules that the paper has for what a model is called with: those for vision if it is a picture."""
    return LRP_VISION if inputs.get("pixel_values") is not None else LRP


@dataclass(frozen=True, eq=False)
class Relevance:
    """Relevance of every token for a readout, and where asked for of every pixel.

    Attributes:
        scores: R_j, signed.
        value: The readout f.
        first_order: What relevance adds up to where none is lost: f itself, or a log-probability's linear part.
        outputs: What the model returned.
        pixels: Relevance of every pixel, its colours together; zero at pixels that no patch reads. None unless asked.
    """

    scores: Float[Tensor, "b L"]
    value: Float[Tensor, " b"]
    first_order: Float[Tensor, " b"]
    outputs: Any
    pixels: Float[Tensor, "b H W"] | None = None

    @property
    def conservation_error(self) -> Float[Tensor, " b"]:
        """|f - Σ_j R_j| / |f|: what biases hold; rounding alone where the model has none."""
        return self._lost(self.scores)

    @property
    def pixel_conservation_error(self) -> Float[Tensor, " b"]:
        """The same of the pixels: the class token and the positions hold some too.

        Raises:
            InputError: if pixels were not asked for.
        """
        if self.pixels is None:
            raise InputError("this relevance stopped at the tokens; ask for pixels=True")
        return self._lost(self.pixels)

    def _lost(self, scores: Tensor) -> Float[Tensor, " b"]:
        total, start = scores.double().flatten(1).sum(dim=-1), self.first_order.double()
        return (start - total).abs() / start.abs().clamp_min(1e-300)


def mamba_lrp(
    model: nn.Module,
    readout: Callable[[Any], Float[Tensor, " b"]],
    *,
    rules: Rules = LRP,
    pixels: bool = False,
    **inputs: Any,
) -> Relevance:
    """Return the relevance of every token for a readout of the model.

    Args:
        model: A stock model.
        readout: Given the model's outputs, returns one number per text; see `mambascope.methods.readout`.
        rules: What is frozen: all by default; switch rules off for an ablation, or set γ. `LRP_VISION` has the γ
            published for vision; `Rules()` gives gradient times input.
        pixels: Go on from the tokens of a picture to its pixels, with the same rules in the same pass.
        inputs: Handed to the model: `input_ids` (b, L) or `inputs_embeds` (b, L, E), `attention_mask` (b, L), …

    Raises:
        InputError: if the inputs cannot be used or the model is quantised.
        ReconstructionError: if a norm of the model cannot be frozen.
    """
    passed = differentiate(model, readout, rules=rules, pixels=pixels, **inputs)
    known = (Readout, OneEach, FeatureReadout)
    return Relevance(
        scores=_times_gradient(passed.embeddings, passed.at_embeddings, -1),
        value=passed.value,
        first_order=readout.first_order(passed.outputs) if isinstance(readout, known) else passed.value,
        outputs=passed.outputs,
        pixels=None if passed.pixels is None else _times_gradient(*passed.pixels, 1),
    )


def _times_gradient(value: Tensor, gradient: Tensor, summed: int) -> Tensor:
    return (value.double() * gradient.double()).sum(dim=summed).to(value.dtype)
