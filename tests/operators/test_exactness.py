"""The central claims: naive ≡ tiled ≡ the stock mixer, and contributions plus bias sum to the output."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mambascope.methods.latim import contributions, latim
from mambascope.trace import capture
from models import FAMILIES, padded_batch, stock_model, without_downcasts
from naive_layers import naive_layer, relative
from rounding import assert_equal_to_rounding

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

LENGTHS = (1, 2, 3, 5, 63, 64, 65, 200)
#: float64: sums of a few hundred terms of either sign; float32: the same with its unit roundoff of 6e-8.
BOUND = {torch.float64: 1e-12, torch.float32: 1e-5}


def stock_outputs(model, ids, mask):
    """Return input and output of every mixer as the stock code computes them, without any capture."""
    seen = []
    mixers = [layer.mixer for layer in model.backbone.layers]
    handles = [m.register_forward_hook(lambda mod, args, y: seen.append((args[0].clone(), y))) for m in mixers]
    with torch.no_grad():
        model(input_ids=ids, attention_mask=mask, use_cache=False)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("length", LENGTHS, ids=lambda n: f"L{n}")
@pytest.mark.parametrize(("batch", "side"), [(1, "none"), (3, "left"), (3, "right")])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
def test_operator_rebuilds_the_stock_mixer(family, length, batch, side, dtype):
    """Tiles, rows and scan agree with the output of transformers' own code, not with that of our capture."""
    model = stock_model(family, dtype)
    ids, mask = padded_batch(length, batch, side)
    mask = None if side == "none" else mask
    if dtype == torch.float64:
        with without_downcasts(family):
            stock = stock_outputs(model, ids, mask)
            trace = capture(model, input_ids=ids, attention_mask=mask)
    else:
        stock = stock_outputs(model, ids, mask)
        trace = capture(model, input_ids=ids, attention_mask=mask)
    assert max(trace.reconstruction_error) < BOUND[dtype]
    record, (x, y) = trace.branches[0], stock[0]
    assert relative(record.captured.x, x) < BOUND[dtype], "the input of the mixer"
    operator = record.operator()
    assert relative(operator.output(), y) < BOUND[dtype], "the scan form"
    bias = operator.bias()
    total = bias.clone()
    for block, tile in operator.contribution_tiles():
        total[:, block.rows] += tile.sum(dim=-1).transpose(1, 2)
    assert relative(total, y) < BOUND[dtype], "the tiled form"
    for target in {0, length // 2, length - 1}:
        vectors, beta = operator.contributions(target)  # of padding as well, which no method explains
        assert relative(vectors.sum(dim=1) + beta, y[:, target]) < BOUND[dtype], f"the row of target {target}"
        assert relative(beta, bias[:, target]) < BOUND[dtype], f"the bias of target {target}"
        assert not vectors[:, target + 1 :].any(), "sources of the future"


@pytest.mark.parametrize("length", [1, 2, 5, 21], ids=lambda n: f"L{n}")
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("rule", ["secant", "silu", "identity"])
@pytest.mark.parametrize("family", FAMILIES)
def test_tiles_equal_the_naive_form(family, rule, side, length):
    model = stock_model(family, torch.float64)
    ids, mask = padded_batch(length, 3, side)
    with without_downcasts(family):
        trace = capture(model, input_ids=ids, attention_mask=mask)
    operator = trace.operator(1)
    tiled = torch.zeros(3, length, length, operator.W_o.shape[0], dtype=torch.float64)
    for block, tile in operator.contribution_tiles(rule):
        tiled[:, block.rows, block.columns] = tile.permute(0, 2, 3, 1)
    for row in range(3):
        T, beta = naive_layer(operator, row, rule)
        assert relative(tiled[row], T) < 1e-12, f"contributions of sequence {row}"
        if rule == "secant":
            assert relative(operator.bias()[row], beta) < 1e-12, f"bias of sequence {row}"
            assert relative(T.sum(dim=1) + beta, trace.branches[1].captured.y[row]) < 1e-12, f"output of sequence {row}"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    family=st.sampled_from(FAMILIES),
    length=st.integers(1, 90),
    batch=st.integers(1, 3),
    side=st.sampled_from(["left", "right"]),
    taps=st.integers(1, 6),
    hidden=st.sampled_from([12, 24]),
    seed=st.integers(0, 99),
)
def test_contributions_and_bias_sum_to_the_output_for_any_size(family, length, batch, side, taps, hidden, seed):
    sizes = {"num_heads": hidden // 3} if family == "mamba2" else {}
    model = stock_model(family, torch.float64, seed, hidden_size=hidden, conv_kernel=taps, num_hidden_layers=1, **sizes)
    ids, mask = padded_batch(length, batch, side, seed)
    with without_downcasts(family):
        trace = capture(model, input_ids=ids, attention_mask=mask)
    operator, y = trace.operator(0), trace.branches[0].captured.y
    total = operator.bias()
    for block, tile in operator.contribution_tiles():
        total[:, block.rows] += tile.sum(dim=-1).transpose(1, 2)
    assert relative(total, y) < 1e-12


@pytest.mark.parametrize("family", FAMILIES)
def test_inexact_rules_leave_a_residual_and_exact_ones_none(family):
    """The published rule and the identity are approximations on models with a SiLU: their residual is not small."""
    model = stock_model(family, torch.float64)
    ids, _ = padded_batch(40, 1, "left")
    with without_downcasts(family):
        trace = capture(model, input_ids=ids)
    operator, y = trace.operator(0), trace.branches[0].captured.y
    residual = {}
    for rule in ("secant", "silu", "identity"):
        total = operator.bias(rule)
        for block, tile in operator.contribution_tiles(rule):
            total[:, block.rows] += tile.sum(dim=-1).transpose(1, 2)
        residual[rule] = relative(total, y)
        assert residual[rule] == pytest.approx(operator.residual(rule), rel=1e-6, abs=1e-13)
    assert residual["secant"] < 1e-12
    assert residual["silu"] > 0.05
    assert residual["identity"] > 0.05


@pytest.mark.parametrize("family", FAMILIES)
def test_latim_is_the_norm_of_the_contributions(family):
    trace = capture(stock_model(family), input_ids=padded_batch(70, 2, "left")[0])
    for norm in (1, 2):
        maps = latim(trace, norm=norm)
        assert maps.shape == (2, 2, 70, 70)
        assert not maps.triu(1).any(), "the upper triangle is exactly zero"
        assert_equal_to_rounding(latim(trace, layer=1, norm=norm), maps[:, 1])
        for target in (0, 33, 69):
            vectors, _ = contributions(trace, 1, target)
            assert relative(maps[:, 1, target], vectors.norm(p=norm, dim=-1)) < 1e-5


def test_steps_are_captured_after_their_limits():
    """Mamba-2 clamps Δ; without a finite limit the clamp would do nothing and prove nothing."""
    model = stock_model("mamba2", torch.float64, time_step_limit=(0.3, 0.9))
    ids, _ = padded_batch(30, 1, "left")
    with without_downcasts("mamba2"):
        (_, y), *_ = stock_outputs(model, ids, None)
        trace = capture(model, input_ids=ids)
    dt = trace.operator(0).scan.dt
    assert dt.min() == 0.3
    assert dt.max() == 0.9
    assert relative(trace.operator(0).output(), y) < 1e-12
