"""What a method says of itself: whose it is, what it needs and costs, and how to get its scores.

A method that scores layers is a function of (trace, layer, target); one that explains a number that the model returned
is a function of (trace, readout). Each file of this folder ends with the entries of its methods, `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mambascope.brief import brief
from mambascope.errors import InputError
from mambascope.families import Kind
from mambascope.operators.affine_map import ActivationRule
from mambascope.readouts import FeatureReadout, OneEach, Place, Readout
from mambascope.trace import Trace

SCAN: frozenset[Kind] = frozenset({"scan"})
ATTENTION: frozenset[Kind] = frozenset({"attention"})

HIDDEN_ATTENTION = "Ali, Zimerman & Wolf 2024, arXiv 2403.01590"
LATIM = "Pitorro & Treviso 2025, arXiv 2502.15612"
IMPLICIT = "Zimerman, Ali & Wolf 2024, arXiv 2405.16504"

#: What a whole-model method explains: a number, or of a model without a head a place alone.
AnyReadout = Readout | FeatureReadout | Place


@dataclass(frozen=True, eq=False)
class MethodResult:
    """What a method that explains a number returns of one text.

    Attributes:
        scores: One row for the whole model, or one per layer.
        diagnostics: The evidence: `conservation_error`, and what else tells how far to trust the scores.
        over_layers: How the layers' rows make the model's.
        pixels: Scores of a picture's pixels, from methods that go down to them.
    """

    scores: Float[Tensor, "layer L"]
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    over_layers: Literal["mean", "sum"] = "sum"
    pixels: Float[Tensor, "H W"] | None = None

    __repr__ = brief


@dataclass(frozen=True)
class Method:
    """One way to score sources, layer by layer (`row`, `map`) or for a number that the model returned (`score`).

    Attributes:
        name: What people type.
        title: What it shows, in a few words.
        paper: Where it comes from.
        signed: Whether scores can be negative.
        needs: What it runs: the forward pass alone, one backward pass as well, or many passes with interventions.
        cost: Time for one target as the text grows.
        kinds: The kinds of layer that it can read; None for whatever has an affine map.
        row: (trace, layer, target) → (b, L), one target's scores; None where a map costs no more.
        map: (trace, layer) → (b, L, L), all targets.
        score: (trace, readout, variant) → scores of the whole model for one readout.
        score_many: (trace, readouts) → a result for each of several readouts of one text, where that is cheaper.
        score_copies: (trace, readout) → a result for each copy of one text, where copies with a readout each can be
            explained side by side.
        whole_map: trace → (b, L, L), all targets of a whole-model method, where there is such a thing.
        reference_code: Whether `variant="reference-code"` means something to it.
        asks: Whether it explains a logit, so that the model must have a head.
        split: Whether a whole-model method also says what each layer gave.
        passes: Time for one target of a short text, roughly, in forward passes.
        growth: Forward passes that each token of the text adds to them, where time is quadratic.
        rule: The activation rule of the contributions that it looks at.
        offered: Whether a page offers it unasked; variants of other methods and controls are not.
        by_place: Whether the place that is asked about makes a difference beyond the number that is read there.
        reaches_embeddings: Whether it follows a number back to the tokens as they are embedded, through whatever lies
            between, so that of a model with stages it explains the first.
        by_stage: Whether it has something to say of one stage of a model whose stages read fewer and fewer tokens.
        takes_means: Whether it takes the mean of gradients over a layer's width, which LayerNorms take out.
        answers: Place among the methods that explain a prediction when none is named, the first that can read the
            model being taken; None for methods that do not.
        shows_layers: Whether it shows layers, every position, and models without a head, when none is named.
        column: The column of `compare` in which it stands, of the figures that compare models in the papers.
    """

    name: str
    title: str
    paper: str
    signed: bool
    needs: Literal["forward", "backward", "interventions"] = "forward"
    cost: str = "linear"
    kinds: frozenset[Kind] | None = None
    row: Callable[..., Tensor] | None = None
    map: Callable[[Trace, int], Tensor] | None = None
    score: Callable[..., MethodResult] | None = None
    score_many: Callable[[Trace, Sequence[Readout]], list[MethodResult]] | None = None
    score_copies: Callable[[Trace, OneEach], list[MethodResult]] | None = None
    whole_map: Callable[[Trace], Tensor] | None = None
    reference_code: bool = False
    asks: bool = False
    split: bool = False
    passes: float = 1.0
    growth: float = 0.0
    rule: ActivationRule = "secant"
    offered: bool = True
    by_place: bool = True
    reaches_embeddings: bool = False
    by_stage: bool = True
    takes_means: bool = False
    answers: int | None = None
    shows_layers: bool = False
    column: str = ""

    __repr__ = brief

    @property
    def scope(self) -> Literal["layer", "model"]:
        """Whether it scores each layer or the whole model."""
        return "model" if self.map is None else "layer"

    def reads(self, kinds: Iterable[Kind]) -> bool:
        """Return whether it can read layers of all these kinds."""
        return self.kinds is None or self.kinds.issuperset(kinds)


def at_positions(trace: Trace, scores: Float[Tensor, "rows tokens"]) -> Float[Tensor, "rows L"]:
    """Return scores of embedded tokens as scores of positions: a class token put before them has no embedding."""
    return F.pad(scores, (trace.shape[1] - scores.shape[1], 0))


def says_kinds(kinds: Iterable[Kind]) -> str:
    """Return kinds of layer in words."""
    names = {"scan": "selective scans", "attention": "softmax attention"}
    return " and ".join(names.get(kind, kind) for kind in sorted(set(kinds), reverse=True))


def number_of(readout: AnyReadout) -> Readout | FeatureReadout:
    """Return the number that is asked about.

    Raises:
        InputError: if there is none, because the model has no head.
    """
    if isinstance(readout, Place):
        raise InputError(
            "this model has no head, so there is no logit to explain; load it with its language-model or "
            "classification head, or choose a method that needs none"
        )
    return readout
