"""Small models around mixers that look at neighbours on all sides, with weights from N(0, 0.4)."""

import torch
from torch import nn

from mambascope.models.mambavision import MambaVisionMixer
from mambascope.models.vmamba import SS2D

CLASSES = 4


class Block(nn.Module):
    """One layer: what the mixer makes of the normalised stream is added to the stream."""

    def __init__(self, width, mixer):
        super().__init__()
        self.norm, self.mixer = nn.LayerNorm(width), mixer

    def forward(self, hidden_states):
        return hidden_states + self.mixer(self.norm(hidden_states))


class Model(nn.Module):
    """Layers, and a head on the mean of the tokens (b, L, E); `grid` says how the mixers want them to lie."""

    def __init__(self, width, mixers, grid=None):
        super().__init__()
        self.grid = grid
        self.layers = nn.ModuleList(Block(width, mixer) for mixer in mixers)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, tokens):
        stream = tokens if self.grid is None else tokens.unflatten(1, self.grid)
        for layer in self.layers:
            stream = layer(stream)
        return self.head(self.norm(stream).flatten(1, -2).mean(dim=1))


def drawn(model, dtype=torch.float64, seed=0):
    """Return a model in eval mode with every weight drawn from N(0, 0.4), norms around 1."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1 if "norm" in name and name.endswith("weight") else 0, 0.4)
    return model.to(dtype).eval()


def line_model(dtype=torch.float64, layers=2, kind=MambaVisionMixer, **options):
    """Return a model of MambaVision mixers of width 6."""
    sizes = {"state_size": 3, "use_bias": True, "conv_bias": True} | options
    return drawn(Model(6, [kind(6, **sizes) for _ in range(layers)]), dtype)


def grid_model(dtype=torch.float64, layers=2, grid=(3, 4), **options):
    """Return a model of VMamba mixers of width 6 with 8 channels, over patches in a grid."""
    sizes = {"intermediate_size": 8, "state_size": 2, "gated": True, "use_bias": True, "conv_bias": True} | options
    return drawn(Model(6, [SS2D(6, **sizes) for _ in range(layers)], grid), dtype)


def tokens(model, batch=2, length=7, seed=0):
    """Return random tokens in the model's precision, as many as its grid has if it has one."""
    weight = model.head.weight
    length = length if model.grid is None else model.grid[0] * model.grid[1]
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, weight.shape[1], dtype=weight.dtype, generator=draw)


def last_logit(outputs):
    """Return the last logit of every picture."""
    return outputs[:, -1]


def without_biases(model):
    """Return the model with every bias zero that relevance could flow into; Δ's own is part of a coefficient."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") and "dt_proj" not in name:
                parameter.zero_()
    return model
