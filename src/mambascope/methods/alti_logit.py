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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mambascope.arguments import real_number
from mambascope.brief import brief
from mambascope.errors import InputError, UnsupportedModelError
from mambascope.memory import require_room
from mambascope.methods.alti import Pull, passed_on
from mambascope.methods.checked import checked
from mambascope.methods.direct import added_directly
from mambascope.methods.direct import evidence as of_kinds
from mambascope.methods.logit_updates import LogitUpdates
from mambascope.methods.method import LATIM, AnyReadout, Method, MethodResult, number_of
from mambascope.methods.shares import pulled_through
from mambascope.methods.targets import require_no_padding
from mambascope.methods.traced_targets import TracedTargets
from mambascope.methods.value_bias import ValueBias, with_value_bias
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


@checked
def alti_logit(
    trace: Trace,
    readout: Callable[[Any], Float[Tensor, " b"]],
    *,
    rule: ActivationRule = "secant",
    maps: Sequence[Float[Tensor, "b L L"]] | None = None,
    value_bias: ValueBias = "bias",
    traced_share: float = 1.0,
) -> LogitUpdates:
    """Return every input's share of a readout; time is quadratic in L, since every pair has a vector, memory linear.

    Args:
        trace: A capture.
        readout: Given the model's outputs, returns one number per text. A readout that is not linear in the logits (a
            log-probability) is explained to first order; the rest is in the term `constant`.
        rule: The activation rule. What `silu` or `identity` leave unexplained shows in the conservation error.
        maps: `alti(trace, layer, rule, value_bias=value_bias)` of every layer but the last, for use with several
            readouts; by default each layer's is made a few targets at a time and never held. Not for models with shared
            attention, whose maps have parts.
        value_bias: As in `alti`.
        traced_share: Which share of a row's absolute weight is traced back through each layer: the targets that hold
            most are, until together they hold this share of every layer's row. Time falls with the number of targets
            left out. Their weight is the term `untraced`, and `untraced` bounds what the scores are off by.

    Raises:
        InputError: if the rule or the value bias does not exist, or the share is not between 0 and 1.
        UnsupportedModelError: if the model has a norm after each layer's sum (BERT), no final norm or no readable
            blocks.
    """
    share = real_number(traced_share, "traced_share")
    if not 0 <= share <= 1:
        raise InputError(f"traced_share must be a number from 0 to 1, found {share}")
    pull: Pull = partial(_pulled, trace, rule, value_bias)
    if maps is not None:
        _check_maps(trace, maps)
        pull = partial(_given, trace, maps)
    own = _own(trace, readout, trace.logit_direction(readout), rule, value_bias)
    return _traced(trace, [own], pull, share)[0]


@dataclass(frozen=True, eq=False)
class _Own:
    """What one readout draws from every layer, before it is traced back: rows of sources, and all that has no source.

    Attributes:
        rows: For each layer, q · T_j for every part of what its mixer read.
        rest: The other values of the answer, by name.
    """

    rows: tuple[Float[Tensor, "b _ L"], ...]
    rest: Mapping[str, Any]

    __repr__ = brief


def _own(
    trace: Trace,
    readout: Callable[[Any], Float[Tensor, " b"]],
    final: Gradients,
    rule: ActivationRule = "secant",
    value_bias: ValueBias = "bias",
) -> _Own:
    """Return what a readout draws from every layer, given its direction in the stream before the final norm."""
    if any(block.post_norm is not None for block in trace.layers):
        raise UnsupportedModelError(
            "ALTI-Logit follows a residual stream from the embeddings to one final norm, but this model normalises "
            "after each sum"
        )
    entering = [block.stream("ALTI-Logit") for block in trace.updates]
    dtype, device = torch.promote_types(final.at_embeddings.dtype, torch.float32), trace.device
    stream = final.embeddings.to(dtype)
    along = [
        q.to(device, dtype) for q in (*(final.at_streams or [final.at_embeddings] * len(entering)), final.at_embeddings)
    ]
    rows, biases = zip(
        *(_of_layer(block, q, rule, value_bias) for block, q in zip(trace.updates, along[:-1], strict=True)),
        strict=True,
    )
    bias = torch.stack(biases).sum(dim=0)
    leaving = [block.stream_out for block in trace.updates if block.stream_out is not None]
    carried = [_dot(q, stream_in.to(dtype)) for q, stream_in in zip(along, [*entering, stream], strict=True)]
    left = [_dot(q, stream_out.to(dtype)) for q, stream_out in zip(along[:-1], leaving, strict=True)]
    linear = first_order(in_texts(readout, trace.inputs), final.outputs, final.value)
    rest = final.value.double() - linear.double()  # nonzero if the readout is not linear in the logits
    rest = rest if final.bent is None else rest + final.bent  # or the logits are not linear in what the head returned
    constant = sum((held.to(device) for held in final.biases.values()), rest.to(device))
    terms = {
        "residual": carried[0],
        "bias": bias,
        "other": torch.stack(carried[1:]).sum(dim=0) - torch.stack(left).sum(dim=0),
        "constant": constant,
    }
    direct = added_directly(trace, along[:-1], rule, value_bias)
    kinds = tuple(branch.kind for branch in trace.branches)
    return _Own(rows, {"terms": terms, "value": final.value.to(device), "direct": direct, "kinds": kinds})


def _of_layer(
    block: Block, q: Float[Tensor, "b L E"], rule: ActivationRule, value_bias: ValueBias
) -> tuple[Float[Tensor, "b parts L"], Float[Tensor, " b"]]:
    """Return what a direction in the stream after a layer draws from its sources, and from its mixers' biases."""
    operator = with_value_bias(block.operator(), value_bias)
    pulled = [part.pull(q.to(operator.x), rule) for part in in_parts(block, operator, "ALTI-Logit")]
    return torch.stack(pulled, dim=1).to(q), _dot(q, operator.bias(rule))


def _traced(trace: Trace, owns: Sequence[_Own], pull: Pull, traced_share: float = 1.0) -> list[LogitUpdates]:
    """Return the shares of all inputs in several readouts, whose rows go back through the layers together."""
    chosen = TracedTargets(pull, traced_share)
    rows = direct = owns[0].rows[0].new_zeros(trace.shape[0], len(owns), 0, trace.shape[1])
    for number, block in reversed(list(enumerate(trace.updates))):
        sources = torch.stack([own.rows[number] for own in owns], dim=1)[:, :, None]
        if block.fed_by is not None:  # what came through the attention is a row of its own
            empty = torch.zeros_like(sources[..., :1, :])
            parts = (torch.cat([empty, sources[..., 1:, :]], -2), torch.cat([sources[..., :1, :], empty], -2))
            sources = torch.cat(parts, dim=2)
        if rows.shape[2]:
            sources = torch.cat([sources, chosen(block, rows)], dim=2)
        rows, drawn = passed_on(chosen, block.fed_by, sources)
        direct = drawn + torch.cat([torch.zeros_like(drawn[:, :, : drawn.shape[2] - direct.shape[2]]), direct], dim=2)
    scores = rows + direct
    require_no_padding(trace, scores.abs().amax(dim=(1, 2)))
    return [
        _answer(own, scores[:, place], None if chosen.all else (chosen.sums[:, place], chosen.sizes[:, place]))
        for place, own in enumerate(owns)
    ]


def _answer(own: _Own, scores: Float[Tensor, "b layer L"], left_out: tuple[Tensor, Tensor] | None) -> LogitUpdates:
    """Return the answer for one readout, given the sum and the absolute sum of the weights that were left out."""
    untraced = torch.zeros_like(own.rest["terms"]["bias"])
    if left_out is None:
        return LogitUpdates(scores, untraced=untraced, **own.rest)
    terms = own.rest["terms"] | {"untraced": left_out[0]}
    return LogitUpdates(scores, untraced=left_out[1], **{**own.rest, "terms": terms})


def _pulled(
    trace: Trace, rule: ActivationRule, value_bias: ValueBias, block: Block, rows: Float[Tensor, "b *n L"]
) -> Float[Tensor, "b *n parts L"]:
    return pulled_through(trace, trace.number_of(block), rows, rule, value_bias)


def _given(
    trace: Trace, maps: Sequence[Float[Tensor, "b L L"]], block: Block, rows: Float[Tensor, "b r n L"]
) -> Float[Tensor, "b r n 1 L"]:
    return torch.einsum("brni,bij->brnj", rows, maps[trace.number_of(block)].to(rows))[..., None, :]


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
    return (a.double() * b.to(a.device).double()).sum(dim=(1, 2))


def _scored(trace: Trace, readout: AnyReadout, variant: str) -> MethodResult:
    return _result(alti_logit(trace, number_of(readout)))


def _result(updates: LogitUpdates) -> MethodResult:
    terms = {"tokens": float(updates.scores[0].double().sum())}
    terms |= {name: float(term[0]) for name, term in updates.terms.items()}
    evidence: dict[str, Any] = {"conservation_error": float(updates.conservation_error[0]), "terms": terms}
    kinds = of_kinds(updates.direct, updates.kinds)
    return MethodResult(updates.scores[0], evidence | kinds | {"value": float(updates.value[0])})


def _scored_many(trace: Trace, readouts: Sequence[Readout]) -> list[MethodResult]:
    """Share one forward pass and the way back through the layers among all readouts."""
    layers, (_, length) = len(trace.layers), trace.shape
    require_room((len(readouts), 2 * layers, length), SCORES, "explain fewer positions, or shorten the text", copies=4)
    finals = directions(trace.model, readouts, **trace.inputs)
    owns = [_own(trace, one, final) for one, final in zip(readouts, finals, strict=True)]
    return [_result(one) for one in _traced(trace, owns, partial(_pulled, trace, "secant", "bias"))]


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
