"""Every reference layer: its own recurrence and its operator give the same output."""

import copy

import pytest
import torch

from dense_reference import distance
from mambascope.models.layers import LAYERS
from mambascope.models.layers.hippo import hippo
from mambascope.operators.token_mixer import TokenMixer

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

WIDTH = 8


def tokens(length, seed=1, texts=2, dtype=torch.float64):
    return torch.randn(texts, length, WIDTH, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=LAYERS.values(), ids=LAYERS)
def make(request):
    return request.param


def from_operator(layer, x):
    """The output by way of the operator."""
    mixer, v = layer.mixer(x), layer.values(x).detach()
    assert isinstance(mixer, TokenMixer)
    return layer.finish(mixer.apply(v) + mixer.skip * v, x)


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 130], ids=lambda n: f"L{n}")
def test_the_operator_rebuilds_the_layers_output(make, length):
    """To 1e-12: sums of some hundred terms in float64, in another order."""
    layer, x = make(WIDTH, seed=3).double(), tokens(length)
    output = layer(x)
    assert output.shape == x.shape
    assert output.dtype == torch.float64
    assert distance(from_operator(layer, x), output) < 1e-12
    assert distance(layer.finish(layer.run(x), x), output) < 1e-12


def test_in_single_precision_they_differ_by_its_rounding(make):
    layer, x = make(WIDTH, seed=3), tokens(65, dtype=torch.float32)
    assert distance(from_operator(layer, x), layer(x)) < 1e-5
    exact = copy.deepcopy(layer).double()(x.double())
    assert distance(layer(x).double(), exact) < 1e-4  # each of its 65 steps is rounded once more


def test_tiles_of_the_operator_rebuild_it_too(make):
    layer, x = make(WIDTH, seed=4).double(), tokens(20)
    mixer, v = layer.mixer(x), layer.values(x)
    alpha = mixer.channels(mixer.tile(slice(0, 20), slice(0, 20)))
    mixed = torch.einsum("bdij,bjd->bid", alpha, v) + mixer.skip * v
    assert distance(layer.finish(mixed, x), layer(x)) < 1e-12


def test_no_layer_sees_later_tokens_and_texts_do_not_mix(make):
    layer, x = make(WIDTH, seed=5).double(), tokens(20)
    changed = x.clone()
    changed[0, 12:] += 1
    before, after = layer(x), layer(changed)
    assert distance(before[0, :12], after[0, :12]) < 1e-12, "rounding: products of the whole text, in another order"
    assert distance(before[1], after[1]) < 1e-12
    assert not torch.allclose(before[0, 12:], after[0, 12:])
    assert torch.allclose(layer(x[:, :9]), before[:, :9], rtol=1e-12, atol=1e-14)


def test_mixing_reaches_earlier_tokens(make):
    """A layer whose output is its own token's alone would pass every other test here."""
    layer, x = make(WIDTH, seed=6).double(), tokens(20)
    changed = x.clone()
    changed[:, 3] += 1
    assert (layer(changed) - layer(x))[:, 10].abs().max() > 1e-4


def test_a_seed_decides_the_weights_and_torchs_generator_is_left_alone(make):
    state = torch.random.get_rng_state()
    first, again, other = (make(WIDTH, seed=seed) for seed in (7, 7, 8))
    assert torch.equal(torch.random.get_rng_state(), state)
    x = tokens(5, dtype=torch.float32)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), "drawn from one seed, and nothing computed since"
    assert distance(first(x), again(x)) < 1e-6
    assert not torch.allclose(first(x), other(x))


def test_every_weight_learns(make):
    layer, x = make(WIDTH, seed=9).double(), tokens(12)
    layer(x).square().sum().backward()
    for name, weight in layer.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        assert weight.grad.abs().max() > 0, name


def test_gradients_through_the_operator_are_those_of_the_layer(make):
    layer, x = make(WIDTH, seed=9).double(), tokens(12).requires_grad_()
    v, mixer = layer.values(x), layer.operator(x)
    rebuilt = layer.finish(mixer.apply(v) + mixer.skip * v, x)
    ours, theirs = (torch.autograd.grad(out.square().sum(), x)[0] for out in (rebuilt, layer(x)))
    assert distance(ours, theirs) < 1e-10  # a gradient is a sum of some thousand terms


def test_the_mixer_is_frozen(make):
    layer, x = make(WIDTH, seed=9), tokens(12, dtype=torch.float32).requires_grad_()
    mixer = layer.mixer(x)
    assert not mixer.tile(slice(0, 12), slice(0, 12)).requires_grad
    assert not mixer.apply(layer.values(x).detach()).requires_grad


def test_dss_exp_too():
    layer, x = LAYERS["DSS"](WIDTH, seed=3, horizon=None).double(), tokens(65)
    assert distance(from_operator(layer, x), layer(x)) < 1e-12


@pytest.mark.parametrize("size", [1, 2, 7, 16])
def test_s4s_parts_are_hippos(size):
    """Λ, P, B and V make LegS again, the matrix of the paper's equation 2."""
    eigenvalues, P, B, V = hippo(size)
    A = V @ (torch.diag(eigenvalues) - torch.outer(P, P.conj())) @ V.conj().t()
    n = torch.arange(size, dtype=torch.float64)
    wanted = torch.zeros(size, size, dtype=torch.float64)
    for i in range(size):
        for j in range(i + 1):
            wanted[i, j] = -(n[i] + 1) if i == j else -((2 * n[i] + 1) ** 0.5) * (2 * n[j] + 1) ** 0.5
    assert distance(A.real, wanted) < 1e-12
    assert A.imag.abs().max() < 1e-12
    assert distance((V @ B).real, (2 * n + 1).sqrt()) < 1e-12
