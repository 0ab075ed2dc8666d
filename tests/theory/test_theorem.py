"""The table of theorem 1, right for every layer that it names, and controls that must come out otherwise."""

import pytest
import torch

from mambascope.models.layers import LAYERS
from mambascope.theory.classification import classify
from mambascope.theory.theorem import STOCK, THEOREM, stock_layer

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

#: What the definitions give for the other layers.
OTHERS = {"S4D": "fixed"} | dict.fromkeys(
    ["LinearAttention", "RetNet", "GLA", "HGRN2", "RWKV6", "RWKV7", "SSD", "Mamba3", "SoftmaxHead"], "data-controlled"
)


def made(name, **options):
    return LAYERS[name](width=8, **options).to(torch.float64).eval()


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_is_what_the_theorem_or_its_definitions_say(name, seed):
    found = classify(made(name, seed=seed), seed=seed)
    assert found.kind == (THEOREM | OTHERS)[name], found.evidence
    assert found.causal
    assert found.toeplitz == (found.kind == "fixed")
    quiet = found.evidence.input if found.kind == "fixed" else found.evidence.far if name in ("GSS", "Hyena") else 0.0
    assert quiet < 1e-9, "rounding, not a narrow decision"


@pytest.mark.parametrize("name", STOCK)
def test_mixers_of_stock_classes(name):
    found = stock_layer(name)
    assert found.kind == ("diagonal data control" if name == "ShortConv" else "data-controlled"), found.evidence
    assert found.causal


def test_the_rank_is_the_state_that_is_used():
    assert classify(made("SelectiveSSM", states=3)).ranks == (3, 3, 3)
    assert classify(made("SSD", states=5)).ranks == (5, 5, 5)
    assert classify(made("GLA")).ranks[2] < 16


def test_a_selective_scan_with_constant_coefficients_is_fixed():
    layer = made("SelectiveSSM")
    dt, A, B, C = layer.parts(torch.ones(1, 1, 8, dtype=torch.float64))

    def constant(x):
        return tuple(part if part is A else part.expand(len(x), x.shape[1], -1) for part in (dt, A, B, C))

    layer.parts = constant
    found = classify(layer)
    assert (found.kind, found.toeplitz) == ("fixed", True), found.evidence


def test_a_hyena_with_constant_gates_is_fixed():
    layer = made("Hyena")
    ones, values = torch.ones(8, dtype=torch.float64), layer.projected
    layer.projected = lambda x: (ones.expand_as(x), ones.expand_as(x), values(x)[2])
    found = classify(layer)
    assert (found.kind, found.toeplitz) == ("fixed", True), found.evidence


@pytest.mark.parametrize("name", ["SelectiveSSM", "SSD", "Hyena"])
def test_inputs_that_differ_by_scale_alone_tell_it_from_a_fixed_mixer(name):
    assert classify(made(name)).evidence.scale > 1e-2
    assert classify(made("S4")).evidence.scale < 1e-12
