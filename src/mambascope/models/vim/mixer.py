"""Vim's mixer: Mamba's, with a second scan that reads the tokens backwards (arXiv 2401.09417, algorithm 1).

The two directions share in_proj, with the gate z, and out_proj; each has its own convolution, Δ, B, C, A and D.

    y = W_o ( SiLU(z) ⊙ ( o→ + flip(o←) ) ),   halved where the model averages its directions

The convolution and the scan are module-level functions with the signatures of transformers', so that they can be
intercepted by captures and propagation rules, or replaced by compiled training code. By default the scan is the
recurrence of `mambascope.operators`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mambascope.models.vim.configuration import VisionMambaConfig
from mambascope.operators.recurrence import channel_recurrence


def mamba_selective_scan(
    hidden_states: Float[Tensor, "b D L"],
    dt: Float[Tensor, "b D L"],
    A: Float[Tensor, "D N"],
    B: Float[Tensor, "b N L"],
    C: Float[Tensor, "b N L"],
    D: Float[Tensor, " D"] | None = None,
    z: Float[Tensor, "b D L"] | None = None,
    delta_bias: Float[Tensor, " D"] | None = None,
    delta_softplus: bool = False,
    **_: Any,
) -> Float[Tensor, "b D L"]:
    """Return Mamba-1's scan with its skip and gate, computed in at least float32; differentiable.

    Args:
        hidden_states: s, the scan's input.
        dt: Δ before its bias and softplus.
        A: Negative decay rates.
        B: Write vectors.
        C: Read vectors.
        D: The skip; none if not given.
        z: The gate before its SiLU; none if not given.
        delta_bias: Bias of Δ.
        delta_softplus: Whether Δ goes through a softplus.
    """
    working = torch.promote_types(hidden_states.dtype, torch.float32)
    s, step, write, read = (part.transpose(1, 2).to(working) for part in (hidden_states, dt, B, C))
    step = step if delta_bias is None else step + delta_bias.to(working)
    step = F.softplus(step) if delta_softplus else step
    o = channel_recurrence(step * s, step, A.to(working), write, read)
    o = o if D is None else o + s * D.to(working)
    o = o.transpose(1, 2)
    return (o if z is None else o * F.silu(z.to(working))).to(hidden_states.dtype)


def causal_conv1d_fn(
    hidden_states: Float[Tensor, "b D L"],
    weight: Float[Tensor, "D K"],
    bias: Float[Tensor, " D"] | None = None,
    activation: str | None = None,
    **_: Any,
) -> Float[Tensor, "b D L"]:
    """Return the causal depthwise convolution, or its SiLU if `activation` is `silu` or `swish`.

    Computed as a sum of shifted products: on CPUs, PyTorch's grouped convolution has a slow backward pass.
    """
    taps, length = weight.shape[1], hidden_states.shape[2]
    padded = F.pad(hidden_states, (taps - 1, 0))
    shifted = [padded[..., k : k + length] * weight[:, k, None] for k in range(taps)]
    a = sum(shifted[1:], start=shifted[0] if bias is None else shifted[0] + bias[:, None])
    return F.silu(a) if activation in ("silu", "swish") else a


class VimMixer(nn.Module):
    """One bidirectional mixer; the backward direction's parts have `_b` in their names, as in the released code."""

    def __init__(self, config: VisionMambaConfig) -> None:
        super().__init__()
        E, D, N, rank = config.hidden_size, config.intermediate_size, config.state_size, config.time_step_rank
        self.divide_output = config.divide_output
        self.time_step_rank, self.state_size = rank, N
        self.in_proj = nn.Linear(E, 2 * D, bias=config.use_bias)
        self.out_proj = nn.Linear(D, E, bias=config.use_bias)
        for suffix in ("", "_b"):
            self.add_module(f"conv1d{suffix}", nn.Conv1d(D, D, config.conv_kernel, groups=D))
            self.add_module(f"x_proj{suffix}", nn.Linear(D, rank + 2 * N, bias=False))
            self.add_module(f"dt_proj{suffix}", nn.Linear(rank, D))
            self.register_parameter(f"D{suffix}", nn.Parameter(torch.ones(D)))
        rates = torch.arange(1, N + 1, dtype=torch.float32).log().repeat(D, 1)
        self.A_log, self.A_b_log = nn.Parameter(rates), nn.Parameter(rates.clone())

    def forward(self, hidden_states: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return the mixer's output."""
        u, z = self.in_proj(hidden_states).transpose(1, 2).chunk(2, dim=1)
        forwards = self._scan(u, z, "", self.A_log)
        backwards = self._scan(u.flip(-1), z.flip(-1), "_b", self.A_b_log).flip(-1)
        total = forwards + backwards
        return self.out_proj((total / 2 if self.divide_output else total).transpose(1, 2))

    def _scan(self, u: Tensor, z: Tensor, suffix: str, A_log: Tensor) -> Float[Tensor, "b D L"]:
        """Return one direction's gated scan, with tokens in that direction's order."""
        conv: Any = self.get_submodule(f"conv1d{suffix}")
        dt_proj: Any = self.get_submodule(f"dt_proj{suffix}")
        s = causal_conv1d_fn(u, conv.weight.squeeze(1), conv.bias, activation="silu")
        made = self.get_submodule(f"x_proj{suffix}")(s.transpose(1, 2))
        dt, B, C = made.split([self.time_step_rank, self.state_size, self.state_size], dim=-1)
        return mamba_selective_scan(
            s,
            F.linear(dt, dt_proj.weight).transpose(1, 2),
            -torch.exp(A_log),
            B.transpose(1, 2),
            C.transpose(1, 2),
            D=self.get_parameter(f"D{suffix}"),
            z=z,
            delta_bias=dt_proj.bias,
            delta_softplus=True,
        )
