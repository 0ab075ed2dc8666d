"""VMamba's mixer, SS2D (Liu et al., arXiv 2401.10166): patches convolved as a grid, then scanned in four orders.

    s = SiLU(conv2d(W_x x)) ;   o = Σ_r P_rᵀ scan_r(P_r s) ;   y = W_o ( LN(o) ⊙ SiLU(W_z x) )

P_r brings the patches into an order of the cross-scan; each order has its own Δ, B, C, A and D. The released models
(`noz`) have no gate. Parts have the released names (`v05`), so that released weights can be loaded. Patches are a grid
with channels last, whereas some released models have channels first: the weights are the same.

The convolution, the scan and the gate are module-level functions, so that they can be intercepted.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mambascope.models.convolutions import neighbour_conv_fn
from mambascope.models.vim.mixer import mamba_selective_scan
from mambascope.models.vmamba.cross_scan import NAMES, cross_scan


def gate_fn(o: Float[Tensor, "*b D"], z: Float[Tensor, "*b D"]) -> Float[Tensor, "*b D"]:
    """Return o ⊙ SiLU(z)."""
    return o * F.silu(z)


class SS2D(nn.Module):
    """One mixer."""

    def __init__(
        self,
        hidden_size: int,
        *,
        intermediate_size: int | None = None,
        state_size: int = 1,
        conv_kernel: int = 3,
        time_step_rank: int | None = None,
        gated: bool = False,
        use_bias: bool = False,
        conv_bias: bool = False,
        norm_epsilon: float = 1e-5,
    ) -> None:
        """Create a mixer, by default with the sizes of the released `v05_noz` models.

        Args:
            hidden_size: E, the width of the residual stream.
            intermediate_size: D, the number of channels; by default E.
            state_size: N, the state size per channel.
            conv_kernel: Side of the convolution's kernel, an odd number.
            time_step_rank: Rank of the projection that makes Δ; by default E/16 rounded up.
            gated: Whether in_proj also makes a gate.
            use_bias: Whether in_proj and out_proj have biases.
            conv_bias: Whether the convolution has one.
            norm_epsilon: ε of out_norm.
        """
        super().__init__()
        D, N, orders = intermediate_size or hidden_size, state_size, len(NAMES)
        rank = time_step_rank or math.ceil(hidden_size / 16)
        self.in_proj = nn.Linear(hidden_size, 2 * D if gated else D, bias=use_bias)
        self.conv2d = nn.Conv2d(D, D, conv_kernel, padding=conv_kernel // 2, groups=D, bias=conv_bias)
        spread = rank**-0.5
        self.x_proj_weight = nn.Parameter(torch.empty(orders, rank + 2 * N, D).uniform_(-(D**-0.5), D**-0.5))
        self.dt_projs_weight = nn.Parameter(torch.empty(orders, D, rank).uniform_(-spread, spread))
        self.dt_projs_bias = nn.Parameter(torch.full((orders, D), math.log(math.expm1(0.01))))
        rates = torch.arange(1, N + 1, dtype=torch.float32).log()
        self.A_logs, self.Ds = nn.Parameter(rates.repeat(orders * D, 1)), nn.Parameter(torch.ones(orders * D))
        self.out_norm = nn.LayerNorm(D, eps=norm_epsilon)
        self.out_proj = nn.Linear(D, hidden_size, bias=use_bias)

    @property
    def intermediate_size(self) -> int:
        """D, the number of channels."""
        return self.dt_projs_bias.shape[1]

    def forward(self, hidden_states: Float[Tensor, "b H W E"]) -> Float[Tensor, "b H W E"]:
        """Return the mixer's output."""
        (_, rows, columns, _), D = hidden_states.shape, self.intermediate_size
        u, z = self.in_proj(hidden_states).split([D, self.in_proj.out_features - D], dim=-1)
        s = neighbour_conv_fn(
            u.permute(0, 3, 1, 2), self.conv2d.weight.squeeze(1), self.conv2d.bias, activation="silu"
        ).flatten(2)
        orders = cross_scan(rows, columns, s.device)
        merged = sum((self._scan(s, number, order) for number, order in enumerate(orders)), start=torch.zeros_like(s))
        normed = self.out_norm(merged.transpose(1, 2)).unflatten(1, (rows, columns))
        return self.out_proj(gate_fn(normed, z) if z.shape[-1] else normed)

    def _scan(self, s: Float[Tensor, "b D L"], number: int, order: Tensor) -> Float[Tensor, "b D L"]:
        """Return one order's scan, with patches back in their own order."""
        (orders, D, rank), N = self.dt_projs_weight.shape, self.A_logs.shape[1]
        read = s[:, :, order]
        dt, B, C = (self.x_proj_weight[number] @ read).split([rank, N, N], dim=1)
        o = mamba_selective_scan(
            read,
            self.dt_projs_weight[number] @ dt,
            -torch.exp(self.A_logs.view(orders, D, N)[number]),
            B,
            C,
            D=self.Ds.view(orders, D)[number],
            delta_bias=self.dt_projs_bias[number],
            delta_softplus=True,
            order=order,
        )
        return o[:, :, order.argsort()]
