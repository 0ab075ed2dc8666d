"""VMamba's mixer: against loops written from the equations, its operator, methods and rules."""

import dataclasses
import itertools

import pytest
import torch
from torch import nn

from dense_reference import RULES, distance
from grid_reference import biases, contributions, grid_mixer, layer_norm, orders_of, relevance, run
from grid_reference import implicit_attention as dense_implicit
from mambascope import methods
from mambascope.errors import ReconstructionError, UnsupportedModelError
from mambascope.families import find_mixers
from mambascope.methods.interventions import knockout
from mambascope.methods.mamba_attribution import from_gradients
from mambascope.methods.mamba_lrp import mamba_lrp
from mambascope.methods.value_zeroing import value_zeroing
from mambascope.models.vmamba import SS2D
from mambascope.models.vmamba import mixer as module
from mambascope.operators.affine_map import AffineMap
from mambascope.operators.multi_scan import MultiScan
from mambascope.trace import capture
from mambascope.trace.differentiate import differentiate
from mambascope.trace.rules import PropagationRules
from picture_mixer_models import grid_model, last_logit, tokens, without_biases

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

#: float64: a few hundred products chained over two layers, and a backward pass.
BOUND = 1e-10
COMBINATIONS = [frozenset(rules) for count in range(5) for rules in itertools.combinations(sorted(RULES), count)]
RELEASED = {"gated": False, "use_bias": False, "conv_bias": False}


@torch.no_grad()
def looped(mixer, picture):
    """Return y of one picture (H, W, E): patch by patch, each scan along its own path."""
    rows, columns, _ = picture.shape
    D = mixer.out_proj.weight.shape[1]
    made = torch.stack([torch.stack([mixer.in_proj(patch) for patch in row]) for row in picture])
    side = mixer.conv2d.weight.shape[-1]
    s = torch.zeros(rows, columns, D, dtype=picture.dtype)
    for row, column in itertools.product(range(rows), range(columns)):
        a = torch.zeros(D, dtype=picture.dtype) if mixer.conv2d.bias is None else mixer.conv2d.bias.clone()
        for down, right in itertools.product(range(side), repeat=2):
            y, x = row + down - side // 2, column + right - side // 2
            if 0 <= y < rows and 0 <= x < columns:
                a += mixer.conv2d.weight[:, 0, down, right] * made[y, x, :D]
        s[row, column] = a / (1 + torch.exp(-a))
    total = torch.zeros_like(s)
    for number, order in enumerate(orders_of((rows, columns))):
        part = slice(number * D, (number + 1) * D)
        state = torch.zeros_like(mixer.A_logs[part])
        N = state.shape[1]
        for patch in order:
            row, column = divmod(patch, columns)
            here = s[row, column]
            made_of = mixer.x_proj_weight[number] @ here
            dt, B, C = made_of.split([len(made_of) - 2 * N, N, N])
            step = torch.log1p(torch.exp(mixer.dt_projs_weight[number] @ dt + mixer.dt_projs_bias[number]))
            state = torch.exp(-step[:, None] * torch.exp(mixer.A_logs[part])) * state + (step * here)[:, None] * B
            total[row, column] += state @ C + mixer.Ds[part] * here
    out = torch.zeros(rows, columns, len(mixer.out_proj.weight), dtype=picture.dtype)
    for row, column in itertools.product(range(rows), range(columns)):
        o, z = total[row, column], made[row, column, D:]
        o = (o - o.mean()) / torch.sqrt(o.var(unbiased=False) + mixer.out_norm.eps)
        o = o * mixer.out_norm.weight + mixer.out_norm.bias
        out[row, column] = mixer.out_proj(o * z / (1 + torch.exp(-z)) if len(z) else o)
    return out


@pytest.mark.parametrize("options", [{}, RELEASED, {"conv_kernel": 5}], ids=["gated", "released", "5x5"])
@pytest.mark.parametrize("grid", [(1, 1), (3, 4), (5, 2)], ids=lambda grid: f"{grid[0]}x{grid[1]}")
def test_it_computes_what_the_equations_say(grid, options):
    model = grid_model(grid=grid, **options)
    batch, mixer = tokens(model, 2).unflatten(1, grid), model.layers[0].mixer
    with torch.no_grad():
        y = mixer(batch)
        for row, picture in enumerate(batch):
            assert distance(y[row], looped(mixer, picture)) < 1e-12
            dense = grid_mixer(mixer, picture.flatten(0, 1), grid).y.unflatten(0, grid)
            assert distance(dense, looped(mixer, picture)) < 1e-12, "the dense reference of other tests"


def test_it_has_the_released_names_and_shapes():
    """As in the first stage of VMamba-T (`vssm1_tiny_0230s`), and with a gate as in `v05` without `noz`."""
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in SS2D(96).state_dict().items()}
        gated = SS2D(96, intermediate_size=192, state_size=16, gated=True, conv_bias=True).state_dict()
    assert shapes == {
        "x_proj_weight": (4, 8, 96),
        "dt_projs_weight": (4, 96, 6),
        "dt_projs_bias": (4, 96),
        "A_logs": (4 * 96, 1),
        "Ds": (4 * 96,),
        "in_proj.weight": (96, 96),
        "conv2d.weight": (96, 1, 3, 3),
        "out_norm.weight": (96,),
        "out_norm.bias": (96,),
        "out_proj.weight": (96, 96),
    }
    assert tuple(gated["in_proj.weight"].shape) == (384, 96)
    assert tuple(gated["x_proj_weight"].shape) == (4, 38, 192)
    assert tuple(gated["conv2d.bias"].shape) == (192,)


@pytest.mark.parametrize("options", [{}, RELEASED, {"conv_kernel": 5}], ids=["gated", "released", "5x5"])
@pytest.mark.parametrize("grid", [(1, 1), (2, 5), (4, 3)], ids=lambda grid: f"{grid[0]}x{grid[1]}")
def test_the_operator_is_the_dense_reference(grid, options):
    model = grid_model(grid=grid, **options)
    batch = tokens(model)
    length = batch.shape[1]
    trace = capture(model, tokens=batch)
    assert trace.shape == (2, length)
    assert trace.branches[0].captured.grid == grid
    assert max(trace.reconstruction_error) < 1e-12
    for row in range(2):
        with torch.no_grad():
            layers, logits = run(model, batch[row])
        assert distance(trace.outputs[row], logits) < BOUND
        for layer, (stream, dense) in enumerate(layers):
            operator = trace.operator(layer)
            assert isinstance(operator, AffineMap)
            assert isinstance(operator.scan, MultiScan)
            assert distance(trace.layers[layer].stream_in[row], stream) < BOUND
            T, beta = contributions(dense), biases(dense)
            assert distance(T.sum(dim=1) + beta, dense.y) < BOUND
            target = length // 2
            vectors, own_bias = operator.contributions(target)
            size = T.abs().max() + beta.abs().max()
            assert (vectors[row] - T[target]).abs().max() < BOUND * size
            assert (own_bias[row] - beta[target]).abs().max() < BOUND * size
            assert distance(methods.latim(trace, layer)[row], T.norm(dim=-1)) < BOUND
            assert distance(methods.latim_row(trace, layer, target, 1)[row], T.norm(p=1, dim=-1)[target]) < BOUND
            assert distance(methods.hidden_attention(trace, layer)[row], dense.alpha) < BOUND
            assert distance(methods.hidden_attention(trace, layer, "mean")[row], dense.alpha.mean(dim=0)) < BOUND
            implicit = dense_implicit(dense)
            assert distance(methods.implicit_attention(trace, layer)[row], implicit) < BOUND
            mean = methods.implicit_attention_row(trace, layer, target)[row]
            assert distance(mean, implicit.mean(dim=0)[target]) < BOUND


def test_methods_across_layers():
    model = grid_model()
    batch = tokens(model)
    trace = capture(model, tokens=batch)
    identity = torch.eye(12, dtype=torch.float64)
    gradients = differentiate(model, last_logit, mixers=True, tokens=batch)
    with pytest.raises(UnsupportedModelError, match="zero here up to rounding, because LayerNorms follow"):
        from_gradients(trace, gradients, range(12))
    draw = torch.Generator().manual_seed(5)
    mixers = {
        name: (y, torch.randn(y.shape, generator=draw, dtype=y.dtype)) for name, (y, _) in gradients.mixers.items()
    }
    gradients = dataclasses.replace(gradients, mixers=mixers)
    for row in range(2):
        layers, _ = run(model, batch[row])
        flows = [flow[row] for _, flow in mixers.values()]
        with torch.no_grad():
            first, second = (identity + dense.alpha.mean(dim=0) for _, dense in layers)
            assert distance(methods.rollout(trace)[row], second @ first) < BOUND
            rho = torch.full((12,), 1 / 12, dtype=torch.float64)
            for (_, dense), flow in zip(reversed(layers), reversed(flows), strict=True):
                rho = rho + rho @ (flow.mean(dim=1)[:, None] * dense.alpha.mean(dim=0)).clamp(min=0)
            assert distance(from_gradients(trace, gradients, range(12))[row], rho) < BOUND
            stream, dense = layers[0]
            T, after = contributions(dense), stream + dense.y
            T = T + torch.diag_embed(stream.t()).permute(1, 2, 0)
            close = after.abs().sum(dim=1)[:, None] - (after[:, None] - T).abs().sum(dim=2)
            expected = close.clamp(min=0) / close.clamp(min=0).sum(dim=1, keepdim=True)
            assert distance(methods.alti(trace, 0)[row], expected) < BOUND


@pytest.mark.parametrize("frozen", COMBINATIONS, ids=lambda names: "+".join(sorted(names)) or "none")
def test_every_set_of_rules_is_the_dense_graph_with_those_detached(frozen):
    model = grid_model()
    batch = tokens(model)
    found = mamba_lrp(capture(model, tokens=batch), last_logit, rules=PropagationRules(**dict.fromkeys(frozen, True)))
    for row in range(2):
        assert distance(found.scores[row], relevance(model, batch[row], frozen)) < BOUND
    for rule in frozen:
        assert distance(found.scores[0], relevance(model, batch[0], frozen - {rule})) > 1e-3, f"{rule} does nothing"


@pytest.mark.parametrize("options", [{}, RELEASED], ids=["gated", "released"])
def test_the_gamma_rule(options):
    model = grid_model(**options)
    batch = tokens(model)
    found = mamba_lrp(
        capture(model, tokens=batch), last_logit, rules=PropagationRules(**dict.fromkeys(RULES, True), gamma=0.25)
    )
    for row in range(2):
        assert distance(found.scores[row], relevance(model, batch[row], RULES, 0.25)) < BOUND


@pytest.mark.parametrize("gamma", [0.0, 0.25])
@pytest.mark.parametrize("gated", [True, False], ids=["gated", "released"])
def test_relevance_is_conserved(gated, gamma):
    """Each branch of the gate's product carries half of its relevance."""
    model = without_biases(grid_model(gated=gated))
    rules = PropagationRules(**dict.fromkeys(RULES, True), gamma=gamma)
    assert mamba_lrp(capture(model, tokens=tokens(model)), last_logit, rules=rules).conservation_error.max() < 1e-12


@torch.no_grad()
def test_interventions_cut_all_four_scans():
    model = grid_model()
    batch = tokens(model, 1)
    stream, dense = run(model, batch[0])[0][1]
    mixer, after = model.layers[1].mixer, stream + dense.y
    s = dense.a * torch.sigmoid(dense.a)
    z = layer_norm(model.layers[1].norm, stream) @ mixer.in_proj.weight[8:].t() + mixer.in_proj.bias[8:]
    whole = torch.einsum("dij,jd->id", dense.alpha, s) + dense.skip * s

    def cut(target, source):
        weight = dense.alpha[:, target, source] + (dense.skip if target == source else 0)
        o = layer_norm(mixer.out_norm, (whole[target] - weight * s[source])[None])[0]
        return stream[target] + mixer.out_proj(o * z[target] * torch.sigmoid(z[target]))

    found = value_zeroing(capture(model, tokens=batch), 1, batch=5)
    for target, source in itertools.product((0, 5, 11), range(12)):
        expected = 1 - torch.cosine_similarity(cut(target, source), after[target], dim=0)
        assert float(found[0, target, source]) == pytest.approx(float(expected), rel=1e-6, abs=1e-12)
    effect = knockout(capture(model, tokens=batch), last_logit, targets=[2, 7], layers=(1, 1), batch=5)
    for source in range(12):
        turned = after.clone()
        turned[2], turned[7] = cut(2, source), cut(7, source)
        lost = model.head(layer_norm(model.norm, after).mean(dim=0)) - model.head(
            layer_norm(model.norm, turned).mean(0)
        )
        assert float(effect.scores[source]) == pytest.approx(float(lost[3]), rel=1e-7, abs=1e-12)


def test_a_call_that_says_another_order_than_it_reads_is_noticed(monkeypatch):
    model, wrapped = grid_model(), module.cross_scan
    mistaken = [order.roll(1) for order in wrapped(3, 4)]
    monkeypatch.setattr(module, "cross_scan", lambda *grid: mistaken)
    assert max(capture(model, tokens=tokens(model)).reconstruction_error) < 1e-12, "any orders, if said and done alike"
    scan = SS2D._scan

    def other(mixer, s, number, order):
        return scan(mixer, s.flip(2), number, order)

    monkeypatch.setattr(SS2D, "_scan", other)
    with pytest.raises(ReconstructionError, match="cannot be rebuilt"):
        capture(model, tokens=tokens(model))


def test_three_scans_are_refused(monkeypatch):
    wrapped = module.cross_scan
    monkeypatch.setattr(module, "cross_scan", lambda *grid: wrapped(*grid)[:3])
    model = grid_model()
    words = r"layers.0.mixer \(SS2D\) called its scan 3 times .* 4 calls \(rows, columns, rows backwards, columns"
    with pytest.raises(ReconstructionError, match=words):
        capture(model, tokens=tokens(model))


def test_a_foreign_class_with_rates_is_refused_by_name():
    class TheirSS2D(nn.Module):
        def __init__(self):
            super().__init__()
            self.A_logs = nn.Parameter(torch.zeros(8, 1))

    with pytest.raises(UnsupportedModelError, match="is a TheirSS2D, a state-space mixer"):
        find_mixers(nn.Sequential(TheirSS2D()))
