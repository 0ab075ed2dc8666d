"""The layers of gated delta nets and of the attention around them, from their families' equations, one text, float64.

Every function takes a stock layer's weights and its input x, and returns (matrices per head, T, β, mean implicit
attention): what each source gives to each target, and what belongs to no source. Loops are those of `naive`; only
attention's p is given.
"""

import torch
import torch.nn.functional as F

from mambascope.operators.naive import contribution_vectors, gated_delta_matrix


def unit(vectors):
    """Vectors of length one, with the families' ε under the root."""
    return vectors / (vectors.pow(2).sum(dim=-1, keepdim=True) + 1e-6).sqrt()


def rms(vectors, epsilon):
    return (vectors.pow(2).mean(dim=-1, keepdim=True) + epsilon).sqrt()


def qwen3_next_parts(m, x):
    """Per k-head, in_proj_qkvz holds q, k, and the v and z of its value heads; in_proj_ba likewise b and a."""
    share = m.num_v_heads // m.num_k_heads
    q, k, v, z = [], [], [], []
    W, W_ba = m.in_proj_qkvz.weight, m.in_proj_ba.weight
    b, a, at, at_ba = [], [], 0, 0
    for _ in range(m.num_k_heads):
        for into, rows in ((q, m.head_k_dim), (k, m.head_k_dim), (v, share * m.head_v_dim), (z, share * m.head_v_dim)):
            into.append(W[at : at + rows])
            at += rows
        for into in (b, a):
            into.append(W_ba[at_ba : at_ba + share])
            at_ba += share
    W_q, W_k, W_v, W_z, W_b, W_a = (torch.cat(part) for part in (q, k, v, z, b, a))
    decay = -m.A_log.exp() * F.softplus(x @ W_a.t() + m.dt_bias)
    return (W_q, W_k, W_v), F.silu(x @ W_z.t()), (x @ W_b.t()).sigmoid(), decay, m.norm, m.out_proj


def qwen3_5_parts(m, x):
    W_qkv = m.in_proj_qkv.weight.split([m.key_dim, m.key_dim, m.value_dim])
    decay = -m.A_log.exp() * F.softplus(m.in_proj_a(x) + m.dt_bias)
    return W_qkv, F.silu(m.in_proj_z(x)), m.in_proj_b(x).sigmoid(), decay, m.norm, m.out_proj


def olmo_hybrid_parts(m, x):
    """β reaches from 0 to 2 where negative eigenvalues are allowed."""
    W_qkv = (m.q_proj.weight, m.k_proj.weight, m.v_proj.weight)
    decay = -m.A_log.exp() * F.softplus(m.a_proj(x) + m.dt_bias)
    beta = m.b_proj(x).sigmoid() * (2 if m.allow_neg_eigval else 1)
    return W_qkv, F.silu(m.g_proj(x)), beta, decay, m.o_norm, m.o_proj


def kimi_linear_parts(m, x):
    """A decay per head and key channel; the gate is a sigmoid."""
    W_qkv = (m.q_proj.weight, m.k_proj.weight, m.v_proj.weight)
    forget = m.forget_gate
    raw = (forget.f_b_proj(forget.f_a_proj(x)) + forget.dt_bias).unflatten(-1, (m.num_heads, m.head_dim))
    decay = -forget.A_log[0].exp() * F.softplus(raw)
    return W_qkv, m.g_b_proj(m.g_a_proj(x)).sigmoid(), m.b_proj(x).sigmoid(), decay, m.o_norm, m.o_proj


PARTS = {
    "qwen3_next": qwen3_next_parts,
    "qwen3_5": qwen3_5_parts,
    "qwen3_5_moe": qwen3_5_parts,
    "olmo_hybrid": olmo_hybrid_parts,
    "kimi_linear": kimi_linear_parts,
}


def delta_layer(family, m, x):
    """One gated delta net: convolution and SiLU on q, k and v, the rule, a norm per head, the gate, W_o."""
    W_qkv, gate, beta, decay, norm, out = PARTS[family](m, x)
    taps = m.conv1d.weight[:, 0].flip(1)
    u = x @ torch.cat(W_qkv).t()
    a = torch.zeros_like(u)
    for k in range(len(x)):
        for shift in range(min(taps.shape[1], k + 1)):
            a[k] += taps[:, shift] * u[k - shift]
    sizes = [len(W) for W in W_qkv]
    q, k, v = F.silu(a).split(sizes, dim=-1)
    heads = beta.shape[-1]
    width = k.shape[-1] // (m.num_k_heads if hasattr(m, "num_k_heads") else heads)
    q, k = (unit(part.unflatten(-1, (-1, width))) for part in (q, k))
    decay = decay[..., None] if decay.ndim == 2 else decay
    M = gated_delta_matrix(q / width**0.5, k, beta, decay)
    P = v.shape[-1] // heads
    o = torch.einsum("hij,jhp->ihp", M, v.unflatten(-1, (heads, P)))
    g = gate * (norm.weight / rms(o, norm.variance_epsilon)).flatten(1)
    values = slice(-v.shape[-1], None)
    skip = torch.zeros(v.shape[-1]).double()
    after = (taps[values], a[:, values], g)
    alpha, mean = M.repeat_interleave(P, dim=0), x.new_full((1, v.shape[-1]), 1 / v.shape[-1])
    T = contribution_vectors(alpha, skip, u[:, values], *after, out.weight)
    implicit = contribution_vectors(alpha, skip, torch.ones_like(v), *after, mean)[..., 0]
    return M, T, torch.zeros_like(x), implicit


def attention_layer(family, m, x, p, block):
    """One softmax attention layer with its output gate, its latent norm or the norm of its output."""
    heads, E = len(p), x.shape[-1]
    W_O = m.o_proj.weight
    P = W_O.shape[1] // heads
    gate, factor = torch.ones(len(x), heads * P).double(), torch.ones(len(x)).double()
    if family == "kimi_linear":
        a = m.kv_a_proj_with_mqa
        latent = (x @ a.weight.t() + a.bias)[:, : m.kv_lora_rank]
        factor = 1 / rms(latent, m.kv_a_layernorm.variance_epsilon)[:, 0]
        expand = m.kv_b_proj.weight.unflatten(0, (heads, -1))[:, m.qk_nope_head_dim :] * m.kv_a_layernorm.weight
        W_V, b_V = expand @ a.weight[: m.kv_lora_rank], expand @ a.bias[: m.kv_lora_rank]
    else:
        share = heads // (m.v_proj.weight.shape[0] // P)
        W_V = m.v_proj.weight.unflatten(0, (-1, P)).repeat_interleave(share, dim=0)
        b_V = m.v_proj.bias.unflatten(0, (-1, P)).repeat_interleave(share, dim=0)
    if family.startswith("qwen3"):
        gate = (x @ m.q_proj.weight.t() + m.q_proj.bias).unflatten(-1, (heads, 2, P))[:, :, 1].sigmoid().flatten(1)
    T, beta = torch.zeros(len(x), len(x), E).double(), m.o_proj.bias.repeat(len(x), 1)
    for i in range(len(x)):
        for j in range(len(x)):
            for h in range(heads):
                part = slice(h * P, (h + 1) * P)
                into = W_O[:, part] * gate[i, part] * p[h, i, j] * factor[j]
                T[i, j] += into @ (W_V[h] @ x[j])
                beta[i] += into @ b_V[h]
    implicit = torch.einsum("ihp,hij,j->ij", gate.unflatten(1, (heads, P)), p, factor) / (heads * P)
    if family == "olmo_hybrid":
        norm, y = block.post_attention_layernorm, T.sum(dim=1) + beta
        scale = norm.weight / rms(y, norm.variance_epsilon)
        return p, T * scale[:, None], beta * scale, implicit
    return p, T, beta, implicit
