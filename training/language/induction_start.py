"""Starting one layer anew as a head that goes on as the text did before, from which training then continues.

An induction head finds the earlier occurrence of the present token and says what followed it [1]. A state-space layer
can be one: what it writes is addressed by B, what it reads by C, so B should speak of the token before the one whose
value is written, and C of the present token. Models of this size did not find that by themselves in the little text
that they see, but state-space models learn recall quickly from a start that already resembles it [2]. The layer started
here has

* B from the token before and C from the token itself: the same projection of the residual stream, fitted to tell tokens
  apart (ridge regression to a random code per token), with the tap of the short convolution one token earlier for B;
* a set of channels whose values are fitted to a projection of the present token's embedding, whose decay is slow and
  whose skip is off, and which are added to the residual stream along that same embedding's direction;
* a gate for them that is open for most tokens.

Everything stays trainable, and the layer's other channels stay as they were.

[1] C. Olsson et al. In-context learning and induction heads. 2022.
[2] A. Trockman et al. Mimetic initialization helps state space models learn to recall. 2024.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

#: The layer that is started anew: early, where the residual stream still tells tokens apart.
LAYER = 1
#: Channels that carry values; a multiple of a Mamba-2 head's 64.
VALUE_CHANNELS = 128
#: Standard deviation of what goes into silu for keys and values: small enough to be nearly linear there.
ENTRY = 0.5

#: How strongly the head writes into the residual stream at first; tried out: more spoils the prediction of other text.
STRENGTH = {"mamba": 0.75, "mamba2": 0.8}
#: Size of B and C in Mamba-1, which no norm follows: such that the layer's outputs and its output weights are both of a
#: usual size, else the first steps of training wipe the start out.
ADDRESS = 0.3


@dataclass(frozen=True)
class Affine:
    """A linear map of the residual stream with its mean answer taken away by a bias."""

    weight: Tensor
    bias: Tensor

    def scaled(self, inputs: Tensor, deviation: float) -> Affine:
        """Return the map scaled so that its answers to `inputs` have this standard deviation."""
        answers = inputs @ self.weight.t()
        factor = deviation / (answers - answers.mean(0)).pow(2).mean().sqrt()
        return Affine(self.weight * factor, -(answers.mean(0) * factor))


def fit(inputs: Tensor, targets: Tensor, ridge: float = 0.01) -> Affine:
    """Return the ridge regression of targets on inputs, both centred."""
    centred = inputs - inputs.mean(0)
    gram = centred.t() @ centred / len(inputs)
    damped = gram + ridge * gram.diagonal().mean() * torch.eye(len(gram))
    weight = torch.linalg.solve(damped, centred.t() @ (targets - targets.mean(0)) / len(inputs)).t()
    return Affine(weight, -(weight @ inputs.mean(0)))


@torch.no_grad()
def start_induction(model: PreTrainedModel, rows: Tensor) -> None:
    """Make layer `LAYER` an induction head, in place; `rows` are training tokens to fit its projections on."""
    seen: list[Tensor] = []
    layer = model.backbone.layers[LAYER]
    hook = layer.norm.register_forward_hook(lambda _, __, out: seen.append(out))
    model.backbone(rows, use_cache=False)
    hook.remove()
    inputs, tokens = seen[0].flatten(0, 1).float(), rows.flatten()
    generator = torch.Generator().manual_seed(0)
    embedding = model.backbone.embeddings.weight
    directions = nn.functional.normalize(embedding - embedding.mean(0), dim=1)
    N = layer.mixer.ssm_state_size
    codes = nn.functional.normalize(torch.randn(len(embedding), N, generator=generator), dim=1)
    keys = fit(inputs, codes[tokens]).scaled(inputs, ENTRY)
    basis = torch.linalg.qr(torch.randn(embedding.shape[1], VALUE_CHANNELS, generator=generator))[0]
    values = fit(inputs, directions[tokens] @ basis).scaled(inputs, ENTRY)
    moments = inputs.t() @ inputs / len(inputs)
    gate = torch.linalg.solve(moments + 0.01 * torch.eye(len(moments)), inputs.mean(0))
    start = _start_mamba if model.config.model_type == "mamba" else _start_mamba2
    start(layer.mixer, keys, values, 2 * gate, STRENGTH[model.config.model_type] * basis)


def _start_mamba2(mixer: nn.Module, keys: Affine, values: Affine, gate: Tensor, basis: Tensor) -> None:
    """Write the head into the last value channels' heads, and into B and C, which all heads share."""
    D, N, count = mixer.intermediate_size, mixer.ssm_state_size, VALUE_CHANNELS
    channels = slice(D - count, D)
    heads = slice(mixer.num_heads - count // mixer.head_dim, mixer.num_heads)
    mixer.in_proj.weight[channels] = gate
    places = {0: slice(D - count, D), 1: slice(D, D + N), 2: slice(D + N, D + 2 * N)}
    for place, affine, delay in ((places[0], values, 0), (places[1], keys, 1), (places[2], keys, 0)):
        _enter(mixer.in_proj.weight[D:], mixer.conv1d, place, affine, delay)
    slow = torch.linspace(math.log(0.004), math.log(0.02), heads.stop - heads.start)
    mixer.A_log[heads] = slow
    mixer.dt_bias[heads] = 1.0
    mixer.in_proj.weight[2 * D + 2 * N :][heads] = 0.0
    mixer.D[heads] = 0.0
    mixer.out_proj.weight[:, channels] = basis


def _start_mamba(mixer: nn.Module, keys: Affine, values: Affine, gate: Tensor, basis: Tensor) -> None:
    """Write the head into the channels that did least, and into B and C, which all channels share."""
    N, count, rank = mixer.ssm_state_size, VALUE_CHANNELS, mixer.time_step_rank
    D = mixer.intermediate_size
    use = mixer.out_proj.weight.norm(dim=0) * mixer.in_proj.weight[:D].norm(dim=1)
    least = use.argsort()
    before, present, carried = least[:N], least[N : 2 * N], least[2 * N : 2 * N + count]
    for place, affine, delay in ((carried, values, 0), (before, keys, 1), (present, keys, 0)):
        _enter(mixer.in_proj.weight, mixer.conv1d, place, affine, delay)
    mixer.in_proj.weight[D + carried] = gate
    started = least[: 2 * N + count]
    mixer.x_proj.weight[:, started] = 0.0
    mixer.x_proj.weight[rank:] = 0.0
    mixer.x_proj.weight[rank : rank + N, before] = ADDRESS * torch.eye(N)
    mixer.x_proj.weight[rank + N :, present] = ADDRESS * torch.eye(N)
    mixer.dt_proj.weight[carried] = 0.0
    mixer.dt_proj.bias[carried] = 1.0
    mixer.A_log[carried] = torch.linspace(math.log(0.005), math.log(0.05), count)[:, None]
    mixer.D[carried] = 0.0
    mixer.out_proj.weight[:, started] = 0.0
    mixer.out_proj.weight[:, carried] = basis


def _enter(projection: Tensor, convolution: nn.Conv1d, place: slice | Tensor, affine: Affine, delay: int) -> None:
    """Let channels take an affine map of the token `delay` places back."""
    projection[place] = affine.weight
    convolution.weight[place] = 0.0
    convolution.weight[place, 0, -1 - delay] = 1.0
    convolution.bias[place] = affine.bias
