"""Results of any size."""

from dataclasses import replace

import torch

from mambascope import Attribution
from mambascope.attribution import Model, Target


def make(targets=(0, 1, 2, 3), signed=True, layers=(1, 4)):
    scores = torch.randn(len(layers), len(targets), 4, generator=torch.Generator().manual_seed(0))
    for row, target in enumerate(targets):
        scores[:, row, target + 1 :] = 0
    return Attribution(
        scores=scores if signed else scores.abs(),
        tokens=("a", " b", "<c>", "\n"),
        axes={"layer": layers, "target": targets, "source": (0, 1, 2, 3)},
        method="latim",
        target=Target(targets[-1], "\n", ((" x", 0.5), (" y", 0.25))),
        model=Model("tiny", "mamba", "MambaForCausalLM", 7, 224),
        signed=signed,
        diagnostics={"reconstruction_error": 1e-7, "reconstruction_error_per_layer": [1e-7, 1e-8], "seconds": 0.5},
    )


def in_parts(result):
    """Return a result with the terms that its layers lack to add up to a number, as ALTI-Logit's has them."""
    summed = replace(result, method="alti-logit", over_layers="sum")
    terms = dict.fromkeys(("residual", "bias", "other", "constant"), 0.25)
    value = float(summed.row(summed.target.position).double().sum()) + sum(terms.values())
    return replace(summed, diagnostics={**result.diagnostics, "terms": terms, "value": value})
