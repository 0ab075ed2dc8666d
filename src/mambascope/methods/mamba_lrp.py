"""MambaLRP (Jafari, Montavon, Müller & Eberle, arXiv 2406.07592): layer-wise relevance propagation for Mamba.

Gradient times input on a graph whose forward pass is the model's and whose backward pass is frozen (section 4): the
SiLU uses its secant, Δ, B and C of the scan are constants, each branch of the gate gets half, and the statistics of
norms are constants. Every part is then a linear map, so relevance is conserved: R_j = Σ_e x_j[e] ∂f/∂x_j[e] and the
same products b ∂f/∂b of the biases add up to the readout f. Time and memory are linear in L: the scan's backward pass
is one reversed scan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mambascope.brief import brief
from mambascope.errors import InputError, UnsupportedModelError
from mambascope.methods.checked import checked
from mambascope.methods.method import SCAN, AnyReadout, Method, MethodResult, at_positions, number_of, says_kinds
from mambascope.methods.targets import require_no_padding
from mambascope.readouts import OneEach, first_order
from mambascope.trace import Trace
from mambascope.trace.differentiate import Gradients, differentiate
from mambascope.trace.propagation_rules import GRADIENT, PropagationRules
from mambascope.trace.running import in_texts

#: The published propagation rules for language (section 4): all on, without γ in linear layers.
LRP = PropagationRules(silu=True, scan=True, gate=True, norm=True)

#: The published propagation rules for vision: also γ = 0.25 in linear and convolution layers.
LRP_VISION = PropagationRules(silu=True, scan=True, gate=True, norm=True, gamma=0.25)


def published_rules(inputs: Mapping[str, Any]) -> PropagationRules:
    """Return the published propagation rules for a model's inputs: those for vision if they contain a picture."""
    return LRP_VISION if inputs.get("pixel_values") is not None else LRP


@dataclass(frozen=True, eq=False)
class Relevance:
    """Relevance of every token for a readout and, on request, of every pixel.

    Attributes:
        scores: R_j, signed.
        biases: Relevance of the biases of each layer: of its mixer, and of the rest of its block.
        other_biases: Relevance of biases outside the layers, such as those of the final norm and the head.
        value: The readout f.
        first_order: The number that tokens and biases add up to: f itself, or a log-probability's linear part.
        outputs: What the model returned.
        pixels: Relevance of every pixel, summed over colours; zero at pixels that no patch reads. None unless asked
            for.
    """

    scores: Float[Tensor, "b L"]
    biases: Float[Tensor, "b layer"]
    other_biases: Float[Tensor, " b"]
    value: Float[Tensor, " b"]
    first_order: Float[Tensor, " b"]
    outputs: Any
    pixels: Float[Tensor, "b H W"] | None = None

    __repr__ = brief

    @property
    def terms(self) -> dict[str, Float[Tensor, " b"]]:
        """The terms that add up to the readout, in float64: `tokens` and `biases`."""
        return {
            "tokens": self.scores.double().sum(dim=-1),
            "biases": self.biases.double().sum(dim=-1) + self.other_biases.double(),
        }

    @property
    def conservation_error(self) -> Float[Tensor, " b"]:
        """|f - Σ_j R_j - Σ biases| over the sum of all absolute values; only rounding, if all rules are on."""
        sizes = self.scores.double().abs().sum(dim=-1) + self.biases.double().abs().sum(dim=-1)
        missing = self.first_order.double() - self.terms["tokens"] - self.terms["biases"]
        return missing.abs() / (sizes + self.other_biases.double().abs()).clamp_min(1e-300)

    @property
    def pixel_share(self) -> Float[Tensor, " b"]:
        """Relevance of all pixels, as a share of the tokens'; the rest belongs to the class token and the positions.

        Raises:
            InputError: if pixels were not asked for.
        """
        if self.pixels is None:
            raise InputError("this relevance stopped at the tokens; ask for pixels=True")
        return self.pixels.double().flatten(1).sum(dim=-1) / self.terms["tokens"]


@checked
def mamba_lrp(
    trace: Trace,
    readout: Callable[[Any], Float[Tensor, " b"]],
    *,
    rules: PropagationRules = LRP,
    pixels: bool = False,
) -> Relevance:
    """Return the relevance of every token for a readout of a run.

    Args:
        trace: A capture.
        readout: Given the model's outputs, returns one number per text; see `mambascope.readouts`.
        rules: The propagation rules: by default all are on; switch some off for an ablation, or set γ. `LRP_VISION` has
            the γ published for vision; `PropagationRules()` gives gradient times input.
        pixels: Continue from the tokens of a picture back to its pixels, with the same rules in the same pass.

    Raises:
        InputError: if there are no pixels to trace back to, or the model is quantised.
        UnsupportedModelError: if the model has layers other than selective scans and a rule is on.
        ReconstructionError: if a norm of the model cannot be frozen.
    """
    if rules != GRADIENT and not trace.kinds <= SCAN:
        raise UnsupportedModelError(
            f"MambaLRP has propagation rules for selective scans only, but this model also has "
            f"{says_kinds(trace.kinds - SCAN)}; "
            "use alti-logit or gradient-x-input"
        )
    readout = in_texts(readout, trace.inputs)
    passed = differentiate(trace.model, readout, rules=rules, pixels=pixels, biases=True, **trace.inputs)
    biases, others = _by_layer(trace, passed)
    scores = _times_gradient(passed.embeddings, passed.at_embeddings, -1)
    require_no_padding(trace, scores)
    return Relevance(
        scores=scores,
        biases=biases,
        other_biases=others,
        value=passed.value,
        first_order=first_order(readout, passed.outputs, passed.value),
        outputs=passed.outputs,
        pixels=None if passed.pixels is None else _times_gradient(*passed.pixels, 1),
    )


def _times_gradient(value: Tensor, gradient: Tensor, summed: int) -> Tensor:
    return (value.double() * gradient.double()).sum(dim=summed).to(value.dtype)


def _by_layer(trace: Trace, passed: Gradients) -> tuple[Float[Tensor, "b layer"], Float[Tensor, " b"]]:
    """Return the relevance of the biases in every layer's block, and of those in no block."""
    blocks = [block.branches[0].name.rpartition(".")[0] for block in trace.layers]
    layers = passed.value.new_zeros(len(passed.value), len(blocks), dtype=torch.float64)
    others = layers.new_zeros(len(layers))
    for name, held in passed.biases.items():
        layer = next((k for k, block in enumerate(blocks) if not block or name.startswith(f"{block}.")), None)
        if layer is None:
            others = others + held
        else:
            layers[:, layer] += held
    return layers, others


def gradient_x_pixels(trace: Trace, readout: Callable[[Any], Tensor]) -> Float[Tensor, "b H W"] | None:
    """Return the true gradient at every pixel times the pixel; None if the run read no picture."""
    seen = trace.inputs.get("pixel_values") is not None
    return mamba_lrp(trace, readout, rules=GRADIENT, pixels=True).pixels if seen else None


def _scored(trace: Trace, readout: AnyReadout, variant: str) -> MethodResult:
    """Use the published propagation rules for language or for vision."""
    seen = trace.inputs.get("pixel_values") is not None
    found = mamba_lrp(trace, number_of(readout), rules=published_rules(trace.inputs), pixels=seen)
    (result,) = _results(trace, found)
    if found.pixels is None:
        return result
    evidence = {**result.diagnostics, "pixel_share": float(found.pixel_share[0])}
    return MethodResult(result.scores, evidence, pixels=found.pixels[0])


def _scored_copies(trace: Trace, readout: OneEach) -> list[MethodResult]:
    return _results(trace, mamba_lrp(trace, readout, rules=published_rules(trace.inputs)))


def _results(trace: Trace, found: Relevance) -> list[MethodResult]:
    """Return each text's scores and evidence."""
    error, terms = found.conservation_error.tolist(), {name: term.tolist() for name, term in found.terms.items()}
    return [
        MethodResult(
            row[None],
            {
                "value": float(found.value[text]),
                "conservation_error": error[text],
                "terms": {name: term[text] for name, term in terms.items()},
                "biases_per_layer": found.biases[text].tolist(),
            },
        )
        for text, row in enumerate(at_positions(trace, found.scores))
    ]


METHODS = [
    Method(
        "mamba-lrp",
        "relevance of each token, conserved from the logit back to the embeddings",
        "Jafari et al. 2024, arXiv 2406.07592",
        signed=True,
        needs="backward",
        kinds=SCAN,
        score=_scored,
        score_copies=_scored_copies,
        passes=2.0,
        asks=True,
        by_place=False,
        by_stage=False,
        answers=0,
        column="relevance",
    ),
]
