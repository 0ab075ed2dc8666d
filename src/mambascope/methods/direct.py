"""What each mixer adds to a readout directly, and how much of the answer each kind of mixer carried.

With q the readout's direction in the residual stream, y_b the output of mixer b, its factor w_b included, and K a kind
of mixer,

    d_b = q_t · w_b y_b ,   d_K = Σ_{b of K} d_b ,   share_K = Σ_{b of K} |d_b| / Σ_b |d_b|

What a mixer does to what later layers read is in their d, not in its own. What a mixer passes on of shared attention
that feeds it (Zamba) is the attention's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mambascope.errors import UnsupportedModelError
from mambascope.families import Kind
from mambascope.methods.value_bias import ValueBias, with_value_bias
from mambascope.operators.affine_map import ActivationRule
from mambascope.trace import Trace
from mambascope.trace.parts import in_parts


def added_directly(
    trace: Trace,
    along: Sequence[Float[Tensor, "b L E"]],
    rule: ActivationRule = "secant",
    value_bias: ValueBias = "bias",
) -> Float[Tensor, "b mixer"]:
    """Return d of every mixer, in the order of `trace.branches`, in float64.

    Args:
        trace: A capture.
        along: The readout's direction in the stream after each layer of the stream.
        rule: The activation rule.
        value_bias: As in `alti`.

    Raises:
        UnsupportedModelError: if what a mixer read of shared attention cannot be told apart.
    """
    found = []
    for block, direction in zip(trace.updates, along, strict=True):
        q = direction.to(block.x.device)
        own = [(q.double() * branch.y.double() * branch.scale).sum(dim=(1, 2)) for branch in block.branches]
        if block.fed_by is not None:
            operator = with_value_bias(block.operator(), value_bias)
            _, fed = in_parts(block, operator, "ALTI-Logit")
            along_each = q.to(operator.x.dtype).split(len(operator.x))  # copies of one text have one map
            passed = torch.cat([fed.pull(one, rule).double().sum(dim=-1) for one in along_each])
            own = [passed, own[0] - passed]
        found += [one.to(trace.device) for one in own]
    return torch.stack(found, dim=-1)


def by_kind(values: Float[Tensor, "b mixer"], kinds: Sequence[Kind]) -> dict[Kind, Float[Tensor, " b"]]:
    """Return the sum of mixers' values for each kind."""
    return {kind: values[:, [one == kind for one in kinds]].sum(dim=-1) for kind in dict.fromkeys(kinds)}


def share_by_kind(direct: Float[Tensor, "b mixer"], kinds: Sequence[Kind]) -> dict[Kind, Float[Tensor, " b"]]:
    """Return each kind's share in the sizes of what all mixers add directly."""
    total = direct.abs().sum(dim=-1).clamp_min(1e-300)
    return {kind: size / total for kind, size in by_kind(direct.abs(), kinds).items()}


def evidence(direct: Float[Tensor, "b mixer"], kinds: Sequence[Kind], text: int = 0) -> dict[str, dict[Kind, float]]:
    """Return one text's diagnostics about kinds of mixer; none for a model whose mixers are all alike."""
    if len(set(kinds)) < 2:
        return {}
    return {
        "direct_by_kind": {kind: float(one[text]) for kind, one in by_kind(direct, kinds).items()},
        "share_by_kind": {kind: float(one[text]) for kind, one in share_by_kind(direct, kinds).items()},
    }


def evidence_of_kinds(
    trace: Trace, readout: Callable[[Any], Float[Tensor, " b"]], texts: int = 1
) -> list[dict[str, Any]]:
    """Return `evidence` for every text, for a method that has no directions of its own: one more forward pass.

    Empty for models whose mixers are all alike, whose layers read different tokens, or whose stream cannot be followed.

    Args:
        trace: A capture of texts, or of one text for several copies of it.
        readout: Given the model's outputs, returns one number per text or copy.
        texts: How many texts or copies there are.
    """
    kinds = [branch.kind for branch in trace.branches]
    none: list[dict[str, Any]] = [{} for _ in range(texts)]
    if len(set(kinds)) < 2 or len(trace.stages) > 1 or any(block.post_norm is not None for block in trace.layers):
        return none
    try:
        streams = [block.stream("the share of each kind of mixer") for block in trace.updates]
        final = trace.logit_direction(readout)
        direct = added_directly(trace, final.at_streams or [final.at_embeddings] * len(streams))
    except UnsupportedModelError:
        return none
    return [evidence(direct, kinds, text) for text in range(len(direct))]
