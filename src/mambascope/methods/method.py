"""The description of a method: its source, what it needs and costs, and the functions that compute its scores.

A method that scores layers is a function of (trace, layer, target); one that explains a readout is a function of
(trace, readout). Each file of methods in this folder ends with `METHODS`, the entries of its methods.
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

#: What a whole-model method explains: a number or, for a model without a head, positions only.
AnyReadout = Readout | FeatureReadout | Place


@dataclass(frozen=True, eq=False)
class MethodResult:
    """The result of a whole-model method for one text.

    Attributes:
        scores: One row for the whole model, or one per layer.
        diagnostics: The evidence on how far to trust the scores, such as `conservation_error`.
        over_layers: How the layers' rows are combined into one row for the model.
        pixels: Scores of a picture's pixels, from methods that have them.
    """

    scores: Float[Tensor, "layer L"]
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    over_layers: Literal["mean", "sum"] = "sum"
    pixels: Float[Tensor, "H W"] | None = None

    __repr__ = brief


@dataclass(frozen=True)
class Method:
    """One way to score sources, layer by layer (`row`, `map`) or for a readout of the whole model (`score`).

    Attributes:
        name: The name that users type.
        title: What it shows, in a few words.
        paper: The paper that it comes from.
        signed: Whether scores can be negative.
        needs: What it runs: only the forward pass, also one backward pass, or many passes with interventions.
        cost: How its time for one target grows with the text.
        kinds: The kinds of mixer that it can read; None for any that has an affine map.
        never_alone: Kinds that it can read only in models that also have others: alone they have a method of their own.
        row: (trace, layer, target) → (b, L), one target's scores; None if a map costs no more.
        map: (trace, layer) → (b, L, L), all targets.
        band: (trace, layer, targets) → (b, t, L), a slice of the targets, with memory for these alone; None if it needs
            the whole map.
        map_error: (trace, maps, layer, targets=…) → how far maps of some targets are off, if `map` and `band` take the
            `precision` of their products; None if they have one precision.
        score: (trace, readout, variant) → scores of the whole model for one readout.
        score_spans: (trace, readout, spans) → scores of the whole model in which each span, removed as a whole, has its
            own at its last token, if it can remove several tokens at once; a span is its first token and the one after
            its last.
        score_many: (trace, readouts) → a result for each of several readouts of one text, if that is cheaper.
        score_copies: (trace, readout) → a result for each copy of one text, each with its own readout, if that works.
        whole_map: trace → (b, L, L), all targets of a whole-model method, if it has such a map.
        reference_code: Whether it has `variant="reference-code"`.
        asks: Whether it explains a logit, so that the model must have a head.
        split: Whether a whole-model method also gives scores per layer.
        conserves: Whether its evidence has `terms` that add up to the number explained.
        passes: Approximate time for one target of a short text, in forward passes.
        growth: Additional forward passes per token of the text, if time is quadratic.
        rule: The activation rule of its contributions.
        offered: Whether a page offers it by default; variants of other methods and controls are not offered.
        by_place: Whether its scores depend on the readout's position beyond the number that is read there.
        reaches_embeddings: Whether it traces a readout back to the embedded tokens, through everything in between, so
            that in a model with stages it explains the first.
        by_stage: Whether it can explain one stage of a model whose stages read fewer and fewer tokens.
        takes_means: Whether it takes the mean of gradients over a layer's width, which LayerNorms remove.
        answers: Rank among the default methods for explaining a prediction, of which the first that can read the model
            is used; None for methods that are never the default.
        defers: The kinds of mixer for which the next of these defaults is used, if a model has no others.
        shows_layers: Whether it is the default for layers, for all positions, and for models without a head.
        from_inputs: Whether it needs no more of a capture than what the mixers read, which is all that long texts keep.
        column: Its column in `compare`, after the figures that compare models in the papers; empty if it has none.
    """

    name: str
    title: str
    paper: str
    signed: bool
    needs: Literal["forward", "backward", "interventions"] = "forward"
    cost: str = "linear"
    kinds: frozenset[Kind] | None = None
    never_alone: frozenset[Kind] = frozenset()
    row: Callable[..., Tensor] | None = None
    map: Callable[..., Tensor] | None = None
    band: Callable[..., Tensor] | None = None
    map_error: Callable[..., Tensor] | None = None
    score: Callable[..., MethodResult] | None = None
    score_spans: Callable[[Trace, AnyReadout, Sequence[tuple[int, int]]], MethodResult] | None = None
    score_many: Callable[[Trace, Sequence[Readout]], list[MethodResult]] | None = None
    score_copies: Callable[[Trace, OneEach], list[MethodResult]] | None = None
    whole_map: Callable[[Trace], Tensor] | None = None
    reference_code: bool = False
    asks: bool = False
    split: bool = False
    conserves: bool = False
    passes: float = 1.0
    growth: float = 0.0
    rule: ActivationRule = "secant"
    offered: bool = True
    by_place: bool = True
    reaches_embeddings: bool = False
    by_stage: bool = True
    takes_means: bool = False
    answers: int | None = None
    defers: frozenset[Kind] = frozenset()
    shows_layers: bool = False
    from_inputs: bool = False
    column: str = ""

    __repr__ = brief

    @property
    def scope(self) -> Literal["layer", "model"]:
        """What it scores: each layer, or the whole model."""
        return "model" if self.map is None else "layer"

    def reads(self, kinds: Iterable[Kind]) -> bool:
        """Return whether it can read layers of all these kinds."""
        kinds = frozenset(kinds)
        return (self.kinds is None or self.kinds >= kinds) and not kinds <= self.never_alone


def at_positions(trace: Trace, scores: Float[Tensor, "rows tokens"]) -> Float[Tensor, "rows L"]:
    """Return scores of embedded tokens as scores of positions, with zero for a class token added after embedding."""
    return F.pad(scores, (trace.shape[1] - scores.shape[1], 0))


def says_kinds(kinds: Iterable[Kind]) -> str:
    """Return kinds of mixer in words."""
    names = {
        "scan": "selective scans",
        "attention": "softmax attention",
        "delta": "delta rules",
        "conv": "short convolutions",
    }
    return " and ".join(names.get(kind, kind) for kind in sorted(set(kinds), reverse=True))


def number_of(readout: AnyReadout) -> Readout | FeatureReadout:
    """Return the readout if it is a number.

    Raises:
        InputError: if it is not, because the model has no head.
    """
    if isinstance(readout, Place):
        raise InputError(
            "this model has no head, so there is no logit to explain; load it with its language-model or "
            "classification head, or choose a method that does not need one"
        )
    return readout
