"""ALTI-Logit: each input's share of a logit (Ferrando et al., arXiv 2305.12535; on Mamba: LaTIM, arXiv 2502.15612).

With the statistics of the final norm frozen, the readout is linear in the residual stream, with a direction q_t at each
of its positions, and every layer's update of it is a sum over sources, Δ^λ_j = q_t · T^λ_tj. The share R^{λ-1}_jk of
the stream at j before layer λ comes from input k, so input k is credited with

    Δ^1_k + Σ_{λ>1} Σ_j Δ^λ_j R^{λ-1}_jk

The initial residual stream (the embedding at t), biases, other parts of the model (MLPs) and the constant of the final
norm and head are separate terms: scores and terms together sum to the readout. Signed, not normalised.

A hybrid's mixers are compared by what they add to the readout directly. With y_b the output of mixer b in layer λ, its
factor w_b included, and K a kind of mixer,

    d_b = q_t · w_b y_b ,   d_K = Σ_{b of K} d_b ,   share_K = Σ_{b of K} |d_b| / Σ_b |d_b|

The d_K sum to what scores and the term `bias` sum to, so with the other terms they sum to the readout; the shares sum
to one. What a mixer does to what later layers read is in their d, not in its own.

The bias of softmax attention's values is in the term `bias`; the Transformer paper's code puts it into the vectors, as
`value_bias="source"` does (see `mambascope.methods.alti`). The sum is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mambascope.brief import brief
from mambascope.errors import InputError, UnsupportedModelError
from mambascope.families import Kind
from mambascope.memory import require_room
from mambascope.methods.alti import ValueBias, alti, with_value_bias
from mambascope.methods.checked import checked
from mambascope.methods.method import LATIM, AnyReadout, Method, MethodResult, number_of
from mambascope.methods.targets import require_no_padding
from mambascope.numbering import shown
from mambascope.operators.affine_map import ActivationRule
from mambascope.readouts import Readout, first_order
from mambascope.trace import Trace
from mambascope.trace.differentiate import Gradients, directions
from mambascope.trace.running import in_texts


@dataclass(frozen=True, eq=False)
class LogitUpdates:
    """Every input's share of a readout, layer by layer.

    Attributes:
        scores: The share of each input in each layer's update; their sum over layers is the attribution.
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
        return self._added_up(self.direct)

    @property
    def shares(self) -> dict[Kind, Float[Tensor, " b"]]:
        """The share of each kind of mixer in the sizes of what all of them add to the readout directly."""
        total = self.direct.abs().sum(dim=-1).clamp_min(1e-300)
        return {kind: size / total for kind, size in self._added_up(self.direct.abs()).items()}

    def _added_up(self, of_mixers: Float[Tensor, "b mixer"]) -> dict[Kind, Float[Tensor, " b"]]:
        return {
            kind: of_mixers[:, [one == kind for one in self.kinds]].sum(dim=-1) for kind in dict.fromkeys(self.kinds)
        }

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
            readouts; by default computed one at a time.
        value_bias: As in `alti`.

    Raises:
        InputError: if the rule or the value bias does not exist.
        UnsupportedModelError: if the model has a norm after each layer's sum (BERT), no final norm or no readable
            blocks.
        MapTooLargeError: if a layer's map would not fit in memory.
    """
    return _updates(trace, readout, trace.logit_direction(readout), rule, maps, value_bias)


def _updates(
    trace: Trace,
    readout: Callable[[Any], Float[Tensor, " b"]],
    final: Gradients,
    rule: ActivationRule = "secant",
    maps: Sequence[Float[Tensor, "b L L"]] | None = None,
    value_bias: ValueBias = "bias",
) -> LogitUpdates:
    """Return every input's share of a readout, given its direction in the stream before the final norm."""
    if any(block.post_norm is not None for block in trace.layers):
        raise UnsupportedModelError(
            "ALTI-Logit follows a residual stream from the embeddings to one final norm, but this model normalises "
            "after each sum"
        )
    _check_maps(trace, maps)
    entering = [block.stream("ALTI-Logit") for block in trace.layers]
    dtype = torch.promote_types(final.at_embeddings.dtype, torch.float32)
    q, stream = final.at_embeddings.to(dtype), final.embeddings.to(dtype)
    updates, bias = [], torch.zeros_like(final.value, dtype=torch.float64)
    for layer in range(len(trace.layers)):
        operator = with_value_bias(trace.operator(layer), value_bias)
        updates.append(operator.pull(q.to(operator.x.dtype), rule))
        bias = bias + _dot(q, operator.bias(rule))
    leaving = [block.stream_out for block in trace.layers if block.stream_out is not None]
    between = zip([*entering[1:], stream], leaving, strict=True)
    rows = updates[-1][:, None]
    for layer in reversed(range(len(trace.layers) - 1)):
        back = alti(trace, layer, rule, value_bias=value_bias) if maps is None else maps[layer]
        rows = torch.cat([updates[layer][:, None], rows @ back], dim=1)
    require_no_padding(trace, rows.abs().amax(dim=1))
    linear = first_order(in_texts(readout, trace.inputs), final.outputs, final.value)
    rest = final.value.double() - linear.double()  # nonzero if the readout is not linear in the logits
    terms = {
        "residual": _dot(q, entering[0].to(dtype)),
        "bias": bias,
        "other": torch.stack([_dot(q, after.to(dtype) - left.to(dtype)) for after, left in between]).sum(dim=0),
        "constant": sum(final.biases.values(), torch.zeros_like(bias)) + rest,
    }
    direct = [_dot(q, branch.captured.y.to(dtype) * branch.scale) for branch in trace.branches]
    kinds = tuple(branch.kind for branch in trace.branches)
    return LogitUpdates(rows, terms, final.value, torch.stack(direct, dim=-1), kinds)


def _check_maps(trace: Trace, maps: Any) -> None:
    """Raise InputError unless these are maps of every layer but the last, if any are given."""
    (batch, length), layers = trace.shape, len(trace.layers) - 1
    if maps is None:
        return
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
    if len(set(updates.kinds)) > 1:
        evidence["direct_by_kind"] = {kind: float(one[0]) for kind, one in updates.by_kind.items()}
        evidence["share_by_kind"] = {kind: float(one[0]) for kind, one in updates.shares.items()}
    return MethodResult(updates.scores[0], evidence | {"value": float(updates.value[0])})


def _scored_many(trace: Trace, readouts: Sequence[Readout]) -> list[MethodResult]:
    """Share one forward pass and the layers' ALTI maps among all readouts."""
    length, width = trace.shape[1], trace.layers[0].x.shape[-1]
    for shape in ((len(trace.layers) - 1, length, length), (2 * len(readouts), length, width)):
        require_room(shape, torch.empty(0), "explain fewer positions, or shorten the text")
    maps = [alti(trace, layer) for layer in range(len(trace.layers) - 1)]
    finals = directions(trace.model, readouts, **trace.inputs)
    pairs = zip(readouts, finals, strict=True)
    return [_result(_updates(trace, one, final, maps=maps)) for one, final in pairs]


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
        by_place=False,
        by_stage=False,
        answers=1,
        column="relevance",
    ),
]
