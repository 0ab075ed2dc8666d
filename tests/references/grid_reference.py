"""Mixers whose convolution looks at neighbours on all sides, dense and slow: what tests hold the package to.

Nothing here is imported from the package. One picture at a time, in the precision of the model, with plain autograd;
`frozen` and `gamma` as in `dense_reference`. MambaVision (arXiv 2407.08083) has its tokens in a line, VMamba (arXiv
2401.10166) in a grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from dense_reference import _Gamma, _linear, _silu, hidden_attention


@dataclass(frozen=True)
class Dense:
    """One mixer: its coefficients per channel and what goes out."""

    u: torch.Tensor  # (L, D), W_x x without its bias
    b_x: torch.Tensor  # (D,)
    kernel: torch.Tensor  # (D, p, q)
    conv_bias: torch.Tensor  # (D,)
    grid: tuple[int, int]
    a: torch.Tensor  # (L, D)
    alpha: torch.Tensor  # (D, L, L), all scans together, zero in channels without one
    skip: torch.Tensor  # (D,)
    gate: torch.Tensor  # (L, D)
    offset: torch.Tensor  # (L, D)
    centred: bool
    W_o: torch.Tensor  # (E, D)
    b_o: torch.Tensor  # (E,)
    y: torch.Tensor  # (L, E)


def contributions(layer, rule="secant"):
    """Return T (L, L, E)."""
    with torch.no_grad():
        known = layer.alpha, layer.skip, layer.u, layer.kernel, layer.grid, layer.a, layer.gate
        return vectors(*known, layer.W_o, rule, layer.centred)


@torch.no_grad()
def biases(layer):
    """Return beta (L, E)."""
    constant = convolved(layer.b_x.expand_as(layer.u).unflatten(0, layer.grid), layer.kernel).flatten(0, 1)
    s = (constant + layer.conv_bias) * torch.sigmoid(layer.a)
    o = torch.einsum("dij,jd->id", layer.alpha, s) + layer.skip * s
    o = o - o.mean(dim=1, keepdim=True) if layer.centred else o
    return (layer.gate * o + layer.offset) @ layer.W_o.t() + layer.b_o


@torch.no_grad()
def implicit_attention(layer):
    """Return the matrix that acts on u per channel (D, L, L), without the mean that a norm subtracts."""
    maps = []
    for d in range(layer.u.shape[1]):
        one = torch.zeros(1, layer.u.shape[1], dtype=layer.u.dtype)
        one[0, d] = 1
        known = layer.alpha, layer.skip, torch.ones_like(layer.u), layer.kernel, layer.grid, layer.a, layer.gate
        maps.append(vectors(*known, one, "secant", False)[..., 0])
    return torch.stack(maps)


def line_mixer(mixer, x, frozen=frozenset(), gamma=0.0):
    """Return MambaVision's mixer on tokens (L, E): a scan in the first half of the channels, none in the others."""
    W, b = mixer.in_proj.weight, _zeros_for(mixer.in_proj.bias, mixer.in_proj.weight)
    projected = _linear(x, W, b, gamma)
    kernel = torch.cat([mixer.conv1d_x.weight, mixer.conv1d_z.weight])
    conv_bias = torch.cat([_zeros_for(conv.bias, conv.weight) for conv in (mixer.conv1d_x, mixer.conv1d_z)])
    a = _convolution(projected, kernel, conv_bias, (1, len(x)), gamma)
    active, half = _silu(a, frozen), len(kernel) // 2
    s, t = active[:, :half], active[:, half:]
    N = mixer.A_log.shape[1]
    dt, B, C = _linear(s, mixer.x_proj.weight, None, gamma).split([mixer.dt_proj.weight.shape[1], N, N], dim=1)
    step = F.softplus(_linear(dt, mixer.dt_proj.weight, mixer.dt_proj.bias, gamma) + mixer.dt_proj.bias)
    B, C = (part[:, None].expand(-1, half, -1) for part in (B, C))
    alpha = hidden_attention(step, -torch.exp(mixer.A_log), B, C)
    alpha = alpha.detach() if "scan" in frozen else alpha
    o = torch.einsum("dij,jd->id", alpha, s) + mixer.D * s
    W_o, b_o = mixer.out_proj.weight, _zeros_for(mixer.out_proj.bias, mixer.out_proj.weight)
    return Dense(
        u=x @ W.t(),
        b_x=b,
        kernel=kernel,
        conv_bias=conv_bias,
        grid=(1, len(x)),
        a=a,
        alpha=torch.cat([alpha, torch.zeros_like(alpha)]),
        skip=torch.cat([mixer.D, torch.ones_like(mixer.D)]),
        gate=torch.ones_like(a),
        offset=torch.zeros_like(a),
        centred=False,
        W_o=W_o,
        b_o=b_o,
        y=_linear(torch.cat([o, t], dim=1), W_o, b_o, gamma),
    )


def grid_mixer(mixer, x, grid, frozen=frozenset(), gamma=0.0):
    """Return VMamba's mixer on patches (L, E) that lie in a grid: four scans, each over its own list of patches."""
    W, b = mixer.in_proj.weight, _zeros_for(mixer.in_proj.bias, mixer.in_proj.weight)
    projected = _linear(x, W, b, gamma)
    kernel = mixer.conv2d.weight[:, 0]
    conv_bias, D = _zeros_for(mixer.conv2d.bias, kernel), len(kernel)
    a = _convolution(projected[:, :D], kernel, conv_bias, grid, gamma)
    s = _silu(a, frozen)
    alpha, skip = 0, 0
    for number, order in enumerate(orders_of(grid)):
        part = slice(number * D, (number + 1) * D)
        alpha = alpha + _one_scan(mixer, number, part, s, order)
        skip = skip + mixer.Ds[part]
    alpha = alpha.detach() if "scan" in frozen else alpha
    o = torch.einsum("dij,jd->id", alpha, s) + skip * s
    z = projected[:, D:]
    factor = _silu(z, frozen) if z.shape[1] else torch.ones_like(o)
    product = layer_norm(mixer.out_norm, o, frozen) * factor
    product = 0.5 * product + 0.5 * product.detach() if "gate" in frozen and z.shape[1] else product
    W_o, b_o = mixer.out_proj.weight, _zeros_for(mixer.out_proj.bias, mixer.out_proj.weight)
    scale = _inverse_deviation(mixer.out_norm, o - o.mean(dim=1, keepdim=True), frozen)
    return Dense(
        u=x @ W[:D].t(),
        b_x=b[:D],
        kernel=kernel,
        conv_bias=conv_bias,
        grid=grid,
        a=a,
        alpha=alpha,
        skip=skip,
        gate=factor * scale * mixer.out_norm.weight,
        offset=factor * mixer.out_norm.bias,
        centred=True,
        W_o=W_o,
        b_o=b_o,
        y=_linear(product, W_o, b_o, gamma),
    )


def orders_of(grid):
    """Return the patches in the order in which each scan reads them: by rows, by columns, both backwards."""
    rows, columns = grid
    by_rows = [row * columns + column for row in range(rows) for column in range(columns)]
    by_columns = [row * columns + column for column in range(columns) for row in range(rows)]
    return by_rows, by_columns, by_rows[::-1], by_columns[::-1]


def _one_scan(mixer, number, part, s, order):
    """Return one order's alpha (D, L, L), patches as they stand."""
    N, rank = mixer.A_logs.shape[1], mixer.dt_projs_weight.shape[2]
    dt, B, C = (s[order] @ mixer.x_proj_weight[number].t()).split([rank, N, N], dim=1)
    step = F.softplus(dt @ mixer.dt_projs_weight[number].t() + mixer.dt_projs_bias[number])
    B, C = (value[:, None].expand(-1, s.shape[1], -1) for value in (B, C))
    own = hidden_attention(step, -torch.exp(mixer.A_logs[part]), B, C)
    steps = [order.index(patch) for patch in range(len(order))]
    return own[:, steps][:, :, steps]


def run(model, stream, frozen=frozenset(), gamma=0.0):
    """Return the stream before every layer with its dense mixer, and the logits, of one picture's tokens (L, E)."""
    layers = []
    for block in model.layers:
        x = layer_norm(block.norm, stream, frozen)
        if model.grid is None:
            mixed = line_mixer(block.mixer, x, frozen, gamma)
        else:
            mixed = grid_mixer(block.mixer, x, model.grid, frozen, gamma)
        layers.append((stream, mixed))
        stream = stream + mixed.y
    return layers, model.head.weight @ layer_norm(model.norm, stream, frozen).mean(dim=0) + model.head.bias


def relevance(model, picture, frozen, gamma=0.0):
    """Return the relevance of the tokens (L, E) of one picture for the last logit."""
    leaf = picture.clone().requires_grad_()
    _, logits = run(model, leaf, frozen, gamma)
    (gradient,) = torch.autograd.grad(logits[3], leaf)
    return (leaf * gradient).sum(dim=-1).detach()


def layer_norm(norm, x, frozen=frozenset()):
    """Return a LayerNorm of (L, E): the mean a linear map, the deviation a constant where it is frozen."""
    centred = x - x.mean(dim=1, keepdim=True)
    return centred * _inverse_deviation(norm, centred, frozen) * norm.weight + norm.bias


def _inverse_deviation(norm, centred, frozen):
    factor = 1 / torch.sqrt((centred * centred).mean(dim=1, keepdim=True) + norm.eps)
    return factor.detach() if "norm" in frozen else factor


def _zeros_for(bias, weight):
    return torch.zeros_like(weight.flatten(1)[:, 0]) if bias is None else bias


def _convolution(u, kernel, bias, grid, gamma):
    """Return the convolution of u (L, D) in its grid, every window a row of a linear layer per channel."""
    _, p, q = kernel.shape
    lying = u.t().unflatten(1, grid)[None]
    padded = F.pad(lying, ((q - 1) // 2, q // 2, (p - 1) // 2, p // 2))
    windows = F.unfold(padded, (p, q))[0].unflatten(0, (u.shape[1], p * q)).permute(2, 0, 1)  # (L, D, p q)
    taps = kernel.flatten(1)
    if not gamma:
        return (windows * taps).sum(dim=-1) + bias
    columns = [_Gamma.apply(windows[:, d], taps[d : d + 1], bias[d : d + 1], gamma) for d in range(u.shape[1])]
    return torch.cat(columns, dim=1)


def convolved(u, kernel):
    """Return the depthwise convolution of u (rows, columns, D), token by token and tap by tap."""
    rows, columns, _ = u.shape
    _, p, q = kernel.shape
    a = torch.zeros_like(u)
    for row in range(rows):
        for column in range(columns):
            for down in range(p):
                for right in range(q):
                    y, x = row + down - (p - 1) // 2, column + right - (q - 1) // 2
                    if 0 <= y < rows and 0 <= x < columns:
                        a[row, column] += kernel[:, down, right] * u[y, x]
    return a


def vectors(alpha, skip, u, kernel, grid, a, gate, W_o, rule, centred):
    """Return T (L, L, E) of one picture: every source alone through the convolution, the rule, the scan and W_o."""
    length = len(u)
    T = torch.zeros(length, length, len(W_o), dtype=u.dtype)
    reach = [
        (k, j, down, right)
        for k in range(length)
        for down in range(kernel.shape[1])
        for right in range(kernel.shape[2])
        for j in [neighbour(k, down - (kernel.shape[1] - 1) // 2, right - (kernel.shape[2] - 1) // 2, grid)]
        if j is not None
    ]
    for i in range(length):
        reached = torch.zeros(length, u.shape[1], dtype=u.dtype)
        for k, j, down, right in reach:
            part = kernel[:, down, right] * u[j]
            if rule == "secant":
                part = part * torch.sigmoid(a[k])
            elif rule == "silu":
                part = part * torch.sigmoid(part)
            reached[j] += (alpha[:, i, k] + (skip if i == k else 0)) * part
        for j in range(length):
            o = reached[j] - reached[j].mean() if centred else reached[j]
            T[i, j] = W_o @ (gate[i] * o)
    return T


def neighbour(token, down, right, grid):
    row, column = divmod(token, grid[1])
    row, column = row + down, column + right
    return row * grid[1] + column if 0 <= row < grid[0] and 0 <= column < grid[1] else None
