"""ALTI-Logit: each input's share of a logit (Ferrando et al., arXiv 2305.12535; on Mamba: LaTIM, arXiv 2502.15612).

With the statistics of the final norm frozen, the readout is linear in the residual stream, with a direction q_t at each
of its positions (where norms or factors multiply the stream itself, a direction at each layer), and every layer's
update of it is a sum over sources, Δ^λ_j = q_t · T^λ_tj. The share R^{λ-1}_jk of the stream at j before layer λ comes
from input k, so input k is credited with

    Δ^1_k + Σ_{λ>1} Σ_j Δ^λ_j R^{λ-1}_jk

The initial residual stream (the embedding at t), biases, other parts of the model (MLPs) and the constant of the final
norm and head are separate terms: scores and terms together sum to the readout. Signed, not normalised.

A hybrid's mixers are compared by what they add to the readout directly (`mambascope.methods.direct`): this sums to what
scores and the term `bias` sum to, so with the other terms it sums to the readout.

The bias of softmax attention's values is in the term `bias`; the Transformer paper's code puts it into the vectors, as
`value_bias="source"` does (see `mambascope.methods.alti`). The sum is the same.

In Zamba's layers, whose mixer reads the stream and what a shared attention gave, Δ^λ is split between the two. The part
that came through the attention is the row of the attention's own layer, traced on by the attention's shares; the layer
of the mixer keeps the rest.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mambascope.brief import brief
from mambascope.errors import InputError, UnsupportedModelError
from mambascope.families import Kind
from mambascope.memory import require_room
from mambascope.methods.alti import ValueBias, passed_on, shares, with_value_bias
from mambascope.methods.checked import checked
from mambascope.methods.direct import added_directly, by_kind, share_by_kind
from mambascope.methods.direct import evidence as of_kinds
from mambascope.methods.method import LATIM, AnyReadout, Method, MethodResult, number_of
from mambascope.methods.targets import require_no_padding
from mambascope.numbering import shown
from mambascope.operators.affine_map import ActivationRule
from mambascope.readouts import Readout, first_order
from mambascope.trace import Trace
from mambascope.trace.block import Block
from mambascope.trace.differentiate import Gradients
from mambascope.trace.directions import directions
from mambascope.trace.parts import in_parts
from mambascope.trace.running import in_texts

#: The precision of scores, for estimates of their size.
SCORES = torch.empty(0, dtype=torch.float32)


@dataclass(frozen=True, eq=False)
class LogitUpdates:
    """Every input's share of a readout, layer by layer.

    Attributes:
        scores: The share of each input in each layer's update; their sum over layers is the attribution. A shared
            attention that feeds a mixer (Zamba) has the share of the mixer's update that came through it.
        terms: The rest of the readout, by name: `residual` (the embedding at the readout's own positions), `bias` (of
            the mixers), `other` (parts that mix no tokens, such as MLPs), `constant` (final norm, head).
        value: The readout, to which scores and terms sum.
        direct: What each mixer adds to the readout directly, layer by layer and in the order of the branches.
        kinds: The kind of each of these mixers.
    """

    scores: Float[Tensor, "b layer L"]
    terms: Mapping[str, Float[Tensor, " b"]]
    value: Float[Tensor, " b"]
    direct: Float[Tensor, "b mixer"]
    kinds: tuple[Kind, ...]

    __repr__ = brief

    @property
    def by_kind(self) -> dict[Kind, Float[Tensor, " b"]]:
        """d_K, what all mixers of each kind add to the readout directly, with its sign."""
        return by_kind(self.direct, self.kinds)

    @property
    def shares(self) -> dict[Kind, Float[Tensor, " b"]]:
        """The share of each kind of mixer in the sizes of what all of them add to the readout directly."""
        return share_by_kind(self.direct, self.kinds)

    @property
    def conservation_error(self) -> Float[Tensor, " b"]:
        """|value - Σ scores - Σ terms| over the sum of all absolute values; only rounding, if all is well."""
        parts = [self.scores.double().sum(dim=(1, 2)), *(term.double() for term in self.terms.values())]
        size = self.scores.double().abs().sum(dim=(1, 2)) + sum(term.double().abs() for term in self.terms.values())
        return (self.value.double() - sum(parts)).abs() / size.clamp_min(1e-300)


@checked
def alti_logit(
    trace: Trace,
    readout: Callable[[Any], Float[Tensor, " b"]],
    *,
    rule: ActivationRule = "secant",
    maps: Sequence[Float[Tensor, "b L L"]] | None = None,
    value_bias: ValueBias = "bias",
) -> LogitUpdates:
    """Return every input's share of a readout; time is quadratic in L, like R.

    Args:
        trace: A capture.
        readout: Given the model's outputs, returns one number per text. A readout that is not linear in the logits (a
            log-probability) is explained to first order; the rest is in the term `constant`.
        rule: The activation rule. What `silu` or `identity` leave unexplained shows in the conservation error.
        maps: `alti(trace, layer, rule, value_bias=value_bias)` of every layer but the last, for use with several
            readouts; by default computed one at a time. Not for models with shared attention, whose maps have parts.
        value_bias: As in `alti`.

    Raises:
        InputError: if the rule or the value bias does not exist.
        UnsupportedModelError: if the model has a norm after each layer's sum (BERT), no final norm or no readable
            blocks.
        MapTooLargeError: if a layer's map would not fit in memory.
    """
    shares_of: Callable[[Block], Tensor] = partial(_shares_of, trace, rule, value_bias)
    if maps is not None:
        _check_maps(trace, maps)
        shares_of = partial(_given, trace, maps)
    return _updates(trace, readout, trace.logit_direction(readout), shares_of, rule, value_bias)


def _updates(
    trace: Trace,
    readout: Callable[[Any], Float[Tensor, " b"]],
    final: Gradients,
    shares_of: Callable[[Block], Float[Tensor, "b parts L L"]],
    rule: ActivationRule = "secant",
    value_bias: ValueBias = "bias",
) -> LogitUpdates:
    """Return every input's share of a readout, given its direction in the stream before the final norm."""
    if any(block.post_norm is not None for block in trace.layers):
        raise UnsupportedModelError(
            "ALTI-Logit follows a residual stream from the embeddings to one final norm, but this model normalises "
            "after each sum"
        )
    entering = [block.stream("ALTI-Logit") for block in trace.updates]
    dtype = torch.promote_types(final.at_embeddings.dtype, torch.float32)
    stream = final.embeddings.to(dtype)
    along = [q.to(dtype) for q in (*(final.at_streams or [final.at_embeddings] * len(entering)), final.at_embeddings)]
    rows, bias = _walked(trace, along[:-1], shares_of, rule, value_bias)
    leaving = [block.stream_out for block in trace.updates if block.stream_out is not None]
    carried = [_dot(q, stream_in.to(dtype)) for q, stream_in in zip(along, [*entering, stream], strict=True)]
    left = [_dot(q, stream_out.to(dtype)) for q, stream_out in zip(along[:-1], leaving, strict=True)]
    require_no_padding(trace, rows.abs().amax(dim=1))
    linear = first_order(in_texts(readout, trace.inputs), final.outputs, final.value)
    rest = final.value.double() - linear.double()  # nonzero if the readout is not linear in the logits
    rest = rest if final.bent is None else rest + final.bent  # or the logits are not linear in what the head returned
    terms = {
        "residual": carried[0],
        "bias": bias,
        "other": torch.stack(carried[1:]).sum(dim=0) - torch.stack(left).sum(dim=0),
        "constant": sum(final.biases.values(), torch.zeros_like(bias)) + rest,
    }
    direct = added_directly(trace, along[:-1], rule, value_bias)
    kinds = tuple(branch.kind for branch in trace.branches)
    return LogitUpdates(rows, terms, final.value, direct, kinds)


def _walked(
    trace: Trace,
    along: Sequence[Float[Tensor, "b L E"]],
    shares_of: Callable[[Block], Float[Tensor, "b parts L L"]],
    rule: ActivationRule,
    value_bias: ValueBias,
) -> tuple[Float[Tensor, "b layer L"], Float[Tensor, " b"]]:
    """Return each layer's update of the readout as shares of the inputs, and what the mixers' biases give to it.

    `along` holds the readout's direction in the stream after each layer.
    """
    (batch, length), like = trace.shape, along[0]
    rows = direct = like.new_zeros(batch, 0, length)
    bias = like.new_zeros(batch, dtype=torch.float64)
    for block, q in zip(reversed(trace.updates), reversed(along), strict=True):
        operator = with_value_bias(block.operator(), value_bias)
        bias = bias + _dot(q, operator.bias(rule))
        pulled = [part.pull(q.to(operator.x.dtype), rule) for part in in_parts(block, operator, "ALTI-Logit")]
        sources = torch.stack(pulled, dim=1)[:, None]
        if block.fed_by is not None:  # what came through the attention is a row of its own
            empty = torch.zeros_like(sources[:, :, :1])
            sources = torch.cat([torch.cat([empty, sources[:, :, 1:]], 2), torch.cat([sources[:, :, :1], empty], 2)], 1)
        if rows.shape[1]:
            sources = torch.cat([sources, torch.einsum("bni,bpij->bnpj", rows, shares_of(block))], dim=1)
        rows, drawn = passed_on(shares_of, block.fed_by, sources)
        direct = drawn + torch.cat([torch.zeros_like(drawn[:, : drawn.shape[1] - direct.shape[1]]), direct], dim=1)
    return rows + direct, bias


def _shares_of(trace: Trace, rule: ActivationRule, value_bias: ValueBias, block: Block) -> Float[Tensor, "b parts L L"]:
    return shares(trace, trace.number_of(block), rule, value_bias)


def _given(trace: Trace, maps: Sequence[Float[Tensor, "b L L"]], block: Block) -> Float[Tensor, "b 1 L L"]:
    return maps[trace.number_of(block)][:, None]


def _check_maps(trace: Trace, maps: Any) -> None:
    """Raise InputError unless these are maps of every layer but the last."""
    (batch, length), layers = trace.shape, len(trace.layers) - 1
    aside = next((block for block in trace.layers if block.aside), None)
    if aside is not None:
        raise UnsupportedModelError(
            f"maps of whole layers do not tell apart what the stream and {aside.name} gave to a mixer; leave maps out"
        )
    fit = isinstance(maps, (list, tuple)) and len(maps) == layers
    if not fit or any(not isinstance(one, Tensor) or one.shape != (batch, length, length) for one in maps):
        raise InputError(
            f"maps must be {layers} tensors of shape {(batch, length, length)}, as methods.alti returns them, found "
            f"{shown(maps)}"
        )


def _dot(a: Tensor, b: Tensor) -> Float[Tensor, " b"]:
    return (a.double() * b.double()).sum(dim=(1, 2))


def _scored(trace: Trace, readout: AnyReadout, variant: str) -> MethodResult:
    return _result(alti_logit(trace, number_of(readout)))


def _result(updates: LogitUpdates) -> MethodResult:
    terms = {"tokens": float(updates.scores[0].double().sum())}
    terms |= {name: float(term[0]) for name, term in updates.terms.items()}
    evidence: dict[str, Any] = {"conservation_error": float(updates.conservation_error[0]), "terms": terms}
    kinds = of_kinds(updates.direct, updates.kinds)
    return MethodResult(updates.scores[0], evidence | kinds | {"value": float(updates.value[0])})


def _scored_many(trace: Trace, readouts: Sequence[Readout]) -> list[MethodResult]:
    """Share one forward pass and the layers' ALTI maps among all readouts."""
    length, width = trace.shape[1], trace.layers[0].y.shape[-1]
    for shape in ((len(trace.layers) - 1, length, length), (2 * len(readouts), length, width)):
        require_room(shape, SCORES, "explain fewer positions, or shorten the text")
    shares_of = functools.cache(partial(_shares_of, trace, "secant", "bias"))
    finals = directions(trace.model, readouts, **trace.inputs)
    pairs = zip(readouts, finals, strict=True)
    return [_result(_updates(trace, one, final, shares_of)) for one, final in pairs]


METHODS = [
    Method(
        "alti-logit",
        "share of each input in each layer's update of the logit, traced back by ALTI",
        LATIM,
        signed=True,
        needs="backward",
        cost="quadratic",
        passes=3.0,
        growth=0.1,
        score=_scored,
        score_many=_scored_many,
        asks=True,
        split=True,
        conserves=True,
        by_place=False,
        by_stage=False,
        answers=1,
        column="relevance",
    ),
]
