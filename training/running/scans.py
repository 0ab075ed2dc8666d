"""The stock models, and our Vision Mamba, with mixers that can be trained on a CPU.

transformers calls one module-level function per architecture for the selective scan; its CPU fallback keeps a graph
node per token. While `fast_scans` is in force those scans are the recurrences of `mambascope.operators.recurrence` (or
their compiled twins, `training.running.fused`), the short convolution is a sum of shifted products (the CPU library's
grouped convolution is slow backwards), and Mamba-1's and Vim's mixers keep channels innermost throughout instead of
transposing before and after every step. Parameters, results and gradients are the stock classes'.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from transformers.models.mamba.modeling_mamba import MambaMixer

from mambascope.models.vim.mixer import VimMixer
from mambascope.operators.decays import decay_from
from mambascope.operators.recurrence import channel_recurrence, head_recurrence
from training.running.fused import fused_channel_recurrence, fused_head_recurrence

#: Whether the processor has the wide vectors with which the compiled scan of heads is faster than matrix products.
WIDE = torch.backends.cpu.get_cpu_capability() == "AVX512"

#: Tokens per chunk of the gated delta rule.
DELTA_CHUNK = 32


@contextmanager
def fast_scans() -> Iterator[None]:
    """Swap Mamba-1's and Vim's mixers, and scans and short convolutions of the others, until the end of the block."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(MambaMixer, "forward", mamba_mixer))
        stack.enter_context(patch.object(VimMixer, "forward", vim_mixer))
        for name in ("mamba2", "bamba", "qwen3_5"):
            code = f"transformers.models.{name}.modeling_{name}"
            stack.enter_context(patch(f"{code}.causal_conv1d_fn", transposed_convolution))
            scan = (
                ("torch_chunk_gated_delta_rule", delta_scan) if name == "qwen3_5" else ("mamba2_chunk_scan", chunk_scan)
            )
            stack.enter_context(patch(f"{code}.{scan[0]}", scan[1]))
        yield


def mamba_mixer(mixer: MambaMixer, hidden_states: Tensor, **_: Any) -> Tensor:
    """Return what Mamba-1's mixer returns for unpadded (b, L, hidden) inputs without a cache, the scan in float32."""
    x, z = mixer.in_proj(hidden_states).chunk(2, dim=-1)
    sizes = mixer.time_step_rank, mixer.ssm_state_size
    out = selective_scan(x, mixer.conv1d, mixer.x_proj, mixer.dt_proj, mixer.A_log, mixer.D, sizes)
    return mixer.out_proj(out * F.silu(z))


def vim_mixer(mixer: Any, hidden_states: Tensor) -> Tensor:
    """Return what Vim's mixer returns for (b, L, hidden) inputs, the scans in float32."""
    x, z = mixer.in_proj(hidden_states).chunk(2, dim=-1)
    sizes = mixer.time_step_rank, mixer.state_size
    forwards = selective_scan(x, mixer.conv1d, mixer.x_proj, mixer.dt_proj, mixer.A_log, mixer.D, sizes)
    backwards = selective_scan(
        x.flip(1), mixer.conv1d_b, mixer.x_proj_b, mixer.dt_proj_b, mixer.A_b_log, mixer.D_b, sizes
    ).flip(1)
    total = (forwards + backwards) * F.silu(z)
    return mixer.out_proj(total / 2 if mixer.divide_output else total)


def selective_scan(
    x: Tensor,
    convolution: Any,
    x_proj: Any,
    dt_proj: Any,
    A_log: Tensor,
    D: Tensor,
    sizes: tuple[int, int],
) -> Tensor:
    """Return Mamba-1's convolution and scan, with the skip, of (b, L, D) inputs; `sizes` are Δ's rank and N."""
    u = causal_convolution(x, convolution.weight.squeeze(1), convolution.bias)
    rank, N = sizes
    dt, B, C = x_proj(u).split([rank, N, N], dim=-1)
    step = F.softplus(F.linear(dt, dt_proj.weight).float() + dt_proj.bias)
    recurrence = fused_channel_recurrence or channel_recurrence
    return recurrence(step * u, step, -torch.exp(A_log), B.float(), C.float()) + u * D


def chunk_scan(
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
    **_: Any,
) -> Tensor:
    """Return Mamba-2's scan of (b, L, H, P) inputs, decays in float32; there is no final state, training needs none."""
    assert dt_softplus
    assert dt_bias is not None
    assert D is not None
    assert initial_states is None
    assert not return_final_states
    step = F.softplus(dt.float() + dt_bias).clamp(*dt_limit)
    fits = WIDE and hidden_states.shape[-1] % 16 == 0 and B.shape[2] == 1
    out = ((fused_head_recurrence if fits else None) or head_recurrence)(
        hidden_states * step[..., None], step, A, B.float(), C.float()
    )
    return out + hidden_states * D[:, None]


def delta_scan(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    g: Tensor,
    beta: Tensor,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    **_: Any,
) -> tuple[Tensor, None]:
    """Return the gated delta rule's answers, (b, L, H, P), in float32; there is no final state, training needs none.

    With a_t = e^{g_t} the state is S_t = a_t S_{t−1} (I − β_t k_t k_tᵀ) + β_t v_t k_tᵀ and the answer S_t q_t. In
    chunks of s tokens what is written, w_t = β_t (v_t − a_t S_{t−1} k_t), follows from a triangular system of s
    equations, and states are passed from chunk to chunk (S. Yang et al. Gated delta networks. 2025. Section 3.3).
    """
    assert use_qk_l2norm_in_kernel
    assert initial_state is None
    assert not output_final_state
    L, H = value.shape[1:3]
    query, key = (unit(tensor.float()).repeat_interleave(H // tensor.shape[2], dim=2) for tensor in (query, key))
    query = query * query.shape[-1] ** -0.5
    size = min(DELTA_CHUNK, L)
    q, k, v, fall, beta = (
        rearrange(F.pad(tensor.float(), [0, 0, 0, 0, 0, -L % size]), "b (c s) h p -> c b h s p", s=size)
        for tensor in (query, key, value, g[..., None], beta[..., None])
    )
    fall = fall.cumsum(dim=3)
    causal = torch.ones(size, size, dtype=torch.bool, device=v.device).tril()
    decay = decay_from((fall - fall.transpose(-1, -2)).masked_fill(~causal, -torch.inf))
    since = decay_from(fall)
    system = (beta * k @ k.transpose(-1, -2)) * decay
    sides = torch.cat([beta * v, beta * since * k], dim=-1)
    written, read_before = torch.linalg.solve_triangular(system, sides, upper=False, unitriangular=True).split(
        [v.shape[-1], k.shape[-1]], dim=-1
    )
    to_end = (k * decay_from(fall[..., -1:, :] - fall)).transpose(-1, -2)
    state = torch.zeros_like(to_end[0] @ written[0])
    entering, corrected = [], []
    for chunk in range(len(v)):
        entering.append(state)
        corrected.append(written[chunk] - read_before[chunk] @ state)
        state = since[chunk, ..., -1:, :] * state + to_end[chunk] @ corrected[-1]
    inside = ((q @ k.transpose(-1, -2)) * decay) @ torch.stack(corrected)
    out = inside + (q * since) @ torch.stack(entering)
    return rearrange(out, "c b h s p -> b (c s) h p")[:, :L].to(value.dtype), None


def unit(vectors: Tensor, eps: float = 1e-6) -> Tensor:
    """Return vectors of length one, as the gated delta rule's kernels make them of keys and queries."""
    return vectors * torch.rsqrt(vectors.pow(2).sum(-1, keepdim=True) + eps)


def transposed_convolution(
    hidden_states: Tensor, weight: Tensor, bias: nn.Parameter | None, activation: str | None = None, **_: Any
) -> Tensor:
    """Return `causal_convolution` of (b, D, L) inputs."""
    assert activation in ("silu", "swish")
    return rearrange(causal_convolution(rearrange(hidden_states, "b D L -> b L D"), weight, bias), "b L D -> b D L")


def causal_convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return silu of the causal convolution of (b, L, D) inputs with (D, K) weights."""
    K, L = weight.shape[1], x.shape[1]
    padded = F.pad(x, (0, 0, K - 1, 0))
    out = sum((padded[:, k : k + L] * weight[:, k] for k in range(K)), 0.0 if bias is None else bias)
    return F.silu(out).to(x.dtype)
