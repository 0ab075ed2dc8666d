"""Relevance through whole models from their equations: plain products with Jacobians, one text, no autograd, no hooks.

Every function runs a model forward from its weights alone, keeps the numbers that the rules hold constant, and goes
back from one logit: c is what a unit of each number adds to the logit under the rules, so that the relevance of a
number is itself times c. It returns the relevance of each token, and that of everything that is added and no token.
"""

import math

import torch

MASKED = -1e300


def silu(a):
    return a / (1 + torch.exp(-a))


def sigma(a):
    return 1 / (1 + torch.exp(-a))


def causal_softmax(scores):
    length = scores.shape[-1]
    later = torch.ones(length, length, dtype=torch.bool).triu(1)
    e = torch.exp(scores.masked_fill(later, MASKED) - scores.masked_fill(later, MASKED).amax(dim=-1, keepdim=True))
    return e / e.sum(dim=-1, keepdim=True)


def rms_factor(h, weight, eps):
    return weight / torch.sqrt((h * h).mean(dim=-1, keepdim=True) + eps)


def rotated(x, cos, sin):
    """Rotary positions of (L, H, d) by cosines and sines (L, d), and the function that turns a gradient back."""
    half = x.shape[-1] // 2

    def turned(t, sign):
        return t * cos[:, None] + sign * torch.cat([-t[..., half:], t[..., :half]], dim=-1) * sin[:, None]

    return turned(x, 1.0), lambda c: turned(c, -1.0)


def gated_mlp(weights, prefix, m, c):
    """W_d (SiLU(W_g m) ⊙ W_u m), or with c at this output, c at m: SiLU by its secant, the product halved."""
    W_g, W_u, W_d = (weights[f"{prefix}.{name}_proj.weight"] for name in ("gate", "up", "down"))
    g, u = m @ W_g.t(), m @ W_u.t()
    if c is None:
        return (silu(g) * u) @ W_d.t()
    into = c @ W_d
    return (into * u * sigma(g) / 2) @ W_g + (into * silu(g) / 2) @ W_u


def llama(model, ids, position, token, differentiated=False):
    """Llama, its probabilities constant or, with `differentiated`, under AttnLRP's rules; also what softmax loses."""
    w, config = dict(model.state_dict()), model.config
    heads, groups, d = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    eps, length = config.rms_norm_eps, len(ids)
    angles = [part[0] for part in model.model.rotary_emb(w["lm_head.weight"], torch.arange(length)[None])]  # as rounded
    h, kept = w["model.embed_tokens.weight"][ids], []
    embedded = h
    for layer in range(config.num_hidden_layers):
        at = f"model.layers.{layer}"
        first = rms_factor(h, w[f"{at}.input_layernorm.weight"], eps)
        q, k, v = (
            ((h * first) @ w[f"{at}.self_attn.{n}_proj.weight"].t() + w[f"{at}.self_attn.{n}_proj.bias"])
            .reshape(length, -1, d)
            for n in "qkv"
        )  # fmt: skip
        (q, back_q), (k, back_k) = rotated(q, *angles), rotated(k, *angles)
        k, v = (part.repeat_interleave(heads // groups, dim=1) for part in (k, v))
        p = causal_softmax(torch.einsum("ihd,jhd->hij", q, k) / math.sqrt(d))
        o = torch.einsum("hij,jhd->ihd", p, v).reshape(length, -1)
        middle = h + o @ w[f"{at}.self_attn.o_proj.weight"].t() + w[f"{at}.self_attn.o_proj.bias"]
        second = rms_factor(middle, w[f"{at}.post_attention_layernorm.weight"], eps)
        kept.append((at, first, second, middle, p, q, k, v, back_q, back_k))
        h = middle + gated_mlp(w, f"{at}.mlp", middle * second, None)
    c = torch.zeros_like(h)
    c[position] = w["lm_head.weight"][token] * rms_factor(h, w["model.norm.weight"], eps)[position]
    biases, lost = 0.0, 0.0
    for at, first, second, middle, p, q, k, v, back_q, back_k in reversed(kept):
        c = c + second * gated_mlp(w, f"{at}.mlp", middle * second, c)
        biases += float((c * w[f"{at}.self_attn.o_proj.bias"]).sum())
        c_o = (c @ w[f"{at}.self_attn.o_proj.weight"]).reshape(length, heads, d)
        into = {"v": torch.einsum("hij,ihd->jhd", p, c_o) / (2 if differentiated else 1)}
        if differentiated:
            c_p = torch.einsum("ihd,jhd->hij", c_o, v) / 2
            c_s = p * (c_p - (p * c_p).sum(dim=-1, keepdim=True))
            scores = torch.einsum("ihd,jhd->hij", q, k) / math.sqrt(d)
            lost += float((p * c_p).sum() - (scores * c_s).sum())
            into["q"] = back_q(torch.einsum("hij,jhd->ihd", c_s, k) / math.sqrt(d) / 2)
            into["k"] = back_k(torch.einsum("hij,ihd->jhd", c_s, q) / math.sqrt(d) / 2)
        for name, flow in into.items():
            shared = flow if name == "q" else flow.reshape(length, groups, -1, d).sum(dim=2)
            shared = shared.reshape(length, -1)
            biases += float((shared * w[f"{at}.self_attn.{name}_proj.bias"]).sum())
            c = c + first * (shared @ w[f"{at}.self_attn.{name}_proj.weight"])
    return (embedded * c).sum(dim=-1), biases, lost


def gelu_tanh(a):
    return 0.5 * a * (1 + torch.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a**3)))


def gpt2(model, ids, position, token):
    """GPT-2: LayerNorms whose deviation is constant and whose mean is not, GELU by its secant, positions a bias."""
    w, config = dict(model.state_dict()), model.config
    heads, width, eps, length = config.n_head, config.n_embd, config.layer_norm_epsilon, len(ids)
    embedded, positions = w["transformer.wte.weight"][ids], w["transformer.wpe.weight"][:length]
    h, kept = embedded + positions, []

    def normed(h, name):
        centred = h - h.mean(dim=-1, keepdim=True)
        scale = w[f"{name}.weight"] / torch.sqrt((centred * centred).mean(dim=-1, keepdim=True) + eps)
        return centred * scale + w[f"{name}.bias"], scale

    def through(c, scale):
        return scale * c - (scale * c).mean(dim=-1, keepdim=True)

    for layer in range(config.n_layer):
        at = f"transformer.h.{layer}"
        n, first = normed(h, f"{at}.ln_1")
        q, k, v = (n @ w[f"{at}.attn.c_attn.weight"] + w[f"{at}.attn.c_attn.bias"]).split(width, dim=-1)
        q, k, v = (part.reshape(length, heads, -1) for part in (q, k, v))
        p = causal_softmax(torch.einsum("ihd,jhd->hij", q, k) / math.sqrt(q.shape[-1]))
        o = torch.einsum("hij,jhd->ihd", p, v).reshape(length, -1)
        h = h + o @ w[f"{at}.attn.c_proj.weight"] + w[f"{at}.attn.c_proj.bias"]
        m, second = normed(h, f"{at}.ln_2")
        a = m @ w[f"{at}.mlp.c_fc.weight"] + w[f"{at}.mlp.c_fc.bias"]
        h = h + gelu_tanh(a) @ w[f"{at}.mlp.c_proj.weight"] + w[f"{at}.mlp.c_proj.bias"]
        kept.append((at, first, p, second, a))
    _, last = normed(h, "transformer.ln_f")
    c = torch.zeros_like(h)
    c[position] = w["lm_head.weight"][token]
    biases = float((c * w["transformer.ln_f.bias"]).sum())
    c = through(c, last)
    for at, first, p, second, a in reversed(kept):
        biases += float((c * w[f"{at}.mlp.c_proj.bias"]).sum())
        into = (c @ w[f"{at}.mlp.c_proj.weight"].t()) * gelu_tanh(a) / a
        biases += float((into * w[f"{at}.mlp.c_fc.bias"]).sum())
        into = into @ w[f"{at}.mlp.c_fc.weight"].t()
        biases += float((into * w[f"{at}.ln_2.bias"]).sum())
        c = c + through(into, second)
        biases += float((c * w[f"{at}.attn.c_proj.bias"]).sum())
        c_o = (c @ w[f"{at}.attn.c_proj.weight"].t()).reshape(length, heads, -1)
        c_v = torch.einsum("hij,ihd->jhd", p, c_o).reshape(length, -1)
        biases += float((c_v * w[f"{at}.attn.c_attn.bias"][2 * width :]).sum())
        into = c_v @ w[f"{at}.attn.c_attn.weight"][:, 2 * width :].t()
        biases += float((into * w[f"{at}.ln_1.bias"]).sum())
        c = c + through(into, first)
    return (embedded * c).sum(dim=-1), biases + float((c * positions).sum()), 0.0


def delta_matrix(q, k, beta, decay):
    """M with o = M v of one head, row by row of S_t = a_t S_{t-1} (I - β_t k_t k_tᵀ) + β_t v_t k_tᵀ, o_t = S_t q_t.

    The column of source j is the output for a value of one at j, and zero elsewhere.
    """
    length, M = len(q), torch.zeros(len(q), len(q), dtype=q.dtype)
    for j in range(length):
        state = torch.zeros_like(k[0])
        for t in range(length):
            state = decay[t] * (state - beta[t] * k[t] * (k[t] @ state))
            state = state + (beta[t] * k[t] if t == j else 0)
            M[t, j] = state @ q[t]
    return M


def qwen3_next(model, ids, position, token):
    """Qwen3-Next of gated delta nets and gated MLPs: q, k, β and the decay are constant, and values carry tokens."""
    w, config = dict(model.state_dict()), model.config
    keys, values = config.linear_num_key_heads, config.linear_num_value_heads
    d_k, d_v, eps, length = config.linear_key_head_dim, config.linear_value_head_dim, config.rms_norm_eps, len(ids)
    each, taps = values // keys, config.linear_conv_kernel_dim
    embedded = h = w["model.embed_tokens.weight"][ids]
    kept = []
    for layer in range(config.num_hidden_layers):
        at, net = f"model.layers.{layer}", f"model.layers.{layer}.linear_attn"
        first = rms_factor(h, 1 + w[f"{at}.input_layernorm.weight"], eps)
        W = w[f"{net}.in_proj_qkvz.weight"].reshape(keys, -1, h.shape[1])  # for each key head: q, k, its values, its z
        W_q, W_k, W_v, W_z = (part.flatten(0, 1) for part in W.split([d_k, d_k, each * d_v, each * d_v], dim=1))
        x = h * first
        mixed = torch.cat([x @ W_q.t(), x @ W_k.t(), x @ W_v.t()], dim=1)
        kernel, a = w[f"{net}.conv1d.weight"][:, 0], torch.zeros_like(mixed)
        for t in range(length):
            for back in range(min(taps, t + 1)):
                a[t] += kernel[:, taps - 1 - back] * mixed[t - back]
        q, k, v = silu(a).split([keys * d_k, keys * d_k, values * d_v], dim=1)
        q, k = (part.reshape(length, keys, d_k) for part in (q, k))
        q, k = (part / torch.sqrt((part * part).sum(dim=-1, keepdim=True) + 1e-6) for part in (q, k))
        ba = (x @ w[f"{net}.in_proj_ba.weight"].t()).reshape(length, keys, 2 * each)
        beta, step = (part.reshape(length, values) for part in ba.split(each, dim=-1))
        rate = torch.exp(w[f"{net}.A_log"]) * torch.log1p(torch.exp(step + w[f"{net}.dt_bias"]))
        M = torch.stack([
            delta_matrix(q[:, n // each] * d_k**-0.5, k[:, n // each], sigma(beta[:, n]), torch.exp(-rate[:, n]))
            for n in range(values)
        ])  # fmt: skip
        o = torch.einsum("hij,jhd->ihd", M, v.reshape(length, values, d_v))
        inner = rms_factor(o, w[f"{net}.norm.weight"], eps)
        z = (x @ W_z.t()).reshape(length, values, d_v)
        middle = h + (o * inner * silu(z)).reshape(length, -1) @ w[f"{net}.out_proj.weight"].t()
        second = rms_factor(middle, 1 + w[f"{at}.post_attention_layernorm.weight"], eps)
        kept.append(
            (at, net, first, W_v, W_z, kernel[-values * d_v :], a[:, -values * d_v :], M, o, inner, z, middle, second)
        )
        h = middle + gated_mlp(w, f"{at}.mlp", middle * second, None)
    c = torch.zeros_like(h)
    c[position] = w["lm_head.weight"][token] * rms_factor(h, 1 + w["model.norm.weight"], eps)[position]
    for at, net, first, W_v, W_z, kernel, a, M, o, inner, z, middle, second in reversed(kept):
        c = c + second * gated_mlp(w, f"{at}.mlp", middle * second, c)
        into = (c @ w[f"{net}.out_proj.weight"]).reshape(length, values, d_v)
        c_z = into * o * inner * sigma(z) / 2
        c_v = torch.einsum("hij,ihd->jhd", M, into * silu(z) / 2 * inner).reshape(length, -1)
        c_a, c_u = c_v * sigma(a), torch.zeros_like(c_v)
        for t in range(length):
            for back in range(min(taps, t + 1)):
                c_u[t - back] += kernel[:, taps - 1 - back] * c_a[t]
        c = c + first * (c_u @ W_v + c_z.reshape(length, -1) @ W_z)
    return (embedded * c).sum(dim=-1), 0.0, 0.0
