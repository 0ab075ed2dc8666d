"""Local and diffuse: right where the weights are known, never both."""

import math

import pytest
import torch

from mambascope.theory.heads import Head, heads, repeated_rows
from mambascope.theory.spread import EVEN, NEAR, WITHIN, spread
from models import stock_model, stock_transformer


def decaying(rate, length=40):
    """Weights that fall by a factor per token, as shares of their row."""
    lags = torch.arange(length)[:, None] - torch.arange(length)
    maps = torch.where(lags >= 0, rate ** lags.clamp(min=0).double(), 0.0)
    return (maps / maps.sum(dim=-1, keepdim=True))[None, None]


def read(maps, causal=True):
    distance, near, even = (float(value) for value in spread(maps, causal=causal))
    return distance, near, even, Head(0, "", "", 0, {}, {}, distance, near, even).spread


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.99, 1.0])
def test_the_three_numbers_of_a_head_that_forgets(rate):
    """Against sums in plain loops over the targets of the second half."""
    length = 40
    distances, nears, evens = [], [], []
    for target in range(length // 2, length):
        weights = [rate**lag for lag in range(target + 1)]
        shares = [weight / sum(weights) for weight in weights]
        distances.append(sum(lag * share for lag, share in enumerate(shares)))
        held, count = 0.0, 0
        while held < WITHIN - 1e-12:
            held, count = held + shares[count], count + 1
        nears.append(count / (target + 1))
        evens.append(math.exp(-sum(share * math.log(share) for share in shares if share)) / (target + 1))
    distance, near, even, _ = read(decaying(rate))
    mean = lambda values: sum(values) / len(values)  # noqa: E731
    assert (distance, even) == pytest.approx((mean(distances), mean(evens)), abs=1e-9)
    assert near == pytest.approx(mean(nears), abs=0.03)  # nine tenths of equal weights are a tie


def test_what_each_is_called():
    assert [read(decaying(rate))[3] for rate in (0.0, 0.5, 0.75, 0.82, 0.95, 1.0)] == [
        "local", "local", "local", None, "diffuse", "diffuse",
    ]  # fmt: skip
    length = 40
    first, three_back, itself = torch.zeros(3, 1, 1, length, length, dtype=torch.float64)
    first[..., 0] = 1.0
    for target in range(length):
        three_back[..., target, max(target - 3, 0)] = 1.0
        itself[..., target, target] = 1.0
    assert read(first)[3] is None
    assert (read(three_back)[0], read(three_back)[3]) == (3.0, "local")
    assert (read(itself)[0], read(itself)[3]) == (0.0, "local")
    assert read(torch.zeros_like(first))[3] is None, "a head without weight"


def test_a_head_that_sees_both_ways_has_as_many_sources_as_the_text():
    length = 30
    even = torch.full((1, 1, length, length), 1 / length, dtype=torch.float64)
    assert read(even, causal=False)[2:] == (pytest.approx(1.0), "diffuse")
    lags = (torch.arange(length)[:, None] - torch.arange(length)).abs()
    maps = 0.3 ** lags.double()[None, None]
    assert read(maps / maps.sum(dim=-1, keepdim=True), causal=False)[3] == "local"


def test_no_head_is_both():
    """Weights with nine tenths on the nearest third, as even as they can be, stay below the bound of `diffuse`."""
    length = 60
    maps = torch.zeros(1, 1, length, length, dtype=torch.float64)
    for target in range(length):
        near = max((target + 1) // 3, 1)
        maps[..., target, target + 1 - near : target + 1] = WITHIN / near
        if target + 1 > near:
            maps[..., target, : target + 1 - near] = (1 - WITHIN) / (target + 1 - near)
    _, near, even, _ = read(maps)
    assert near == pytest.approx(NEAR, abs=0.03)
    assert 0.45 < even < EVEN


def test_a_model_whose_decays_are_known():
    """Mamba-2 whose steps, writing and reading are the same at every token: |α_ij| falls by r each token."""
    rates = (0.5, 0.8, 0.86, 0.99)
    model = stock_model("mamba2", n_groups=1)
    mixer = model.backbone.layers[0].mixer
    with torch.no_grad():
        inner, state = mixer.intermediate_size, mixer.ssm_state_size
        mixer.in_proj.weight[2 * inner :] = 0.0  # what B, C and the steps are made from, after the gate and x
        mixer.in_proj.bias[2 * inner :] = 0.0
        mixer.conv1d.bias[inner : inner + 2 * state] = 1.0
        mixer.dt_bias.fill_(math.log(math.e - 1))  # a step of 1
        mixer.A_log.copy_(torch.tensor([math.log(-math.log(rate)) for rate in rates]))
    found = [head for head in heads(model, repeated_rows(range(1, 50), 24, 2)) if head.layer == 0]
    assert [(head.label, head.spread) for head in found] == [
        (None, "local"), (None, "local"), (None, None), (None, "diffuse"),
    ]  # fmt: skip
    for head, rate in zip(found, rates, strict=True):
        expected = [
            sum(lag * rate**lag for lag in range(i + 1)) / sum(rate**lag for lag in range(i + 1)) for i in range(24, 48)
        ]
        assert head.distance == pytest.approx(sum(expected) / 24, rel=1e-3)  # float32


def test_attention_without_queries_is_diffuse():
    model = stock_transformer("gpt2")
    with torch.no_grad():
        for layer in model.transformer.h:
            layer.attn.c_attn.weight[:, :12] = 0.0
            layer.attn.c_attn.bias[:12] = 0.0
    found = heads(model, repeated_rows(range(1, 50), 12, 2))
    assert {(head.label, head.spread) for head in found} == {(None, "diffuse")}
    assert all(head.even == pytest.approx(1.0) for head in found)
