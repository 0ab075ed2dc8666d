"""The stock models once more, dense and slow, from their weights and the papers' formulas: what tests hold methods to.

Nothing here is imported from the package. One text at a time, in the precision of the model, with plain autograd:

    a_k = Σ_δ w_δ ⊙ (W_x x_{k-δ} + b_x) + b,   s = SiLU(a)
    alpha_ij = Σ_n C_i[n] Π_{k=j+1..i} exp(Δ_k A[n]) Δ_j B_j[n],   o = alpha s + D s,   y = W_o (g ⊙ o) + b_o

for every channel d, Mamba-2's heads and groups repeated. `frozen` names the places where MambaLRP (arXiv 2406.07592,
section 4) puts a `.detach()`, and `gamma` the γ of its rule for linear and convolution layers in vision.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

#: MambaLRP's four rules: σ(a) of the SiLU, the scan's coefficients, half of the gate's product, the norms' statistics.
RULES = frozenset({"silu", "scan", "gate", "norm"})


@dataclass(frozen=True)
class Layer:
    """One mixer: what comes in, its coefficients per channel, what goes out."""

    residual: torch.Tensor  # (L, E), the stream before the block
    x: torch.Tensor  # (L, E), after the block's norm
    u: torch.Tensor  # (L, D), W_x x without its bias
    b_x: torch.Tensor  # (D,)
    taps: torch.Tensor  # (D, K), tap 0 on the current token
    conv_bias: torch.Tensor  # (D,)
    a: torch.Tensor  # (L, D)
    dt: torch.Tensor  # (L, D)
    A: torch.Tensor  # (D, N)
    B: torch.Tensor  # (L, D, N)
    C: torch.Tensor  # (L, D, N)
    skip: torch.Tensor  # (D,)
    alpha: torch.Tensor  # (D, L, L)
    gate: torch.Tensor  # (L, D), with Mamba-2's norm
    W_o: torch.Tensor  # (E, D)
    b_o: torch.Tensor  # (E,)
    y: torch.Tensor  # (L, E)


@dataclass(frozen=True)
class Run:
    """One text through one model."""

    embedded: torch.Tensor  # (L, E)
    layers: list[Layer]
    stream: torch.Tensor  # (L, E), before the final norm
    final_factor: torch.Tensor  # (L, E), by which the final norm multiplies
    logits: torch.Tensor  # (L, tokens)


def run(model, embedded, frozen=frozenset(), gamma=0.0) -> Run:
    """Return everything of one text's pass from its embedded tokens (L, E)."""
    stream, layers = embedded, []
    for block in model.backbone.layers:
        layers.append(_layer(model, block, stream, frozen, gamma))
        stream = stream + layers[-1].y
    norm = model.backbone.norm_f
    factor = norm.weight * _inverse_rms(stream, norm.variance_epsilon, frozen)
    return Run(embedded, layers, stream, factor, (stream * factor) @ model.lm_head.weight.t())


def runs(model, ids) -> list[Run]:
    """Return one run per row of token ids (b, L), without gradients."""
    with torch.no_grad():
        return [run(model, model.backbone.embeddings(row)) for row in ids]


def hidden_attention(dt, A, B, C):
    """Return alpha (D, L, L) by multiplying one decay after the other."""
    length = dt.shape[0]
    zero = torch.zeros_like(dt[0])
    alpha = [[zero] * length for _ in range(length)]
    for j in range(length):
        written = dt[j][:, None] * B[j]
        for i in range(j, length):
            written = written * torch.exp(dt[i][:, None] * A) if i > j else written
            alpha[i][j] = (C[i] * written).sum(dim=-1)
    return torch.stack([torch.stack(row) for row in alpha]).permute(2, 0, 1)


@torch.no_grad()
def contributions(layer, rule="secant"):
    """Return T (L, L, E): what every source j gives to every target i, in LaTIM's (arXiv 2502.15612) sense."""
    length, width = layer.u.shape
    T = torch.zeros(length, length, layer.W_o.shape[0], dtype=layer.u.dtype)
    for j in range(length):
        for k in range(j, min(length, j + layer.taps.shape[1])):
            part = layer.taps[:, k - j] * layer.u[j]
            active = {
                "secant": part * torch.sigmoid(layer.a[k]),
                "silu": part * torch.sigmoid(part),
                "identity": part,
            }[rule]
            for i in range(k, length):
                weight = layer.alpha[:, i, k] + (layer.skip if i == k else 0)
                T[i, j] += layer.W_o @ (layer.gate[i] * weight * active)
    return T


@torch.no_grad()
def biases(layer):
    """Return beta (L, E) under the secant: what the output owes to no token, from a pass of the biases alone."""
    constant = _convolved(layer.b_x.expand_as(layer.u), layer.taps) + layer.conv_bias
    s = constant * torch.sigmoid(layer.a)
    o = torch.einsum("dij,jd->id", layer.alpha, s) + layer.skip * s
    return (layer.gate * o) @ layer.W_o.t() + layer.b_o


@torch.no_grad()
def implicit_attention(layer):
    """Return diag(g) (alpha + D) diag(σ(a)) Toeplitz(w) per channel (D, L, L) (arXiv 2405.16504)."""
    length, width = layer.u.shape
    maps = []
    for d in range(width):
        toeplitz = torch.zeros(length, length, dtype=layer.u.dtype)
        for shift in range(min(length, layer.taps.shape[1])):
            toeplitz += torch.diag(layer.taps[d, shift].expand(length - shift), -shift)
        mixing = layer.alpha[d] + layer.skip[d] * torch.eye(length, dtype=layer.u.dtype)
        maps.append(torch.diag(layer.gate[:, d]) @ mixing @ torch.diag(torch.sigmoid(layer.a[:, d])) @ toeplitz)
    return torch.stack(maps)


@torch.no_grad()
def alti(layer, rule="secant"):
    """Return C (L, L): closeness of every source to the stream after the layer, rows divided by their sum."""
    T, after = contributions(layer, rule), layer.residual + layer.y
    length = len(after)
    C = torch.zeros(length, length, dtype=after.dtype)
    for i in range(length):
        T[i, i] += layer.residual[i]
        for j in range(i + 1):
            C[i, j] = max(0.0, float(after[i].abs().sum() - (after[i] - T[i, j]).abs().sum()))
        if C[i].sum() == 0:
            C[i, i] = 1.0  # not in the paper: no source brings the output closer
    return C / C.sum(dim=1, keepdim=True)


def gamma_relevance(x, weight, bias, relevance, gamma):
    """Return R_j of the generalised LRP-γ rule for a linear layer with inputs (L, J) and R_k (L, K).

    R_j = Σ_k c_jk / (Σ_j c_jk + c_0k) R_k, where for z_k > 0 c_jk = x_j⁺ (w + γ w⁺) + x_j⁻ (w + γ w⁻) and
    c_0k = b + γ b⁺; for z_k < 0 w⁺ and w⁻ change places and c_0k = b + γ b⁻ (arXiv 2108.12443; zennit's `Gamma`).
    """
    z = x @ weight.t() + bias
    plus, minus = weight.clamp(min=0), weight.clamp(max=0)
    out = torch.zeros_like(x)
    for k in range(len(weight)):
        for row in range(len(x)):
            agrees, other = (plus[k], minus[k]) if z[row, k] > 0 else (minus[k], plus[k])
            own = bias[k].clamp(min=0) if z[row, k] > 0 else bias[k].clamp(max=0)
            c = x[row].clamp(min=0) * (weight[k] + gamma * agrees) + x[row].clamp(max=0) * (weight[k] + gamma * other)
            out[row] += c / (c.sum() + bias[k] + gamma * own) * relevance[row, k]
    return out


def distance(ours, reference) -> float:
    """Return the largest difference over the largest value."""
    return float((ours - reference).detach().abs().max() / reference.detach().abs().max())


class _Gamma(torch.autograd.Function):
    """A linear layer whose gradient times input is the γ-rule's relevance."""

    @staticmethod
    def forward(ctx, x, weight, bias, gamma):
        z = x @ weight.t() + bias
        ctx.save_for_backward(x, weight, bias, z)
        ctx.gamma = gamma
        return z

    @staticmethod
    def backward(ctx, gradient):
        x, weight, bias, z = ctx.saved_tensors
        relevance = gamma_relevance(x, weight, bias, z * gradient, ctx.gamma)
        return torch.where(x == 0, 0.0, relevance / torch.where(x == 0, 1.0, x)), None, None, None


def _linear(x, weight, bias, gamma):
    bias = torch.zeros_like(weight[:, 0]) if bias is None else bias
    return _Gamma.apply(x, weight, bias, gamma) if gamma else x @ weight.t() + bias


def _convolved(u, taps):
    out = torch.zeros_like(u)
    for shift in range(min(len(u), taps.shape[1])):
        out = out + F.pad(u[: len(u) - shift] * taps[:, shift], (0, 0, shift, 0))
    return out


def _convolution(u, taps, bias, gamma):
    if not gamma:
        return _convolved(u, taps) + bias
    count = taps.shape[1]
    windows = F.pad(u, (0, 0, count - 1, 0)).unfold(0, count, 1).flip(-1)  # (L, D, K), current token first
    columns = [_Gamma.apply(windows[:, d], taps[d : d + 1], bias[d : d + 1], gamma) for d in range(u.shape[1])]
    return torch.cat(columns, dim=1)


def _silu(a, frozen):
    slope = torch.sigmoid(a)
    return a * (slope.detach() if "silu" in frozen else slope)


def _inverse_rms(x, epsilon, frozen):
    factor = 1 / torch.sqrt((x * x).mean(dim=-1, keepdim=True) + epsilon)
    return factor.detach() if "norm" in frozen else factor


def _layer(model, block, residual, frozen, gamma):
    mixer, norm = block.mixer, block.norm
    x = norm.weight * (residual * _inverse_rms(residual, norm.variance_epsilon, frozen))
    mamba2 = hasattr(mixer, "num_heads")
    D = mixer.intermediate_size
    W, b = mixer.in_proj.weight, mixer.in_proj.bias
    b = torch.zeros_like(W[:, 0]) if b is None else b
    projected = _linear(x, W, b, gamma)
    branch = slice(D, 2 * D) if mamba2 else slice(D)
    z = projected[:, :D] if mamba2 else projected[:, D:]
    convolved = projected[:, D : D + mixer.conv1d.weight.shape[0]] if mamba2 else projected[:, :D]
    taps = mixer.conv1d.weight[:, 0].flip(1)
    conv_bias = torch.zeros_like(taps[:, 0]) if mixer.conv1d.bias is None else mixer.conv1d.bias
    a = _convolution(convolved, taps, conv_bias, gamma)
    active = _silu(a, frozen)
    if mamba2:
        dt, A, B, C, skip = _mamba2_coefficients(mixer, projected, active)
    else:
        dt, A, B, C, skip = _mamba_coefficients(mixer, active, frozen, gamma)
    s = active[:, :D]
    alpha = hidden_attention(dt, A, B, C)
    alpha = alpha.detach() if "scan" in frozen else alpha
    o = torch.einsum("dij,jd->id", alpha, s) + skip * s
    product = o * _silu(z, frozen)
    product = 0.5 * product + 0.5 * product.detach() if "gate" in frozen else product
    gate = _silu(z, frozen)
    if mamba2:
        groups = product.unflatten(1, (-1, getattr(mixer.norm, "group_size", D)))  # before transformers 5.23: one group
        factor = _inverse_rms(groups, mixer.norm.variance_epsilon, frozen).expand_as(groups).flatten(1)
        product, gate = product * factor * mixer.norm.weight, gate * factor * mixer.norm.weight
    W_o, b_o = mixer.out_proj.weight, mixer.out_proj.bias
    y = _linear(product, W_o, b_o, gamma)
    return Layer(
        residual=residual,
        x=x,
        u=x @ W[branch].t(),
        b_x=b[branch],
        taps=taps[:D],
        conv_bias=conv_bias[:D],
        a=a[:, :D],
        dt=dt,
        A=A,
        B=B,
        C=C,
        skip=skip,
        alpha=alpha,
        gate=gate,
        W_o=W_o,
        b_o=torch.zeros_like(W_o[:, 0]) if b_o is None else b_o,
        y=y,
    )


def _mamba_coefficients(mixer, s, frozen, gamma):
    """Return Δ (L, D), A (D, N), B and C (L, D, N) and D (D,) of Mamba, with FalconMamba's norms where it has them."""
    rank, N = mixer.time_step_rank, mixer.ssm_state_size
    parts = _linear(s, mixer.x_proj.weight, None, gamma).split([rank, N, N], dim=1)
    if hasattr(mixer, "dt_layernorm"):
        parts = [part * _inverse_rms(part, mixer.rms_eps, frozen) for part in parts]
    dt = F.softplus(parts[0] @ mixer.dt_proj.weight.t() + mixer.dt_proj.bias)
    B, C = (part[:, None].expand(-1, dt.shape[1], -1) for part in parts[1:])
    return dt, -torch.exp(mixer.A_log), B, C, mixer.D


def _mamba2_coefficients(mixer, projected, active):
    """Return the same of Mamba-2: heads repeated over their channels, groups over their heads."""
    H, G, N, D = mixer.num_heads, mixer.n_groups, mixer.ssm_state_size, mixer.intermediate_size
    low, high = mixer.time_step_limit
    dt = F.softplus(projected[:, -H:] + mixer.dt_bias).clamp(low, high)
    B, C = (part.unflatten(1, (G, N)) for part in active[:, D:].split(G * N, dim=1))
    of_channel = torch.arange(D) // mixer.head_dim
    of_head = torch.arange(H) // (H // G)
    A = -torch.exp(mixer.A_log)
    B, C = B[:, of_head][:, of_channel], C[:, of_head][:, of_channel]
    return dt[:, of_channel], A[of_channel][:, None].expand(-1, N), B, C, mixer.D[of_channel]
