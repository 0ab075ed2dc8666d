"""Shapes and values of the published maps, metamorphic properties, and refusals."""

import pytest
import torch

from mambascope import memory
from mambascope.errors import InputError, MapTooLargeError
from mambascope.methods.hidden_attention import chosen_maps, hidden_attention, hidden_attention_row
from mambascope.methods.implicit_attention import implicit_attention, implicit_attention_row
from mambascope.methods.latim import check_norm, contributions, latim
from mambascope.methods.method import SCAN
from mambascope.methods.registry import METHODS, find_method
from mambascope.operators import affine_map, naive
from mambascope.operators.affine_map import check_rule
from mambascope.operators.state_space_dual import StateSpaceDual
from mambascope.trace import capture
from models import FAMILIES, padded_batch, stock_model, without_downcasts
from rounding import assert_equal_to_rounding

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

LENGTH = 70
#: Methods that score each layer of a state-space model.
PER_LAYER = [name for name, method in METHODS.items() if method.scope == "layer" and method.reads(SCAN)]


@pytest.fixture(scope="module", params=FAMILIES)
def trace(request):
    ids, mask = padded_batch(LENGTH, 2, "left")
    return capture(stock_model(request.param, torch.float64), input_ids=ids, attention_mask=mask)


def test_hidden_attention_is_the_naive_matrix(trace):
    scan = trace.operator(1).scan
    form = naive.state_space_dual_matrix if isinstance(scan, StateSpaceDual) else naive.selective_scan_matrix
    maps = hidden_attention(trace, 1)
    assert maps.shape == (2, scan.maps, LENGTH, LENGTH)
    for row in range(2):
        cut = slice(0, 12)  # the loops are slow
        dense = form(scan.dt[row, cut], scan.A, scan.B[row, cut], scan.C[row, cut])
        assert torch.allclose(maps[row, :, cut, cut], dense, rtol=1e-11, atol=1e-13)
    assert not maps.triu(1).any(), "the upper triangle is exactly zero"
    assert torch.allclose(hidden_attention(trace, 1, "mean"), maps.mean(dim=1), rtol=1e-9, atol=1e-12)
    # all maps of a layer are matrix products, some are computed pair by pair
    assert torch.allclose(hidden_attention(trace, -1, [2, 0]), maps[:, [2, 0]], rtol=1e-11, atol=1e-13)


def test_hidden_attention_acts_on_the_scan_input(trace):
    operator = trace.operator(0)
    s = operator.slope * operator.preactivation
    maps = operator.scan.channels(hidden_attention(trace, 0))
    mixed = torch.einsum("bdij,bjd->bid", maps, s) + operator.scan.skip * s
    y = (operator.gate * mixed) @ operator.W_o.t() + (0 if operator.b_o is None else operator.b_o)
    assert torch.allclose(y, operator.output(), rtol=1e-9, atol=1e-11)


def test_implicit_attention_acts_on_the_scan_branch(trace):
    """Per channel the matrix times u, plus the constant part, is what W_o receives: D and the biases are kept."""
    operator = trace.operator(0)
    width = operator.inner_width
    full = torch.zeros(2, width, LENGTH, LENGTH, dtype=torch.float64)
    for block, tile in operator.implicit_tiles():
        full[:, :, block.rows, block.columns] = tile
    constant = operator.slope * operator.constant
    rest = operator.gate * (operator.scan.apply(constant) + operator.scan.skip * constant)
    received = torch.einsum("bdij,bjd->bid", full, operator.u) + rest
    y = received @ operator.W_o.t() + (0 if operator.b_o is None else operator.b_o)
    assert torch.allclose(y, operator.output(), rtol=1e-9, atol=1e-11)
    maps = implicit_attention(trace, 0)
    assert maps.shape == (2, operator.scan.maps, LENGTH, LENGTH)
    by_map = full.unflatten(1, (operator.scan.maps, -1)).mean(dim=2)
    assert torch.allclose(maps, by_map, rtol=1e-10, atol=1e-13)
    assert torch.allclose(implicit_attention(trace, 0, "mean"), full.mean(dim=1), rtol=1e-9, atol=1e-12)
    assert_equal_to_rounding(implicit_attention(trace, 0, [1]), maps[:, [1]])


@pytest.fixture(scope="module", params=FAMILIES)
def unpadded(request):
    return capture(stock_model(request.param, torch.float64), input_ids=padded_batch(LENGTH, 2, "left")[0])


@pytest.mark.parametrize("target", [0, 1, 2, 3, 40, LENGTH - 1])
@pytest.mark.parametrize("name", [name for name in PER_LAYER if METHODS[name].row is not None])
def test_a_row_is_that_row_of_the_map(unpadded, name, target):
    method, trace = METHODS[name], unpadded
    row, full = method.row(trace, 1, target), method.map(trace, 1)
    assert torch.allclose(row, full[:, target], rtol=1e-8, atol=1e-11)
    assert not row[:, target + 1 :].any()


def test_shapes_are_as_promised(trace):
    assert latim(trace).shape == (2, 2, LENGTH, LENGTH)
    assert latim(trace, layer=0, norm=1).shape == (2, LENGTH, LENGTH)
    vectors, bias = contributions(trace, 0, -1)
    assert vectors.shape == (2, LENGTH, 12)
    assert bias.shape == (2, 12)
    assert hidden_attention_row(trace, 0, 5).shape == implicit_attention_row(trace, 0, 5).shape == (2, LENGTH)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", [name for name in PER_LAYER if METHODS[name].needs != "interventions"])
def test_a_padded_batch_equals_one_by_one(family, side, name):
    """Right padding changes nothing before it. Left padding leaves real tokens as if nothing stood before them, but for
    biases that the stock model itself lets flow from padded tokens (methods section 3), so here the model has none."""
    model = stock_model(family, torch.float64, use_bias=False, use_conv_bias=False)
    ids, mask = padded_batch(20, 3, side)
    with without_downcasts(family):
        batch = METHODS[name].map(capture(model, input_ids=ids, attention_mask=mask), 1)
        for row in range(3):
            real = mask[row].bool()
            alone = METHODS[name].map(capture(model, input_ids=ids[row : row + 1, real]), 1)
            # float64 throughout: sums of a few hundred products in another order, and differences of them
            assert torch.allclose(batch[row][real][:, real], alone[0], rtol=1e-9, atol=1e-11), f"sequence {row}"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", PER_LAYER)
def test_float32_agrees_with_float64(family, name):
    ids, _ = padded_batch(100, 1, "left")
    single = METHODS[name].map(capture(stock_model(family, torch.float32), input_ids=ids), 0)
    double = METHODS[name].map(capture(stock_model(family, torch.float64), input_ids=ids), 0)
    # layer 0: the inputs themselves agree to 1e-7; ALTI divides small differences of norms by their sum
    assert float((single - double).norm() / double.norm()) < (3e-5 if name == "latim-alti" else 1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_permuting_channels_permutes_their_maps(family):
    model = stock_model(family, torch.float64, n_groups=1) if family == "mamba2" else stock_model(family, torch.float64)
    ids, _ = padded_batch(15, 1, "left")
    with without_downcasts(family):
        before = hidden_attention(capture(model, input_ids=ids), 0)
    mixer = model.backbone.layers[0].mixer
    maps = before.shape[1]
    order = torch.randperm(maps, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        if family == "mamba2":  # permute heads: their steps and decays
            mixer.A_log.copy_(mixer.A_log[order])
            mixer.dt_bias.copy_(mixer.dt_bias[order])
            rows = torch.arange(mixer.in_proj.weight.shape[0])
            rows[-maps:] = rows[-maps:][order]
            mixer.in_proj.weight.copy_(mixer.in_proj.weight[rows])
            mixer.in_proj.bias.copy_(mixer.in_proj.bias[rows])
        else:  # permute channels from the projection to the state matrix
            rows = torch.cat([order, torch.arange(maps, 2 * maps)])
            mixer.in_proj.weight.copy_(mixer.in_proj.weight[rows])
            if mixer.in_proj.bias is not None:
                mixer.in_proj.bias.copy_(mixer.in_proj.bias[rows])
            for parameter in (mixer.conv1d.weight, mixer.conv1d.bias, mixer.A_log, mixer.dt_proj.weight):
                parameter.copy_(parameter[order])
            mixer.dt_proj.bias.copy_(mixer.dt_proj.bias[order])
            mixer.x_proj.weight.copy_(mixer.x_proj.weight[:, order])
    with without_downcasts(family):
        after = hidden_attention(capture(model, input_ids=ids, tolerance=1.0), 0)
    assert torch.allclose(after, before[:, order], rtol=1e-9, atol=1e-12)


def test_refusals_are_one_sentence(trace, monkeypatch):
    for call, words in (
        (lambda: hidden_attention(trace, 99), "layer 99 does not exist"),
        (lambda: hidden_attention(trace, 0, [999]), r"channels \[999\] do not exist"),
        (lambda: hidden_attention(trace, 0, []), "do not exist"),
        (lambda: chosen_maps("max", 3), "pass None"),
        (lambda: check_norm(3), "norm 3"),
        (lambda: check_rule("relu"), "unknown activation rule 'relu'"),
        (lambda: contributions(trace, 0, LENGTH), f"target {LENGTH} is not a position"),
        (lambda: find_method("attention"), "unknown method 'attention'"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
    monkeypatch.setattr(memory, "available_bytes", lambda device: 10_000)
    for call in (lambda: hidden_attention(trace, 0), lambda: implicit_attention(trace, 0), lambda: latim(trace)):
        with pytest.raises(MapTooLargeError, match=r"needs .* MiB .*(ask for|shorten)"):
            call()


@pytest.mark.parametrize("family", FAMILIES)
def test_tiles_do_not_grow_with_the_text(family, monkeypatch):
    """The tiled loops hold a bounded number of values per tile, however long the text is."""
    monkeypatch.setattr(affine_map, "TILE_ELEMENTS", 1 << 16)
    operator = capture(stock_model(family), input_ids=padded_batch(900, 1, "left")[0], check=False).operator(0)
    sizes = [block.shape[0] * block.shape[1] * operator.inner_width for block, _ in operator.contribution_tiles()]
    assert max(sizes) <= 1 << 16
    assert sum(sizes) >= 900 * 901 / 2 * operator.inner_width
