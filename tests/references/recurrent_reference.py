"""Mixers of LFM2, RecurrentGemma, RWKV-4, xLSTM and MiniMax, dense and slow, from their weights and equations.

Nothing here is imported from the package. One text at a time, in the precision of the model: for a mixer and its input
x (L, E), `mixed` returns

    alpha (M, L, L), the matrices of the token mixing,
    T (L, L, F), what every source j gives to every target i, at [i, j],
    beta (L, F), what a target owes to no token.
"""

import torch
import torch.nn.functional as F


def short_convolution(mixer, x):
    """LFM2: y_i = W_o (C_i ⊙ (Σ_j w_{i-j} ⊙ B_j ⊙ (W_x x_j + b_x) + b)) + b_o."""
    width, length = x.shape[1], len(x)
    B, C, _ = mixer.in_proj(x).split(width, dim=-1)
    W_x = mixer.in_proj.weight[2 * width :]
    b_x = 0 if mixer.in_proj.bias is None else mixer.in_proj.bias[2 * width :]
    w = mixer.conv.weight[:, 0].flip(1)  # tap 0 on the current token
    alpha = x.new_zeros(width, length, length)
    for i in range(length):
        for j in range(max(0, i - w.shape[1] + 1), i + 1):
            alpha[:, i, j] = C[i] * w[:, i - j] * B[j]
    T = torch.einsum("fd,dij,jd->ijf", mixer.out_proj.weight, alpha, x @ W_x.t())
    inner = alpha.sum(dim=2).t() * b_x + (0 if mixer.conv.bias is None else C * mixer.conv.bias)
    return alpha, T, mixer.out_proj(inner)


def rg_lru(mixer, x):
    """RecurrentGemma: h_k = a_k h_{k-1} + √(1 - a_k²) i_k ⊙ s_k; the first token's root is 1."""
    unit, length = mixer.rg_lru, len(x)
    u, w = x @ mixer.linear_x.weight.t(), mixer.conv_1d.weight[:, 0].flip(1)
    K = w.shape[1]

    def convolved(values, k):
        return sum(w[:, d] * values[k - d] for d in range(K) if k - d >= 0)

    constant = mixer.linear_x.bias.expand_as(u)
    c = torch.stack([convolved(constant, k) + mixer.conv_1d.bias for k in range(length)])
    s = torch.stack([convolved(u, k) for k in range(length)]) + c

    def gate(weight, bias):
        blocks = s.view(length, len(weight), -1)
        return torch.stack([blocks[:, h] @ weight[h] + bias[h] for h in range(len(weight))], dim=1).flatten(1).sigmoid()

    entering = gate(unit.input_gate_weight, unit.input_gate_bias)
    a = torch.exp(-8 * gate(unit.recurrent_gate_weight, unit.recurrent_gate_bias) * F.softplus(unit.recurrent_param))
    alpha = x.new_zeros(u.shape[1], length, length)
    for i in range(length):
        for j in range(i + 1):
            written = entering[j] * (1 if j == 0 else (1 - a[j] ** 2).sqrt())
            for k in range(j + 1, i + 1):
                written = written * a[k]
            alpha[:, i, j] = written
    g, W_o = mixer.act_fn(mixer.linear_y(x)), mixer.linear_out.weight
    T = x.new_zeros(length, length, len(W_o))
    for i in range(length):
        for j in range(i + 1):
            reached = sum(alpha[:, i, j + d] * w[:, d] for d in range(K) if j + d <= i)
            T[i, j] = W_o @ (g[i] * reached * u[j])
    beta = mixer.linear_out(g * torch.einsum("dij,jd->id", alpha, c))
    return alpha, T, beta


def wkv(mixer, x):
    """RWKV-4's time mix: weights e^{k_j - (i-1-j) w} and e^{u + k_i}, divided by their sum."""
    length = len(x)
    before = torch.cat([torch.zeros_like(x[:1]), x[:-1]])

    def mixed(share):
        mu = share[0, 0]
        return x * mu + before * (1 - mu)

    key = mixer.key(mixed(mixer.time_mix_key))
    gate = mixer.receptance(mixed(mixer.time_mix_receptance)).sigmoid()
    alpha = x.new_zeros(key.shape[1], length, length)
    for i in range(length):
        weight = [(key[j] - (i - 1 - j) * mixer.time_decay.exp()).exp() for j in range(i)]
        weight.append((mixer.time_first + key[i]).exp())
        alpha[:, i, : i + 1] = torch.stack(weight, dim=1) / sum(weight)[:, None]
    mu, W_v, W_o = mixer.time_mix_value[0, 0], mixer.value.weight, mixer.output.weight
    T = x.new_zeros(length, length, len(W_o))
    for i in range(length):
        for j in range(i + 1):
            given = alpha[:, i, j] * (W_v @ (mu * x[j]))
            if j < i:  # the value of token j+1 holds a share of x_j
                given = given + alpha[:, i, j + 1] * (W_v @ ((1 - mu) * x[j]))
            T[i, j] = W_o @ (gate[i] * given)
    return alpha, T, torch.zeros_like(x)


def channel_mix(mixer, x):
    """RWKV-4's channel mix: y_i = σ(r_i) ⊙ W_v relu(k_i)², one factor relu(k_i) frozen."""
    length, mu = len(x), mixer.time_mix_key[0, 0]
    before = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
    key = mixer.key(x * mu + before * (1 - mu))
    share = mixer.time_mix_receptance[0, 0]
    gate = mixer.receptance(x * share + before * (1 - share)).sigmoid()
    T = x.new_zeros(length, length, x.shape[1])
    for i in range(length):
        T[i, i] = gate[i] * mixer.value(key[i].relu() * (mixer.key.weight @ (mu * x[i])))
        if i:
            T[i, i - 1] = gate[i] * mixer.value(key[i].relu() * (mixer.key.weight @ ((1 - mu) * x[i - 1])))
    alpha = x.new_zeros(2, length, length)  # what stays, and what is moved on by a token
    alpha[0] = torch.eye(length)
    alpha[1] = torch.eye(length).roll(1, dims=0).tril(-1)
    return alpha, T, torch.zeros_like(x)


def mlstm(mixer, x):
    """xLSTM: h_i = Σ_j e^{F_i - F_j + ĩ_j} (k_j · q_i) v_j / (max(|their sum|, 1) + ε e^m), then a norm per head.

    m is the largest exponent so far, that of an empty state at the start included.
    """
    length, config, norm = len(x), mixer.config, mixer.multihead_norm
    heads = config.num_heads

    if config.weight_mode == "single":
        q, k, v, o = mixer.q(x), mixer.k(x), mixer.v(x), mixer.ogate_preact(x)
        entering, forget = mixer.igate_preact(x), mixer.fgate_preact(x)
        W_v, b_v = mixer.v.weight, mixer.v.bias
    else:
        ends = (mixer.qk_dim, 2 * mixer.qk_dim, 2 * mixer.qk_dim + mixer.v_dim)
        q, k, v, o = mixer.qkv_opreact(x).tensor_split(ends, dim=-1)
        entering, forget = mixer.ifgate_preact(x).tensor_split((heads,), dim=-1)
        W_v = mixer.qkv_opreact.weight.tensor_split(ends)[2]
        b_v = None if mixer.qkv_opreact.bias is None else mixer.qkv_opreact.bias.tensor_split(ends)[2]
    cap = config.gate_soft_cap
    entering, kept = cap * torch.tanh(entering / cap), F.logsigmoid(cap * torch.tanh(forget / cap))
    q, k = (part.view(length, heads, -1) for part in (q, k))
    alpha = x.new_zeros(heads, length, length)
    for h in range(heads):
        for i in range(length):
            fall = [kept[j + 1 : i + 1, h].sum() for j in range(i + 1)]
            largest = max([kept[: i + 1, h].sum(), *(fall[j] + entering[j, h] for j in range(i + 1))])
            weight = [
                (fall[j] + entering[j, h]).exp() * (k[j, h] @ q[i, h]) * q.shape[-1] ** -0.5 for j in range(i + 1)
            ]
            size = sum(weight).abs().clamp_min(1) + config.eps * largest.exp()
            alpha[h, i, : i + 1] = torch.stack(weight) / size

    def normed(values, deviation):
        """Return each head's values less their mean, divided by a deviation (…, H), times the weight."""
        by_head = values.unflatten(-1, (heads, -1))
        by_head = (by_head - by_head.mean(dim=-1, keepdim=True)) / deviation[..., None]
        return by_head.flatten(-2) * norm.weight

    per_channel = alpha.repeat_interleave(len(W_v) // heads, dim=0)
    scanned = torch.einsum("dij,jd->id", per_channel, v).unflatten(-1, (heads, -1))
    deviation = (scanned.var(dim=-1, unbiased=False) + norm.eps).sqrt()
    o, given = o.sigmoid(), torch.einsum("dij,jd->ijd", per_channel, x @ W_v.t())
    T = (o[:, None] * normed(given, deviation[:, None])) @ mixer.out_proj.weight.t()
    constant = torch.zeros_like(v) if b_v is None else torch.einsum("dij,d->id", per_channel, b_v)
    inner = normed(constant, deviation) + (0 if norm.bias is None else norm.bias)
    return alpha, T, mixer.out_proj(o * inner)


def lightning_attention(mixer, x):
    """MiniMax: o_i = Σ_j (q_i · k_j) e^{-slope (i-j)} v_j, then one RMS norm and a σ gate."""
    length, heads = len(x), mixer.num_attention_heads
    packed = F.silu(mixer.qkv_proj(x)).view(length, heads, 3, -1)
    q, k, v = packed.unbind(2)
    alpha = x.new_zeros(heads, length, length)
    for h in range(heads):
        for i in range(length):
            for j in range(i + 1):
                alpha[h, i, j] = (q[i, h] @ k[j, h]) * torch.exp(-mixer.slope_rate[h, 0, 0] * (i - j))
    per_channel = alpha.repeat_interleave(v.shape[-1], dim=0)
    given = torch.einsum("dij,jd->ijd", per_channel, v.flatten(1))  # SiLU(a) is σ(a) a, and a is linear in x
    o = given.sum(dim=1)
    factor = mixer.norm.weight / (o.pow(2).mean(dim=-1, keepdim=True) + mixer.norm.variance_epsilon).sqrt()
    gate = mixer.output_gate(x).sigmoid() * factor
    return alpha, (gate[:, None] * given) @ mixer.out_proj.weight.t(), torch.zeros_like(x)


def attention(mixer, x, p, out):
    """Softmax attention with probabilities p (H, L, L); values may be shared by heads, and have a bias."""
    heads, width = len(p), mixer.head_dim
    W_v = mixer.v_proj.weight.view(-1, width, x.shape[1])
    W_v = W_v.repeat_interleave(heads // len(W_v), dim=0)
    by_head = out.weight.view(-1, heads, width)
    T = torch.einsum("fhp,hij,hpe,je->ijf", by_head, p, W_v, x)
    if mixer.v_proj.bias is None:
        beta = torch.zeros_like(x)
    else:
        b_v = mixer.v_proj.bias.view(-1, width)
        beta = torch.einsum("fhp,hij,hp->if", by_head, p, b_v.repeat_interleave(heads // len(b_v), dim=0))
    return p, T, beta + (0 if out.bias is None else out.bias)


#: The reference of every class of mixer but attention.
REFERENCES = {
    "Lfm2ShortConv": short_convolution,
    "Lfm2MoeShortConv": short_convolution,
    "RecurrentGemmaRecurrentBlock": rg_lru,
    "RwkvSelfAttention": wkv,
    "RwkvFeedForward": channel_mix,
    "xLSTMLayer": mlstm,
    "MiniMaxLightningAttention": lightning_attention,
}


def mixed(mixer, x, captured):
    """Return alpha, T and beta of a mixer for one text, given what it read; of attention, p as it was captured."""
    name = type(mixer).__name__
    if name in REFERENCES:
        return REFERENCES[name](mixer, x)
    return attention(mixer, x, captured["p"][0], mixer.out_proj if hasattr(mixer, "out_proj") else mixer.o_proj)
