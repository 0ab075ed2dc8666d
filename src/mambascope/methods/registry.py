"""Every method by name: what it is, whose it is, what it needs and costs, and how to get its scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor

from mambascope.brief import brief
from mambascope.errors import InputError, UnsupportedModelError
from mambascope.methods import (
    alti,
    hidden_attention,
    implicit_attention,
    latim,
    many,
    norm_based,
    raw_attention,
    rollout,
    whole_model,
)
from mambascope.methods.case import Case, Scored
from mambascope.operators.affine import Rule
from mambascope.trace import Trace
from mambascope.trace.families import AttentionFamily

#: What a layer mixes tokens with.
Kind = Literal["scan", "attention"]

SCAN: frozenset[Kind] = frozenset({"scan"})
ATTENTION: frozenset[Kind] = frozenset({"attention"})
BOTH = SCAN | ATTENTION

HIDDEN_ATTENTION = "Ali, Zimerman & Wolf 2024, arXiv 2403.01590"
LATIM = "Pitorro & Treviso 2025, arXiv 2502.15612"
IMPLICIT = "Zimerman, Ali & Wolf 2024, arXiv 2405.16504"


@dataclass(frozen=True)
class Method:
    """One way to score sources, layer by layer (`row`, `map`) or for the whole model (`score`).

    Attributes:
        name: What people type.
        title: What it shows, in a few words.
        paper: Where it comes from.
        signed: Whether scores can be negative.
        needs: What it runs: the forward pass alone, one backward pass as well, or many passes with interventions.
        cost: Time for one target as the text grows.
        kinds: The layers that it can read.
        row: (trace, layer, target) → (b, L), one target's scores.
        map: (trace, layer) → (b, L, L), all targets.
        score: case → scores of the whole model for one readout.
        score_many: The same for many readouts of one text at once, where that is cheaper (`methods/many.py`).
        whole_map: trace → (b, L, L), all targets of a whole-model method, where there is such a thing.
        released: Whether `compat="released"` means something to it.
        asks: Whether it explains a logit, so that the model must have a head.
        split: Whether a whole-model method also says what each layer gave.
        passes: Time for one target of a short text, roughly, in forward passes.
        growth: Forward passes that each token of the text adds to them, where time is quadratic.
        rule: The activation rule of the contributions that it looks at.
        offered: Whether a page offers it unasked; variants of other methods and controls are not.
    """

    name: str
    title: str
    paper: str
    signed: bool
    needs: Literal["forward", "backward", "interventions"] = "forward"
    cost: str = "linear"
    kinds: frozenset[Kind] = BOTH
    row: Callable[..., Tensor] | None = None
    map: Callable[[Trace, int], Tensor] | None = None
    score: Callable[[Case], Scored] | None = None
    score_many: many.ManyRows | None = None
    whole_map: Callable[[Trace], Tensor] | None = None
    released: bool = False
    asks: bool = False
    split: bool = False
    passes: float = 1.0
    growth: float = 0.0
    rule: Rule = "secant"
    offered: bool = True

    __repr__ = brief

    @property
    def scope(self) -> Literal["layer", "model"]:
        """Whether it scores each layer or the whole model."""
        return "model" if self.row is None else "layer"

    def check(self, trace: Trace) -> None:
        """Raise UnsupportedModelError unless every layer of the trace is of a kind that the method can read."""
        kinds = layer_kinds(trace)
        wrong = [k for k in dict.fromkeys(kinds) if k not in self.kinds]
        if wrong:
            reads, has = (_says(self.kinds), _says(kinds))
            able = ", ".join(m.name for m in METHODS.values() if set(kinds) <= m.kinds and m.scope == self.scope)
            raise UnsupportedModelError(
                f"{self.name} reads {reads} and this model mixes tokens by {has}; of its kind these can: {able}"
            )


def layer_kinds(trace: Trace) -> tuple[Kind, ...]:
    """Return, layer by layer, what a trace's layers mix tokens with."""
    return tuple("attention" if isinstance(record.family, AttentionFamily) else "scan" for record in trace.layers)


def _says(kinds: Iterable[Kind]) -> str:
    names = {"scan": "selective scans", "attention": "softmax attention"}
    return " and ".join(names[kind] for kind in sorted(set(kinds), reverse=True))


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "latim",
            "ℓ2 norm of each source's exact contribution to the layer's output",
            LATIM,
            signed=False,
            row=latim.latim_row,
            map=latim.latim,
        ),
        Method(
            "latim-l1",
            "ℓ1 norm of each source's exact contribution to the layer's output",
            LATIM,
            signed=False,
            row=partial(latim.latim_row, norm=1),
            map=partial(latim.latim, norm=1),
            offered=False,
        ),
        Method(
            "latim-silu",
            "ℓ2 norm of contributions with the paper's activation of each share, which leaves a residual",
            LATIM,
            signed=False,
            kinds=SCAN,
            row=partial(latim.latim_row, rule="silu"),
            map=partial(latim.latim, rule="silu"),
            rule="silu",
            offered=False,
        ),
        Method(
            "latim-identity",
            "ℓ2 norm of contributions without the activation, for models trained without it",
            LATIM,
            signed=False,
            kinds=SCAN,
            row=partial(latim.latim_row, rule="identity"),
            map=partial(latim.latim, rule="identity"),
            rule="identity",
            offered=False,
        ),
        Method(
            "latim-alti",
            "share of each source in the residual stream after the layer, by ℓ1 distance",
            LATIM,
            signed=False,
            row=alti.alti_row,
            map=alti.alti,
        ),
        Method(
            "alti-rollout",
            "product of the layers' ALTI shares: share of each input in the last layer",
            LATIM,
            signed=False,
            cost="quadratic",
            passes=3.0,
            growth=0.1,
            score=whole_model.alti_rollout,
            whole_map=alti.alti_rollout,
        ),
        Method(
            "alti-logit",
            "what each layer's update of the logit owes to each input, traced back by ALTI",
            LATIM,
            signed=True,
            needs="backward",
            cost="quadratic",
            passes=3.0,
            growth=0.1,
            score=whole_model.alti_logit,
            score_many=many.alti_logit_rows,
            asks=True,
            split=True,
        ),
        Method(
            "hidden-attention",
            "the scan's own matrix, averaged over channels",
            HIDDEN_ATTENTION,
            signed=True,
            row=hidden_attention.hidden_attention_row,
            map=hidden_attention.hidden_attention_mean,
        ),
        Method(
            "raw-attention",
            "hidden attention brought to [0, 1], averaged over channels",
            HIDDEN_ATTENTION,
            signed=False,
            row=raw_attention.raw_attention_row,
            map=raw_attention.raw_attention,
            released=True,
        ),
        Method(
            "rollout",
            "product over layers of identity plus hidden attention",
            HIDDEN_ATTENTION,
            signed=True,
            score=whole_model.rollout,
            whole_map=rollout.rollout,
            released=True,
        ),
        Method(
            "rollout-normalised",
            "rollout with every row of identity plus hidden attention divided by its sum",
            "Abnar & Zuidema 2020, arXiv 2005.00928",
            signed=True,
            score=whole_model.rollout_normalised,
            whole_map=partial(rollout.rollout, normalise=True),
            offered=False,
        ),
        Method(
            "mamba-attribution",
            "rollout of hidden attention weighted by the logit's gradient, its positive part",
            HIDDEN_ATTENTION,
            signed=False,
            needs="backward",
            cost="quadratic",
            passes=3.0,
            growth=0.1,
            kinds=SCAN,
            score=whole_model.mamba_attribution,
            released=True,
            asks=True,
        ),
        Method(
            "implicit-attention",
            "the scan's matrix with gate, convolution and skip, averaged over channels",
            IMPLICIT,
            signed=True,
            row=implicit_attention.implicit_attention_row,
            map=partial(implicit_attention.implicit_attention, channels="mean"),
        ),
        Method(
            "implicit-rollout",
            "product over layers of identity plus implicit attention",
            IMPLICIT,
            signed=True,
            score=whole_model.implicit_rollout,
        ),
        Method(
            "mamba-lrp",
            "relevance of each token, conserved on its way from the logit to the embeddings",
            "Jafari et al. 2024, arXiv 2406.07592",
            signed=True,
            needs="backward",
            kinds=SCAN,
            score=whole_model.mamba_lrp,
            passes=2.0,
            score_many=many.mamba_lrp_rows,
            asks=True,
        ),
        Method(
            "gradient-x-input",
            "the logit's gradient at each embedding, times the embedding",
            "Shrikumar et al. 2017, arXiv 1605.01713",
            signed=True,
            needs="backward",
            score=whole_model.gradient_x_input,
            passes=4.0,
            score_many=many.gradient_x_input_rows,
            asks=True,
        ),
        Method(
            "integrated-gradients",
            "gradients averaged on the way from the mean embedding, times the way",
            "Sundararajan et al. 2017, arXiv 1703.01365",
            signed=True,
            needs="backward",
            score=whole_model.integrated_gradients,
            passes=100.0,
            asks=True,
        ),
        Method(
            "smoothgrad",
            "gradient times input averaged over noisy embeddings",
            "Smilkov et al. 2017, arXiv 1706.03825",
            signed=True,
            needs="backward",
            score=whole_model.smooth_grad,
            passes=50.0,
            asks=True,
        ),
        Method(
            "norm-based",
            "ℓ2 norm of each source's value vector times its attention, summed over heads",
            "Kobayashi et al. 2020, arXiv 2004.10102",
            signed=False,
            kinds=ATTENTION,
            row=norm_based.norm_based_row,
            map=norm_based.norm_based,
        ),
        Method(
            "transformer-attribution",
            "rollout of attention weighted by the logit's gradient, its positive part",
            "Chefer et al. 2021, arXiv 2103.15679",
            signed=False,
            needs="backward",
            cost="quadratic",
            passes=3.0,
            growth=0.1,
            kinds=ATTENTION,
            score=whole_model.transformer_attribution,
            asks=True,
        ),
        Method(
            "value-zeroing",
            "how far a layer's output turns when one token's value is zeroed in it",
            "Mohebbi et al. 2023, arXiv 2301.12971",
            signed=False,
            needs="interventions",
            cost="quadratic",
            growth=1.0,
            kinds=SCAN,
            score=whole_model.value_zeroing,
            split=True,
        ),
        Method(
            "knockout",
            "drop of the logit when every scan loses what flows from one token to the target",
            "Mamba Knockout 2025, arXiv 2505.24244",
            signed=True,
            needs="interventions",
            cost="quadratic",
            growth=1.0,
            kinds=SCAN,
            score=whole_model.knocked_out,
            asks=True,
        ),
        Method(
            "occlusion",
            "drop of the logit when one token's embedding is replaced by zero",
            "Zeiler & Fergus 2014, arXiv 1311.2901",
            signed=True,
            needs="interventions",
            cost="quadratic",
            growth=1.0,
            score=whole_model.occluded,
            score_many=many.occlusion_rows,
            asks=True,
        ),
        Method(
            "random",
            "a control: scores drawn at random, which know nothing of the model",
            "Samek et al. 2017, arXiv 1509.06321",
            signed=True,
            score=whole_model.drawn,
            offered=False,
        ),
    )
}


def find_method(name: str) -> Method:
    """Return the method of this name, or raise InputError that lists those there are."""
    if name not in METHODS:
        raise InputError(f"unknown method {name!r}; choose one of {', '.join(METHODS)}")
    return METHODS[name]
