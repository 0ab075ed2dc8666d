"""Vision Mamba once more, dense and slow, from its weights and the papers' formulas: what tests hold the package to.

Nothing here is imported from the package. One picture at a time, in the precision of the model, with plain autograd.
A layer is two of `dense_reference`'s, one of them over the reversed tokens (arXiv 2401.09417, algorithm 1):

    y = W_o ( SiLU(z) ⊙ (o→ + flip(o←)) ) / 2 + b_o

`frozen` and `gamma` as in `dense_reference`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

import dense_reference
from dense_reference import Layer, _convolution, _inverse_rms, _linear, _mamba_coefficients, _silu, hidden_attention


@dataclass(frozen=True)
class VisionLayer:
    """One layer: the stream before it, both directions in their own order, and what it adds."""

    residual: torch.Tensor  # (L, E)
    forwards: Layer
    backwards: Layer
    b_o: torch.Tensor  # (E,)
    y: torch.Tensor  # (L, E)


@dataclass(frozen=True)
class VisionRun:
    """One picture through one model."""

    tokens: torch.Tensor  # (L, E)
    layers: list[VisionLayer]
    stream: torch.Tensor  # (L, E), before the final norm
    final_factor: torch.Tensor  # (L, E), by which the final norm multiplies
    features: torch.Tensor  # (L, E)
    logits: torch.Tensor  # (classes,)


def place_of_class(model, patches):
    """Return where the class token stands among so many patches, or None."""
    return {"middle": patches // 2, "first": 0, "last": patches, "none": None}[model.config.class_token]


def embed(model, picture, gamma=0.0):
    """Return the tokens (L, E) of one picture (c, H, W): every patch by itself, then class token and positions."""
    weight, bias = model.patch_embed.proj.weight, model.patch_embed.proj.bias
    patch, stride = model.config.patch_size, model.config.stride
    _, height, width = picture.shape
    corners = [
        (top, left) for top in range(0, height - patch + 1, stride) for left in range(0, width - patch + 1, stride)
    ]
    cut = torch.stack([picture[:, top : top + patch, left : left + patch].flatten() for top, left in corners])
    tokens = list(_linear(cut, weight.flatten(1), bias, gamma))
    place = place_of_class(model, len(tokens))
    if place is not None:
        tokens.insert(place, model.cls_token[0, 0])
    return torch.stack(tokens) + model.pos_embed[0]


def run(model, tokens, frozen=frozenset(), gamma=0.0) -> VisionRun:
    """Return everything of one picture's pass from its tokens (L, E)."""
    stream, layers = tokens, []
    for block in model.layers:
        layers.append(_layer(model, block, stream, frozen, gamma))
        stream = stream + layers[-1].y
    factor = model.norm_f.weight * _inverse_rms(stream, model.norm_f.eps, frozen)
    features = stream * factor
    place = place_of_class(model, len(tokens) - 1)
    pooled = features.mean(dim=0) if place is None else features[place]
    return VisionRun(tokens, layers, stream, factor, features, model.head.weight @ pooled + model.head.bias)


def hidden(layer):
    """Return alpha (D, L, L) of both directions together."""
    return layer.forwards.alpha + layer.backwards.alpha.flip(1, 2)


def contributions(layer, rule="secant"):
    """Return T (L, L, E)."""
    backwards = dense_reference.contributions(layer.backwards, rule)
    return dense_reference.contributions(layer.forwards, rule) + backwards.flip(0, 1)


def biases(layer):
    """Return beta (L, E)."""
    return dense_reference.biases(layer.forwards) + dense_reference.biases(layer.backwards).flip(0) + layer.b_o


def implicit_attention(layer):
    """Return the matrix that acts on u per channel (D, L, L)."""
    backwards = dense_reference.implicit_attention(layer.backwards)
    return dense_reference.implicit_attention(layer.forwards) + backwards.flip(1, 2)


@torch.no_grad()
def alti(layer, rule="secant"):
    """Return C (L, L): closeness of every source to the stream after the layer, rows divided by their sum."""
    T, after = contributions(layer, rule), layer.residual + layer.y
    length = len(after)
    C = torch.zeros(length, length, dtype=after.dtype)
    for i in range(length):
        T[i, i] += layer.residual[i]
        for j in range(length):
            C[i, j] = max(0.0, float(after[i].abs().sum() - (after[i] - T[i, j]).abs().sum()))
        if C[i].sum() == 0:
            C[i, i] = 1.0
    return C / C.sum(dim=1, keepdim=True)


def _layer(model, block, residual, frozen, gamma):
    mixer, config = block.mixer, model.config
    D = config.expand * config.hidden_size
    x = block.norm.weight * (residual * _inverse_rms(residual, block.norm.eps, frozen))
    W, b = mixer.in_proj.weight, mixer.in_proj.bias
    b = torch.zeros_like(W[:, 0]) if b is None else b
    projected = _linear(x, W, b, gamma)
    share = 0.5 if config.divide_output else 1.0
    W_o, b_o = mixer.out_proj.weight, mixer.out_proj.bias
    b_o = torch.zeros_like(W_o[:, 0]) if b_o is None else b_o
    directions, total = [], 0.0
    for parts in (_Forwards(mixer), _Backwards(mixer)):
        inner = parts.turn(projected)
        taps = parts.conv1d.weight[:, 0].flip(1)
        a = _convolution(inner[:, :D], taps, parts.conv1d.bias, gamma)
        s = _silu(a, frozen)
        dt, A, B, C, skip = _mamba_coefficients(parts, s, frozen, gamma)
        alpha = hidden_attention(dt, A, B, C)
        alpha = alpha.detach() if "scan" in frozen else alpha
        o = torch.einsum("dij,jd->id", alpha, s) + skip * s
        gate = _silu(inner[:, D:], frozen)
        product = o * gate
        product = 0.5 * product + 0.5 * product.detach() if "gate" in frozen else product
        total = total + parts.turn(product)
        u = parts.turn(x) @ W[:D].t()
        known = {"u": u, "b_x": b[:D], "taps": taps, "conv_bias": parts.conv1d.bias, "a": a, "dt": dt, "A": A}
        directions.append(
            Layer(
                residual=parts.turn(residual),
                x=parts.turn(x),
                B=B,
                C=C,
                skip=skip,
                alpha=alpha,
                gate=gate * share,
                W_o=W_o,
                b_o=torch.zeros_like(b_o),
                y=torch.empty(0),
                **known,
            )
        )
    y = _linear(total * share, W_o, b_o, gamma)
    forwards, backwards = (replace(direction, y=y) for direction in directions)
    return VisionLayer(residual, forwards, backwards, b_o, y)


class _Forwards:
    """One direction's parts under the names that Mamba's have."""

    suffix, A_suffix = "", ""

    def __init__(self, mixer):
        self.time_step_rank, self.ssm_state_size = mixer.time_step_rank, mixer.state_size
        for name in ("conv1d", "x_proj", "dt_proj", "D"):
            setattr(self, name, getattr(mixer, name + self.suffix))
        self.A_log = getattr(mixer, f"A{self.A_suffix}_log")

    def turn(self, values):
        return values


class _Backwards(_Forwards):
    suffix, A_suffix = "_b", "_b"

    def turn(self, values):
        return values.flip(0)
