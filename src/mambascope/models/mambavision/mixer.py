"""MambaVision's mixer (Hatamizadeh & Kautz, arXiv 2407.08083, section 3.2): a branch with a scan, and one without.

    u, z = W_x x, W_z x ;   s, t = SiLU(conv_x u), SiLU(conv_z z) ;   y = W_o [ scan(s) ; t ]

Each half of the channels has a convolution that looks one token ahead, and the halves meet in W_o: there is no gate.
The reference code adds the bias of Δ twice, once in dt_proj and once in the scan, and its models were trained that way:
Δ = softplus(W_dt dt + 2 b_dt). Parts have the released names, so that released weights can be loaded.

The convolution and the scan are module-level functions, so that they can be intercepted.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mambascope.models.convolutions import neighbour_conv_fn
from mambascope.models.vim.mixer import mamba_selective_scan


class MambaVisionMixer(nn.Module):
    """One mixer."""

    def __init__(
        self,
        hidden_size: int,
        *,
        state_size: int = 8,
        conv_kernel: int = 3,
        expand: int = 1,
        time_step_rank: int | None = None,
        use_bias: bool = False,
        conv_bias: bool = False,
    ) -> None:
        """Create a mixer, by default with the sizes of the released models.

        Args:
            hidden_size: E, the width of the residual stream.
            state_size: N, the state size per channel.
            conv_kernel: K, the number of taps of the convolutions.
            expand: D/E, with D the channels of both halves together.
            time_step_rank: Rank of the projection that makes Δ; by default E/16 rounded up.
            use_bias: Whether in_proj and out_proj have biases.
            conv_bias: Whether the convolutions have biases; the released ones have none.
        """
        super().__init__()
        half, rank = expand * hidden_size // 2, time_step_rank or math.ceil(hidden_size / 16)
        self.in_proj = nn.Linear(hidden_size, 2 * half, bias=use_bias)
        self.x_proj = nn.Linear(half, rank + 2 * state_size, bias=False)
        self.dt_proj = nn.Linear(rank, half)
        rates = torch.arange(1, state_size + 1, dtype=torch.float32).log()
        self.A_log, self.D = nn.Parameter(rates.repeat(half, 1)), nn.Parameter(torch.ones(half))
        self.conv1d_x = nn.Conv1d(half, half, conv_kernel, groups=half, bias=conv_bias)
        self.conv1d_z = nn.Conv1d(half, half, conv_kernel, groups=half, bias=conv_bias)
        self.out_proj = nn.Linear(2 * half, hidden_size, bias=use_bias)

    def forward(self, hidden_states: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return the mixer's output."""
        return mixed(self, hidden_states)


def mixed(mixer: Any, hidden_states: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
    """Return the output of a mixer with these parts, whatever its class."""
    u, z = mixer.in_proj(hidden_states).transpose(1, 2).chunk(2, dim=1)
    s = neighbour_conv_fn(u, mixer.conv1d_x.weight[:, 0], mixer.conv1d_x.bias, activation="silu")
    t = neighbour_conv_fn(z, mixer.conv1d_z.weight[:, 0], mixer.conv1d_z.bias, activation="silu")
    (rank, state) = (mixer.dt_proj.in_features, mixer.A_log.shape[1])
    dt, B, C = mixer.x_proj(s.transpose(1, 2)).split([rank, state, state], dim=-1)
    o = mamba_selective_scan(
        s,
        mixer.dt_proj(dt).transpose(1, 2),
        -torch.exp(mixer.A_log),
        B.transpose(1, 2),
        C.transpose(1, 2),
        D=mixer.D,
        delta_bias=mixer.dt_proj.bias,
        delta_softplus=True,
    )
    return mixer.out_proj(torch.cat([o, t], dim=1).transpose(1, 2))
