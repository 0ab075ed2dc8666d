"""MambaVision's mixer: against loops written from the equations, its operator, methods and rules, foreign classes."""

import importlib
import itertools
import sys

import pytest
import torch
from torch import nn

from dense_reference import RULES, distance
from grid_reference import biases, contributions, layer_norm, line_mixer, relevance, run
from grid_reference import implicit_attention as dense_implicit
from mambascope import methods
from mambascope.errors import UnsupportedModelError
from mambascope.families import find_mixers
from mambascope.methods.interventions import knockout
from mambascope.methods.mamba_lrp import mamba_lrp
from mambascope.methods.value_zeroing import value_zeroing
from mambascope.models.mambavision import MambaVisionMixer
from mambascope.operators.affine_map import AffineMap
from mambascope.trace import capture
from mambascope.trace.rules import PropagationRules
from picture_mixer_models import last_logit, line_model, tokens, without_biases

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

#: float64: a few hundred products chained over two layers, and a backward pass.
BOUND = 1e-10
COMBINATIONS = [frozenset(rules) for count in range(5) for rules in itertools.combinations(sorted(RULES), count)]


@torch.no_grad()
def looped(mixer, x):
    """Return y of one picture's tokens, token by token; the bias of Δ twice, as the released models have it."""
    length, half = len(x), len(mixer.D)
    taps = mixer.conv1d_x.weight.shape[-1]
    u = [mixer.in_proj(token) for token in x]
    kernel = torch.cat([mixer.conv1d_x.weight[:, 0], mixer.conv1d_z.weight[:, 0]])
    zeros = torch.zeros(half, dtype=x.dtype)
    conv_bias = torch.cat([zeros if c.bias is None else c.bias for c in (mixer.conv1d_x, mixer.conv1d_z)])
    state, out = torch.zeros_like(mixer.A_log), []
    for k in range(length):
        a = conv_bias.clone()
        for tap in range(taps):
            place = k + tap - (taps - 1) // 2
            if 0 <= place < length:
                a += kernel[:, tap] * u[place]
        active = a / (1 + torch.exp(-a))
        s = active[:half]
        N = state.shape[1]
        dt, B, C = (mixer.x_proj.weight @ s).split([len(mixer.x_proj.weight) - 2 * N, N, N])
        step = torch.log1p(torch.exp(mixer.dt_proj.weight @ dt + 2 * mixer.dt_proj.bias))
        state = torch.exp(-step[:, None] * torch.exp(mixer.A_log)) * state + (step * s)[:, None] * B
        out.append(mixer.out_proj(torch.cat([state @ C + mixer.D * s, active[half:]])))
    return torch.stack(out)


@pytest.mark.parametrize("options", [{}, {"conv_bias": False, "use_bias": False}, {"conv_kernel": 4}, {"expand": 2}])
@pytest.mark.parametrize("length", [1, 2, 9])
def test_it_computes_what_the_equations_say(length, options):
    model = line_model(**options)
    batch = tokens(model, 3, length)
    mixer = model.layers[0].mixer
    with torch.no_grad():
        y = mixer(batch)
        for row, x in enumerate(batch):
            assert distance(y[row], looped(mixer, x)) < 1e-12
            assert distance(line_mixer(mixer, x).y, looped(mixer, x)) < 1e-12, "the dense reference of other tests"


@pytest.mark.parametrize("E", [320, 640], ids=["third stage", "fourth stage"])
def test_it_has_the_released_names_and_shapes(E):
    """As in the third and fourth stage of MambaVision-T."""
    half, rank = E // 2, E // 16
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in MambaVisionMixer(E).state_dict().items()}
    assert shapes == {
        "A_log": (half, 8),
        "D": (half,),
        "in_proj.weight": (E, E),
        "x_proj.weight": (rank + 16, half),
        "dt_proj.weight": (half, rank),
        "dt_proj.bias": (half,),
        "conv1d_x.weight": (half, 1, 3),
        "conv1d_z.weight": (half, 1, 3),
        "out_proj.weight": (E, E),
    }


@pytest.mark.parametrize("options", [{}, {"conv_bias": False, "use_bias": False}, {"conv_kernel": 4}])
@pytest.mark.parametrize("length", [1, 7, 19], ids=lambda n: f"L{n}")
def test_the_operator_is_the_dense_reference(length, options):
    model = line_model(**options)
    batch = tokens(model, 2, length)
    trace = capture(model, tokens=batch)
    assert max(trace.reconstruction_error) < 1e-12
    for row in range(2):
        with torch.no_grad():
            layers, logits = run(model, batch[row])
        assert distance(trace.outputs[row], logits) < BOUND
        for layer, (_, dense) in enumerate(layers):
            operator = trace.operator(layer)
            assert isinstance(operator, AffineMap)
            T, beta = contributions(dense), biases(dense)
            target = length // 2
            vectors, own_bias = operator.contributions(target)
            assert distance(vectors[row], T[target]) < BOUND
            assert (own_bias[row] - beta[target]).abs().max() < BOUND
            assert distance(methods.latim(trace, layer)[row], T.norm(dim=-1)) < BOUND
            assert distance(methods.latim(trace, layer, 1)[row], T.norm(p=1, dim=-1)) < BOUND
            assert distance(T.sum(dim=1) + beta, dense.y) < BOUND
            maps = methods.hidden_attention(trace, layer)
            assert distance(maps[row], dense.alpha) < BOUND
            assert distance(methods.hidden_attention(trace, layer, "mean")[row], dense.alpha.mean(dim=0)) < BOUND
            implicit = dense_implicit(dense)
            assert distance(methods.implicit_attention(trace, layer)[row], implicit) < BOUND
            mean = methods.implicit_attention_row(trace, layer, target)[row]
            assert distance(mean, implicit.mean(dim=0)[target]) < BOUND


def test_rollout():
    model = line_model()
    batch = tokens(model)
    trace = capture(model, tokens=batch)
    identity = torch.eye(7, dtype=torch.float64)
    for row in range(2):
        with torch.no_grad():
            layers, _ = run(model, batch[row])
        first, second = (identity + dense.alpha.mean(dim=0) for _, dense in layers)
        assert distance(methods.rollout(trace)[row], second @ first) < BOUND
        first, second = (identity + dense_implicit(dense).mean(dim=0) for _, dense in layers)
        assert distance(methods.implicit_rollout_row(trace, 3)[row], (second @ first)[3]) < BOUND


@pytest.mark.parametrize("frozen", COMBINATIONS, ids=lambda names: "+".join(sorted(names)) or "none")
def test_every_set_of_rules_is_the_dense_graph_with_those_detached(frozen):
    model = line_model()
    batch = tokens(model)
    found = mamba_lrp(capture(model, tokens=batch), last_logit, rules=PropagationRules(**dict.fromkeys(frozen, True)))
    for row in range(2):
        assert distance(found.scores[row], relevance(model, batch[row], frozen)) < BOUND
    if "silu" in frozen:
        fewer = relevance(model, batch[0], frozen - {"silu"})
        assert distance(found.scores[0], fewer) > 1e-3


def test_the_gamma_rule():
    model = line_model()
    batch = tokens(model)
    found = mamba_lrp(
        capture(model, tokens=batch), last_logit, rules=PropagationRules(**dict.fromkeys(RULES, True), gamma=0.25)
    )
    for row in range(2):
        assert distance(found.scores[row], relevance(model, batch[row], RULES, 0.25)) < BOUND


@pytest.mark.parametrize("gamma", [0.0, 0.25])
def test_relevance_is_conserved(gamma):
    model = without_biases(line_model())
    rules = PropagationRules(**dict.fromkeys(RULES, True), gamma=gamma)
    assert mamba_lrp(capture(model, tokens=tokens(model)), last_logit, rules=rules).conservation_error.max() < 1e-12


def cut(mixer, x, target, source):
    """Return y at a target without what the scan draws there from one source."""
    dense = line_mixer(mixer, x)
    half = len(mixer.D)
    s = dense.a[source] * torch.sigmoid(dense.a[source])
    lost = (dense.alpha[:, target, source] + (dense.skip if target == source else 0)) * s
    return dense.y[target] - dense.W_o[:, :half] @ lost[:half]


@torch.no_grad()
def test_interventions_cut_the_scan():
    """The branch without a scan stays as it is."""
    model = line_model()
    batch = tokens(model, 1)
    stream, dense = run(model, batch[0])[0][1]
    x = layer_norm(model.layers[1].norm, stream)
    found = value_zeroing(capture(model, tokens=batch), 1, batch=3)
    effect = knockout(capture(model, tokens=batch), last_logit, targets=2, layers=(1, 1), batch=3)
    after = stream + dense.y
    for target, source in ((0, 0), (4, 1), (6, 5)):
        without = stream[target] + cut(model.layers[1].mixer, x, target, source)
        expected = 1 - torch.cosine_similarity(without, after[target], dim=0)
        assert float(found[0, target, source]) == pytest.approx(float(expected), rel=1e-6)
    for source in range(7):
        turned = after.clone()
        turned[2] = stream[2] + (cut(model.layers[1].mixer, x, 2, source) if source <= 2 else dense.y[2])
        logit = (model.head.weight @ layer_norm(model.norm, turned).mean(dim=0) + model.head.bias)[3]
        whole = (model.head.weight @ layer_norm(model.norm, after).mean(dim=0) + model.head.bias)[3]
        assert float(effect.scores[source]) == pytest.approx(float(whole - logit), rel=1e-7, abs=1e-12)


FOREIGN = """
import torch
import torch.nn.functional as F
from torch import nn

from {scan_module} import mamba_selective_scan as {name}
from mambascope.models.mambavision import MambaVisionMixer


class MixerOfTheirs(nn.Module):
    def __init__(self, *args, **options):
        super().__init__()
        for name, part in MambaVisionMixer(*args, **options).named_children():
            self.add_module(name, part)
        for name, part in MambaVisionMixer(*args, **options).named_parameters(recurse=False):
            self.register_parameter(name, part)

    def forward(self, hidden_states):
        u, z = self.in_proj(hidden_states).transpose(1, 2).chunk(2, dim=1)
        u, z = (F.silu(F.pad(v, (1, 1)).unfold(2, 3, 1).mul(c.weight[:, 0, None]).sum(-1) + c.bias[:, None])
                for v, c in ((u, self.conv1d_x), (z, self.conv1d_z)))
        rank, N = self.dt_proj.in_features, self.A_log.shape[1]
        dt, B, C = self.x_proj(u.transpose(1, 2)).transpose(1, 2).split([rank, N, N], dim=1)
        o = {name}(u, self.dt_proj(dt.transpose(1, 2)).transpose(1, 2), -self.A_log.exp(), B, C, self.D, z=None,
                   delta_bias=self.dt_proj.bias, delta_softplus=True, return_last_state=None)
        return {factor} * self.out_proj(torch.cat([o, z], dim=1).transpose(1, 2))
"""


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """Return a function that makes a model of mixers of a class that a file of the user's own defines."""
    monkeypatch.syspath_prepend(str(tmp_path))
    made = itertools.count()

    def make(name="selective_scan_fn", factor=1):
        module = f"their_mixers_{next(made)}"
        scan = MambaVisionMixer.__module__
        (tmp_path / f"{module}.py").write_text(FOREIGN.format(scan_module=scan, name=name, factor=factor))
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, module, raising=False)
        return line_model(kind=importlib.import_module(module).MixerOfTheirs)

    return make


def test_a_foreign_class_with_the_same_parts_is_read(foreign):
    theirs, ours = foreign(), line_model()
    ours.load_state_dict(theirs.state_dict())
    batch = tokens(ours)
    trace, expected = capture(theirs, tokens=batch), capture(ours, tokens=batch)
    assert [type(record.mixer).__name__ for record in trace.branches] == ["MixerOfTheirs"] * 2
    assert max(trace.reconstruction_error) < 1e-12
    assert distance(methods.latim(trace), methods.latim(expected)) < BOUND
    for frozen in COMBINATIONS:
        rules = PropagationRules(**dict.fromkeys(frozen, True), gamma=0.25 if frozen == RULES else 0.0)
        found = mamba_lrp(capture(theirs, tokens=batch), last_logit, rules=rules)
        assert distance(found.scores, mamba_lrp(capture(ours, tokens=batch), last_logit, rules=rules).scores) < BOUND
    lost = knockout(capture(theirs, tokens=batch[:1]), last_logit, targets=2).scores
    assert distance(lost, knockout(capture(ours, tokens=batch[:1]), last_logit, targets=2).scores) < BOUND


def test_a_foreign_class_without_a_scan_to_answer_is_refused(foreign):
    with pytest.raises(UnsupportedModelError, match=r"layers.0.mixer is a MixerOfTheirs"):
        find_mixers(foreign(name="their_scan"))


def test_a_foreign_class_that_computes_something_else_is_refused(foreign):
    model = foreign(factor=2)
    with pytest.raises(UnsupportedModelError, match=r"layers.0.mixer \(MixerOfTheirs\): it calls .* 5.00e-01 of its"):
        capture(model, tokens=tokens(model))
    with pytest.raises(UnsupportedModelError, match=r"layers.0.mixer \(MixerOfTheirs\)"):
        capture(model, check=False, tokens=tokens(model))  # a class that nobody named is always checked


def test_parts_alone_make_no_mixer():
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.A_log, self.in_proj = nn.Parameter(torch.zeros(2, 2)), nn.Linear(2, 2)

    with pytest.raises(UnsupportedModelError, match="is a Other"):
        find_mixers(Other())
