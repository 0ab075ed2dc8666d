"""What the families of gated delta nets share: how a call of the rule is read, and how a mixer becomes an affine map.

q, k and v pass through one convolution; q and k are then normalised, k-heads serve several value heads, and a norm per
head precedes the gate. Only the values carry tokens: q, k, β and the decay are frozen coefficients.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mambascope.errors import InputError
from mambascope.families.family import Captured, Family, ScanCall, weights
from mambascope.families.held import Held, delta_rule
from mambascope.operators.affine import AffineMixer
from mambascope.operators.convolution import CausalConvolution
from mambascope.operators.gated_delta import GatedDeltaRule

#: ε under the root of the norms of q and k, which the functions of all families have.
EPSILON = 1e-6

#: Arguments by which a call says that several texts lie in one row.
PACKED = ("cu_seqlens", "cu_seq_lens_q", "cu_seq_lens_k", "seq_idx")


def read(
    query: Float[Tensor, "b L G N"],
    key: Float[Tensor, "b L G N"],
    value: Float[Tensor, "b L H P"],
    g: Float[Tensor, "b L H *n"],
    beta: Float[Tensor, "b L H"],
    use_qk_l2norm_in_kernel: bool = False,
    **others: Any,
) -> ScanCall:
    """Read one call of `torch_chunk_gated_delta_rule` or `chunk_kimi_delta_attention`, which return (o, state).

    Raises:
        InputError: if several texts lie in one row.
    """
    packed = [name for name in PACKED if others.get(name) is not None]
    if packed:
        raise InputError(
            f"the texts are packed into one row ({packed[0]}), which mambascope cannot read in a gated delta net; pass "
            "each text in a row of its own"
        )
    working = torch.promote_types(query.dtype, torch.float32)
    q, k, decay, beta = (part.to(working) for part in (query, key, g, beta))
    if use_qk_l2norm_in_kernel:
        q, k = (part * torch.rsqrt(part.pow(2).sum(dim=-1, keepdim=True) + EPSILON) for part in (q, k))
    return ScanCall(
        s=value.flatten(2),
        coefficients={
            "q": q * q.shape[-1] ** -0.5,
            "k": k,
            "beta": beta,
            "decay": decay[..., None] if decay.ndim == 3 else decay,
            "D": q.new_zeros(value.shape[2] * value.shape[3]),
        },
        give=lambda o: (o.reshape(value.shape).to(query.dtype), None),
        take=lambda result: result[0].flatten(2),
    )


def gated_delta(consumed: dict[str, Tensor], dtype: torch.dtype) -> GatedDeltaRule:
    """Return the operator of the captured call."""
    return GatedDeltaRule(
        **{name: consumed[name].to(dtype) for name in ("q", "k", "beta", "decay")}, skip=consumed["D"].to(dtype)
    )


def rule_holds(mixer: Any) -> Held:
    """Return what the rule of a mixer holds, whose value heads have one decay each."""
    return delta_rule(mixer.num_v_heads, mixer.head_k_dim, mixer.head_v_dim)


def norm_factor(o: Float[Tensor, "*s P"], norm: Any) -> Float[Tensor, "*s P"]:
    """Return γ / rms(o), by which the norm multiplies the output of one head before the gate."""
    scale = torch.rsqrt(o.pow(2).mean(dim=-1, keepdim=True) + norm.variance_epsilon)
    return weights(norm.weight, o.dtype) * scale


def norm_is_first(norm: Any) -> bool:
    """Return True: the norm reads the rule's output before the gate."""
    return True


def mixer_map(
    mixer: Any,
    captured: Captured,
    dtype: torch.dtype,
    *,
    W_v: Float[Tensor, "D E"],
    z: Callable[[Float[Tensor, "b L E"]], Float[Tensor, "b L D"]],
    norm: Any,
    out: Any,
    activation: Callable[[Tensor], Tensor] = F.silu,
) -> AffineMixer:
    """Return the mixer's affine map.

    Padding is zero when it enters, and the convolution has no bias, so that it writes nothing.

    Args:
        mixer: The mixer; its convolution runs over q, k and v, in this order.
        captured: What was captured from it.
        dtype: Precision of the map.
        W_v: The rows of the input projection that lead to the values.
        z: Given x, returns the gate before its activation, which is used if the norm was not called with it.
        norm: The norm per head.
        out: The output projection.
        activation: What is applied to z.
    """
    scan = gated_delta(captured.scan, dtype)
    x = captured.x.to(dtype)
    x = x if captured.mask is None else x * captured.mask[..., None]
    values = slice(-scan.skip.shape[0], None)
    by_head = rearrange(captured.scan["o"].to(dtype), "b L (h p) -> b L h p", h=scan.maps)
    gate = captured.scan.get("gate")
    return AffineMixer(
        x=x,
        scan=scan,
        W_x=weights(W_v, dtype),
        b_x=None,
        convolution=CausalConvolution(weights(mixer.conv1d.weight, dtype, values)[:, 0].flip(1)),
        conv_bias=weights(mixer.conv1d.bias, dtype, values),
        gate=activation(z(x) if gate is None else gate.to(dtype)) * norm_factor(by_head, norm).flatten(2),
        W_o=weights(out.weight, dtype),
        b_o=weights(out.bias, dtype),
    )


def linear(x: Float[Tensor, "b L E"], layer: Any) -> Float[Tensor, "b L F"]:
    """Return a linear layer's output in the precision of x."""
    return F.linear(x, weights(layer.weight, x.dtype), weights(layer.bias, x.dtype))


#: A family of gated delta nets; what is its own is given with it.
DeltaFamily = partial(
    Family,
    kind="delta",
    scan_function="torch_chunk_gated_delta_rule",
    token_axis=1,
    read=read,
    scan=gated_delta,
    norm_factor=norm_factor,
    norm_first=norm_is_first,
    holds=rule_holds,
)
