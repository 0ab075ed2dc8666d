"""MambaLRP (Jafari, Montavon, Müller & Eberle, arXiv 2406.07592): layer-wise relevance propagation, in every model.

Gradient times input on a graph whose forward pass is the model's and whose backward pass is frozen (section 4). Every
part is then a linear map, so relevance is conserved: R_j = Σ_e x_j[e] ∂f/∂x_j[e] and the same products b ∂f/∂b of
biases add up to the readout f. The paper has rules for Mamba; with those for what it lacks, taken from others or
derived here, the same method goes through hybrids and Transformers:

| part | what is held constant | why |
| --- | --- | --- |
| activation with f(0) = 0 | its secant f(a)/a | MambaLRP's rule for the SiLU; AttnLRP's for others |
| scan, delta rule | Δ, B, C; q, k, β and the decay | they say how tokens mix; s, or v, is what is mixed |
| another mixer | all of its affine map but the tokens | what it mixes with follows from its input, as in a scan |
| softmax attention | its probabilities | Ali et al. 2022: relevance flows through the values |
| product of two branches, SwiGLU | half of it for each | MambaLRP's rule for gates; AttnLRP's for products |
| σ of a gate, softplus, exp | all of it | f(0) ≠ 0: the secant has a pole, and it weighs what is said |
| experts | the router's choice and weights | the same; each expert is an MLP |
| norm | its statistic; LayerNorm's mean is kept | Ali et al. 2022, and MambaLRP |

In a delta rule v too is mixed along keys, with what is removed in between, but o is linear in v for given q, k, β and
decay. Position and token-type embeddings and class tokens count as biases: no token carries them. Under `ATTN_LRP`
(Achtibat et al., arXiv 2402.05602) the softmax is differentiated instead, and the products of queries with keys and of
probabilities with values give half to each side; the softmax then hands on more or less than what reaches it, and the
difference is the term `softmax`. Time and memory are those of one forward and one backward pass: the backward pass of
a scan is one reversed scan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mambascope.brief import brief
from mambascope.errors import InputError
from mambascope.methods.checked import checked
from mambascope.methods.direct import evidence_of_kinds
from mambascope.methods.method import ATTENTION, AnyReadout, Method, MethodResult, at_positions, number_of
from mambascope.methods.targets import require_no_padding
from mambascope.readouts import OneEach
from mambascope.trace import Trace
from mambascope.trace.differentiate import Gradients, differentiate
from mambascope.trace.pieces import differentiate_in_pieces
from mambascope.trace.rules import GRADIENT, PropagationRules
from mambascope.trace.uncovered import uncovered
from mambascope.trust import CONSERVED

#: The propagation rules for language (section 4): all on, without γ in linear layers.
LRP = PropagationRules(silu=True, scan=True, gate=True, norm=True, softmax=True)

#: The published propagation rules for vision: also γ = 0.25 in linear and convolution layers.
LRP_VISION = PropagationRules(silu=True, scan=True, gate=True, norm=True, softmax=True, gamma=0.25)

#: AttnLRP's propagation rules: attention's softmax is differentiated, and both sides of its products get half.
ATTN_LRP = PropagationRules(silu=True, scan=True, gate=True, norm=True)


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
        undistributed: Relevance that a rule does not hand on to what it came from, by name: `softmax` under AttnLRP's.
        pixels: Relevance of every pixel, summed over colours; zero at pixels that no patch reads. None unless asked
            for.
        uncovered: The function that no rule covers, and the module that calls it, if relevance does not add up and it
            was found.
    """

    scores: Float[Tensor, "b L"]
    biases: Float[Tensor, "b layer"]
    other_biases: Float[Tensor, " b"]
    value: Float[Tensor, " b"]
    first_order: Float[Tensor, " b"]
    outputs: Any
    undistributed: Mapping[str, Float[Tensor, " b"]] = field(default_factory=dict)
    pixels: Float[Tensor, "b H W"] | None = None
    uncovered: str = ""

    __repr__ = brief

    @property
    def terms(self) -> dict[str, Float[Tensor, " b"]]:
        """The terms that add up to the readout, in float64: `tokens`, `biases`, and what is undistributed."""
        return {
            "tokens": self.scores.double().sum(dim=-1),
            "biases": self.biases.double().sum(dim=-1) + self.other_biases.double(),
            **{name: held.double() for name, held in self.undistributed.items()},
        }

    @property
    def conservation_error(self) -> Float[Tensor, " b"]:
        """|f - Σ terms| over the sum of all absolute values; only rounding, if all rules are on."""
        parts = (
            self.scores,
            self.biases,
            self.other_biases[:, None],
            *(t[:, None] for t in self.undistributed.values()),
        )
        sizes = torch.stack([part.double().abs().sum(dim=-1) for part in parts]).sum(dim=0)
        missing = self.first_order.double() - torch.stack(list(self.terms.values())).sum(dim=0)
        return missing.abs() / sizes.clamp_min(1e-300)

    @property
    def pixel_share(self) -> Float[Tensor, " b"]:
        """Relevance of all pixels, as a share of the tokens'; the rest belongs to the class token and the positions.

        NaN where the tokens hold nothing, which leaves nothing to share.

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
            the γ published for vision; `ATTN_LRP` differentiates attention's softmax; `PropagationRules()` gives
            gradient times input.
        pixels: Continue from the tokens of a picture back to its pixels, with the same rules in the same pass.

    Raises:
        InputError: if there are no pixels to trace back to, or the model is quantised.
        UnsupportedModelError: if biases of experts are added to several texts at once.
        ReconstructionError: if a mixer that is known by its affine map differs from it.
    """
    passed = None if pixels else differentiate_in_pieces(trace.model, readout, rules=rules, **trace.inputs)
    if passed is None:
        passed = differentiate(trace.model, readout, rules=rules, pixels=pixels, biases=True, **trace.inputs)
    biases, others = _by_layer(trace, passed)
    scores = _times_gradient(passed.embeddings, passed.at_embeddings, -1)
    require_no_padding(trace, scores)
    found = Relevance(
        scores=scores,
        biases=biases,
        other_biases=others,
        value=passed.value,
        first_order=passed.first_order,
        outputs=trace.outputs if passed.outputs is None else passed.outputs,
        undistributed=passed.undistributed,
        pixels=None if passed.pixels is None else _times_gradient(*passed.pixels, 1),
    )
    allowed = CONSERVED.get(passed.value.dtype, CONSERVED[torch.float32])
    if rules.conserve and not float(found.conservation_error.max()) <= allowed:
        return replace(found, uncovered=uncovered(trace.model, rules, **trace.inputs))
    return found


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
            others = others + held.to(others.device)
        else:
            layers[:, layer] += held.to(layers.device)
    return layers, others


def gradient_x_pixels(trace: Trace, readout: Callable[[Any], Tensor]) -> Float[Tensor, "b H W"] | None:
    """Return the true gradient at every pixel times the pixel; None if the run read no picture."""
    seen = trace.inputs.get("pixel_values") is not None
    return mamba_lrp(trace, readout, rules=GRADIENT, pixels=True).pixels if seen else None


def _scored(trace: Trace, readout: AnyReadout, variant: str) -> MethodResult:
    """Use the published propagation rules for language or for vision."""
    seen = trace.inputs.get("pixel_values") is not None
    found = mamba_lrp(trace, number_of(readout), rules=published_rules(trace.inputs), pixels=seen)
    (result,), (kinds,) = _results(trace, found), evidence_of_kinds(trace, number_of(readout))
    if found.pixels is None:
        return replace(result, diagnostics={**result.diagnostics, **kinds})
    share = {"pixel_share": float(found.pixel_share[0])} if found.terms["tokens"][0] else {}
    return MethodResult(result.scores, {**result.diagnostics, **share}, pixels=found.pixels[0])


def _scored_copies(trace: Trace, readout: OneEach) -> list[MethodResult]:
    results = _results(trace, mamba_lrp(trace, readout, rules=published_rules(trace.inputs)))
    each = zip(results, evidence_of_kinds(trace, readout, len(results)), strict=True)
    return [replace(one, diagnostics={**one.diagnostics, **kinds}) for one, kinds in each]


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
                **({"uncovered": found.uncovered} if found.uncovered else {}),
            },
        )
        for text, row in enumerate(at_positions(trace, found.scores))
    ]


METHODS = [
    Method(
        "mamba-lrp",
        "layer-wise relevance of each token, conserved from the logit back to the embeddings",
        "Jafari et al. 2024, arXiv 2406.07592",
        signed=True,
        needs="backward",
        score=_scored,
        score_copies=_scored_copies,
        passes=2.0,
        asks=True,
        conserves=True,
        by_place=False,
        by_stage=False,
        answers=0,
        defers=ATTENTION,
        from_inputs=True,
        column="relevance",
    ),
]
