"""Stock hybrids of Mamba and attention once more, dense and slow, from their weights and their families' equations.

Nothing here is imported from the package. One text at a time, in the precision of the model. Token-wise parts (MLPs,
experts) are the model's own modules; everything that mixes tokens, and every norm, is written out:

    plain      h' = h + c · mixer(norm(h)),  then h' + c · FFN(norm(h'))
    parallel   h' = h + c_m · mamba(norm(h)) + c_a · attention(c_i norm(h)),  then the same          (FalconH1)
    shared     t = linear(FFN(norm(attention(norm([h; e]))))),  h' = h + mamba(norm(h + t))           (Zamba, Zamba2)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

import dense_reference
from dense_reference import Layer, hidden_attention


@dataclass(frozen=True)
class Mixing:
    """What one layer's mixers do: y_i = Σ_j Σ_parts T_ij + β_i."""

    parts: tuple[torch.Tensor, ...]  # (L, L, E) for each part of what the mixer read
    beta: torch.Tensor  # (L, E)
    mean: torch.Tensor  # (L, L), token mixing averaged over channels
    y: torch.Tensor  # (L, E)

    @property
    def T(self):
        return sum(self.parts)


@dataclass(frozen=True)
class Update:
    """One update of the stream."""

    residual: torch.Tensor  # (L, E), before it
    mixing: Mixing
    shared: Mixing | None = None  # Zamba's attention, whose parts are those of the stream and of the embedded tokens


@dataclass(frozen=True)
class Run:
    """One text through one model."""

    updates: list[Update]
    stream: torch.Tensor  # (L, E), before the final norm
    final_factor: torch.Tensor  # (L, E)
    logits: torch.Tensor  # (L, tokens)
    head: torch.Tensor  # (tokens, E)

    def direction(self, target, token):
        """The direction of a logit in the stream before the final norm, whose statistic is frozen: (E,)."""
        return self.final_factor[target] * self.head[token]


@torch.no_grad()
def run(model, ids) -> Run:
    """Return everything of one text's pass from its token ids (L,)."""
    config, base = model.config, model.model
    stream = base.get_input_embeddings()(ids)
    stream = embedded = stream * getattr(config, "embedding_multiplier", 1.0)
    rope = None
    if hasattr(base, "rotary_emb") and getattr(config, "position_embedding_type", "rope") == "rope":
        rope = [part[0] for part in base.rotary_emb(stream[None], torch.arange(len(ids))[None])]
    updates = []
    for block in base.layers:
        found, stream = BLOCKS[config.model_type](config, block, stream, embedded, rope)
        updates += [] if found is None else [found]
    norm = next(getattr(base, name) for name in ("final_layernorm", "norm_f", "norm") if hasattr(base, name))
    factor = norm.weight * inverse_rms(stream, norm.variance_epsilon)
    head = model.lm_head.weight * getattr(config, "lm_head_multiplier", 1.0) / getattr(config, "logits_scaling", 1.0)
    return Run(updates, stream, factor, (stream * factor) @ head.t(), head)


def _plain(config, block, h, embedded, rope):
    """Bamba, Granite, Jamba: one mixer, then the FFN, both scaled."""
    x = normed(block.input_layernorm, h)
    mamba, scale = getattr(block, "mamba", None), getattr(block, "residual_multiplier", 1.0)
    mixing = scan(config, mamba, x) if mamba is not None else attention(config, block.self_attn, x, rope)
    mixing = scaled([(scale, mixing)])
    after = h + mixing.y
    if hasattr(block, "shared_mlp"):
        x = normed(block.post_attention_layernorm, after)[None]
        moe = block.block_sparse_moe
        given = block.shared_mlp(x) + (0 if moe is None else moe(x))
    else:
        given = block.feed_forward(normed(block.pre_ff_layernorm, after)[None])
    return Update(h, mixing), after + scale * given[0]


def _parallel(config, block, h, embedded, rope):
    x = normed(block.input_layernorm, h)
    low, high = config.mamba_d_ssm, config.mamba_n_groups * config.mamba_d_state
    sizes = (low, low, high, high, config.mamba_n_heads)
    kept = torch.tensor(config.ssm_multipliers, dtype=torch.float32).to(x.dtype)  # the class keeps them in float32
    factor = kept.repeat_interleave(torch.tensor(sizes))
    scanned = scan(config, block.mamba, x, config.ssm_in_multiplier, factor)
    attended = attention(config, block.self_attn, x, rope, config.attention_in_multiplier)
    mixing = scaled([(config.ssm_out_multiplier, scanned), (config.attention_out_multiplier, attended)])
    after = h + mixing.y
    return Update(h, mixing), after + block.feed_forward(normed(block.pre_ff_layernorm, after)[None])[0]


def _one_part(config, block, h, embedded, rope):
    """NemotronH: every block is one part, most of them no mixer."""
    x = normed(block.norm, h)
    if hasattr(block.mixer, "A_log"):
        mixing = scan(config, block.mixer, x)
    elif hasattr(block.mixer, "v_proj"):
        mixing = attention(config, block.mixer, x, None)
    else:
        return None, h + block.mixer(x[None])[0]
    return Update(h, mixing), h + mixing.y


def _shared(config, block, h, embedded, rope):
    shared = getattr(block, "shared_transformer", getattr(block, "shared_transf", None))
    if shared is None:
        mixing = scan(config, block.mamba, normed(block.input_layernorm, h))
        return Update(h, mixing), h + mixing.y
    layer, decoder = block.mamba_decoder.layer_idx, block.mamba_decoder
    beside = normed(shared.input_layernorm, torch.cat([h, embedded], dim=1))
    halves = [beside.clone(), beside.clone()]
    halves[0][:, h.shape[1] :], halves[1][:, : h.shape[1]] = 0, 0
    attended = attention(config, shared.self_attn, beside, rope, parts=halves, layer=layer)
    x = normed(shared.pre_ff_layernorm, attended.y)[None]
    given = shared.feed_forward(x, layer) if config.model_type == "zamba2" else shared.feed_forward(x)
    t = (given @ block.linear.weight.t())[0]
    norm = decoder.input_layernorm
    factor = norm.weight * inverse_rms(h + t, norm.variance_epsilon)
    mixing = scan(config, decoder.mamba, factor * (h + t), parts=[factor * h, factor * t])
    return Update(h, mixing, attended), h + mixing.y


BLOCKS = {
    "bamba": _plain,
    "granitemoehybrid": _plain,
    "jamba": _plain,
    "falcon_h1": _parallel,
    "nemotron_h": _one_part,
    "zamba": _shared,
    "zamba2": _shared,
}


def normed(norm, h):
    return norm.weight * (h * inverse_rms(h, norm.variance_epsilon))


def inverse_rms(x, epsilon):
    return 1 / torch.sqrt((x * x).mean(dim=-1, keepdim=True) + epsilon)


def scaled(mixings):
    """Return the scaled sum of mixers that read the same tokens."""
    return Mixing(
        (sum(scale * one.T for scale, one in mixings),),
        sum(scale * one.beta for scale, one in mixings),
        sum(scale * one.mean for scale, one in mixings),
        sum(scale * one.y for scale, one in mixings),
    )


def attention(config, layer_module, x, rope, x_factor=1.0, parts=None, layer=None):
    """Return one attention layer's mixing: p^h = softmax(c q k) over what came before, o^h = p^h v."""
    H, G = config.num_attention_heads, config.num_key_value_heads
    weights = [getattr(layer_module, f"{name}_proj").weight for name in "qkv"]
    biases = [getattr(layer_module, f"{name}_proj").bias for name in "qkv"]
    if getattr(config, "use_shared_attention_adapter", False):
        slot = config.hybrid_layer_ids.index(layer)
        adapters = [getattr(layer_module, f"linear_{name}_adapter_list")[slot] for name in "qkv"]
        weights = [W + up.weight @ down.weight for W, (down, up) in zip(weights, adapters, strict=True)]
    x = x * x_factor
    q, k, v = (x @ W.t() + (0 if b is None else b) for W, b in zip(weights, biases, strict=True))
    d = q.shape[1] // H
    q, k = q.view(-1, H, d), k.view(-1, G, d) * getattr(config, "key_multiplier", 1.0)
    if rope is not None and getattr(config, "use_mem_rope", True) and config.model_type not in ("jamba", "nemotron_h"):
        q, k = (rotated(part, *rope) for part in (q, k))
    scale = {"granitemoehybrid": getattr(config, "attention_multiplier", None)}.get(config.model_type, d**-0.5)
    scale = (d / 2) ** -0.5 if config.model_type in ("zamba", "zamba2") else scale
    group = torch.arange(H) // (H // G)
    scores = scale * torch.einsum("ihd,jhd->hij", q, k[:, group])
    p = scores.masked_fill(torch.ones(len(x), len(x)).triu(1).bool(), -torch.inf).softmax(dim=-1)
    W_V, b_V = weights[2].view(G, d, -1)[group], None if biases[2] is None else biases[2].view(G, d)[group]
    W_o, b_o = layer_module.o_proj.weight.view(-1, H, d), layer_module.o_proj.bias
    vectors = tuple(
        torch.einsum("hij,ehd,hdf,jf->ije", p, W_o, W_V, part) for part in ([x] if parts is None else parts)
    )
    beta = torch.zeros(len(x), len(W_o), dtype=x.dtype) + (0 if b_o is None else b_o)
    beta = beta if b_V is None else beta + torch.einsum("hij,ehd,hd->ie", p, W_o, b_V)
    o = torch.einsum("hij,jhd->ihd", p, v.view(-1, G, d)[:, group])
    y = torch.einsum("ihd,ehd->ie", o, W_o) + (0 if b_o is None else b_o)
    return Mixing(vectors, beta, p.mean(dim=0), y)


def rotated(x, cos, sin):
    """Rotate pairs (d, d + R/2) of the first R entries of each head; the rest stays as it is."""
    R = cos.shape[-1]
    cos, sin, turning, still = cos[:, None], sin[:, None], x[..., :R], x[..., R:]
    first, second = turning.chunk(2, dim=-1)
    return torch.cat([turning * cos + torch.cat([-second, first], dim=-1) * sin, still], dim=-1)


def scan(config, mixer, x, x_factor=1.0, factor=1.0, parts=None):
    """Return one Mamba mixer's mixing, from its equations pair by pair."""
    layer, W_x = scan_layer(config, mixer, x, x_factor, factor)
    inputs = [x] if parts is None else parts
    vectors = tuple(dense_reference.contributions(replace(layer, u=part @ W_x.t())) for part in inputs)
    return Mixing(vectors, dense_reference.biases(layer), layer.alpha.mean(dim=0), layer.y)


def scan_layer(config, mixer, x, x_factor=1.0, factor=1.0) -> tuple[Layer, torch.Tensor]:
    """Return a mixer's coefficients, and the W_x with which it reads x."""
    D, mamba2 = mixer.intermediate_size, hasattr(mixer, "dt_bias")
    W, b = mixer.in_proj.weight, mixer.in_proj.bias
    b = torch.zeros_like(W[:, 0]) if b is None else b
    projected = factor * ((x_factor * x) @ W.t() + b)
    rows = slice(0, None, 2) if hasattr(mixer, "x_proj_weight") else slice(D, 2 * D) if mamba2 else slice(D)
    gates = slice(1, None, 2) if hasattr(mixer, "x_proj_weight") else slice(D) if mamba2 else slice(D, None)
    convolved = projected[:, D : D + mixer.conv1d.weight.shape[0]] if mamba2 else projected[:, rows]
    taps = mixer.conv1d.weight[:, 0].flip(1)
    bias = torch.zeros_like(taps[:, 0]) if mixer.conv1d.bias is None else mixer.conv1d.bias
    a = convolution(convolved, taps) + bias
    active = a * torch.sigmoid(a)
    s = active[:, :D]
    if mamba2:
        dt, A, B, C, skip = mamba2_coefficients(config, mixer, projected, active, D)
    else:
        heads = mamba_heads(mixer, s)
        dt, A, B, C, skip = map(along_channels, zip(*heads, strict=True), (1, 0, 1, 1, 0))
    alpha = hidden_attention(dt, A, B, C)
    o = torch.einsum("dij,jd->id", alpha, s) + skip * s
    z = projected[:, gates]
    gate = z * torch.sigmoid(z)
    if mamba2 and getattr(config, "mamba_rms_norm", True):
        width = o.shape[1]  # older releases of Bamba's code norm all channels at once
        count = getattr(mixer.norm, "n_groups", width // getattr(mixer.norm, "group_size", width))
        normed_values = o if getattr(config, "mamba_norm_before_gate", False) else o * gate
        groups = normed_values.unflatten(1, (count, -1))
        rms = inverse_rms(groups, mixer.norm.variance_epsilon).expand_as(groups).flatten(1)
        gate = gate * rms * mixer.norm.weight
    W_o, b_o = mixer.out_proj.weight, mixer.out_proj.bias
    b_o = torch.zeros_like(W_o[:, 0]) if b_o is None else b_o
    ones = torch.ones_like(W[:, 0]) * factor
    W_x = x_factor * ones[rows, None] * W[rows]
    layer = Layer(
        residual=x, x=x, u=x @ W_x.t(), b_x=(ones * b)[rows], taps=taps[:D], conv_bias=bias[:D], a=a[:, :D],
        dt=dt, A=A, B=B, C=C, skip=skip, alpha=alpha, gate=gate, W_o=W_o, b_o=b_o, y=(gate * o) @ W_o.t() + b_o,
    )  # fmt: skip
    return layer, W_x


def along_channels(heads, axis):
    return torch.cat(heads, dim=axis)


def convolution(u, taps):
    out = torch.zeros_like(u)
    for i in range(len(u)):
        for shift in range(min(i + 1, taps.shape[1])):
            out[i] += taps[:, shift] * u[i - shift]
    return out


def mamba2_coefficients(config, mixer, projected, active, D):
    """Return Δ (L, D), A (D, N), B and C (L, D, N) and D (D,): heads repeated for channels, groups for heads."""
    H, G = mixer.num_heads, mixer.n_groups
    N = (mixer.conv1d.weight.shape[0] - D) // (2 * G)
    low, high = getattr(config, "time_step_limit", None) or (0.0, float("inf"))
    if config.model_type in ("nemotron_h", "zamba2"):
        low, high = config.time_step_min, float("inf")
    dt = F.softplus(projected[:, -H:] + mixer.dt_bias).clamp(low, high)
    B, C = (part.unflatten(1, (G, N)) for part in active[:, D:].split(G * N, dim=1))
    head = torch.arange(D) // (D // H)
    group = head // (H // G)
    return dt[:, head], -torch.exp(mixer.A_log)[head][:, None].expand(-1, N), B[:, group], C[:, group], mixer.D[head]


def mamba_heads(mixer, s):
    """Return the same of Mamba-1 for each head: one, but for Zamba's; Jamba's with norms on Δ, B and C."""
    if not hasattr(mixer, "x_proj_weight"):
        W, W_dt, b_dt = mixer.x_proj.weight, mixer.dt_proj.weight, mixer.dt_proj.bias
        norms = (mixer.dt_layernorm, mixer.b_layernorm, mixer.c_layernorm)
        return [_head(s, W, W_dt, b_dt, mixer.A_log, mixer.D, norms)]
    weights = (mixer.x_proj_weight, mixer.dt_proj_weight, mixer.dt_proj_bias, mixer.A_log, mixer.D)
    parts = zip(s.chunk(mixer.n_mamba_heads, dim=1), *weights, strict=True)
    return [_head(*part, None) for part in parts]


def _head(s, W, W_dt, b_dt, A_log, skip, norms):
    N = A_log.shape[1]
    parts = (s @ W.t()).split([len(W) - 2 * N, N, N], dim=1)
    parts = parts if norms is None else [normed(norm, part) for norm, part in zip(norms, parts, strict=True)]
    dt = F.softplus(parts[0] @ W_dt.t() + b_dt)
    B, C = (part[:, None].expand(-1, dt.shape[1], -1) for part in parts[1:])
    return dt, -torch.exp(A_log), B, C, skip
