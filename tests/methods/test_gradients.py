"""The gradient family against plain autograd through the stock code in float64."""

import sys

import pytest
import torch
import transformers

from mambascope import readouts
from mambascope.errors import InputError, UnsupportedModelError
from mambascope.methods.gradients import GradientScores, gradient_x_input, integrated_gradients, smooth_grad
from mambascope.trace import capture
from models import FAMILIES, padded_batch, stock_model, without_downcasts
from rounding import assert_equal_to_rounding

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

LENGTH = 9
IDS, MASK = padded_batch(LENGTH, 2, "left", seed=3)
READOUT = readouts.token(LENGTH - 1, 7, foil=11)
METHODS = (gradient_x_input, integrated_gradients, smooth_grad)
#: Both sides are float64 throughout and differ in the order of their sums.
BOUND = {"rtol": 1e-10, "atol": 1e-11}


def traced(model, ids=IDS, mask=None):
    return capture(model, input_ids=ids, **({} if mask is None else {"attention_mask": mask}))


def gradient(model, embeddings, mask=None):
    """Return the stock model's gradient at its embeddings and its readout, by autograd through the stock scan."""
    leaf = embeddings.detach().requires_grad_()
    value = READOUT(model(inputs_embeds=leaf, attention_mask=mask, use_cache=False))
    return torch.autograd.grad(value.sum(), leaf)[0], value.detach()


def table(model, ids=IDS):
    return model.get_input_embeddings().weight.detach()[ids]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


def test_gradient_x_input_is_that_of_autograd(family):
    model = stock_model(family, torch.float64)
    x = table(model)
    with without_downcasts(family):
        flow, value = gradient(model, x, MASK)
        _, nothing = gradient(model, x * 0, MASK)
        found = gradient_x_input(traced(model, IDS, MASK), READOUT)
        from_embeddings = gradient_x_input(capture(model, inputs_embeds=x, attention_mask=MASK), READOUT)
    assert torch.allclose(found.scores, (flow * x).sum(dim=-1), **BOUND)
    assert torch.allclose(found.value, value, **BOUND)
    expected = (value - nothing - (flow * x).sum(dim=(1, 2))).abs() / (value - nothing).abs()
    assert torch.allclose(found.error, expected, rtol=1e-8)
    assert torch.allclose(from_embeddings.scores, found.scores, rtol=1e-12)
    assert found.scores[0].abs().min() > 1e-6


def test_integrated_gradients_are_the_integral_of_autograds(family):
    """Captum keeps the weights of its rule in float32, whose rounding, 6e-8, is what the bound allows."""
    model, steps = stock_model(family, torch.float64), 6
    x = table(model)
    with without_downcasts(family):
        nodes, weights = _gauss_legendre(steps)
        flow = sum(w * gradient(model, node * x, MASK)[0] for node, w in zip(nodes, weights, strict=True))
        found = integrated_gradients(traced(model, IDS, MASK), READOUT, steps=steps)
        in_parts = integrated_gradients(traced(model, IDS, MASK), READOUT, steps=steps, batch=4)
    expected = (flow * x).sum(dim=-1)
    assert float((found.scores - expected).norm() / expected.norm()) < 3e-7
    assert torch.allclose(in_parts.scores, found.scores, rtol=1e-9, atol=1e-12)


def _gauss_legendre(steps):
    """Return nodes and weights on [0, 1], from the eigenvalues of the Jacobi matrix (Golub & Welsch 1969)."""
    k = torch.arange(1, steps, dtype=torch.float64)
    beta = k / (4 * k**2 - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(beta, 1) + torch.diag(beta, -1))
    return ((nodes + 1) / 2).tolist(), vectors[0].square().tolist()


@pytest.mark.parametrize("baseline", ["zero", "mean"])
def test_integrated_gradients_are_complete(family, baseline):
    """With norms that are smooth near zero the integral converges; the rule's weights are float32."""
    inner = {"mixer_rms_eps": 1.0} if family == "falcon_mamba" else {}
    model = stock_model(family, torch.float64, layer_norm_epsilon=1.0, **inner)
    with without_downcasts(family):
        found = integrated_gradients(traced(model, IDS, MASK), READOUT, baseline=baseline)
        x = table(model)
        start = x * 0 + (table(model, slice(None)).mean(dim=0) if baseline == "mean" else 0)
        before = gradient(model, start, MASK)[1]
    assert torch.allclose(found.scores.sum(dim=1), found.value - before, rtol=1e-5)
    assert found.error.max() < 1e-5


def test_an_integral_that_has_not_converged_says_so(family):
    """Stock norms make embeddings of zeros a corner of the model, which a rule of 5 steps cannot see."""
    model = stock_model(family, torch.float64)
    with without_downcasts(family):
        found = integrated_gradients(traced(model, IDS[:1]), READOUT, steps=5)
        before = gradient(model, table(model, IDS[:1]) * 0)[1]
    missing = float((found.value - before - found.scores.sum()).abs() / (found.value - before).abs())
    assert found.error.item() == pytest.approx(missing, rel=1e-9)
    assert missing > 0.1


def test_smooth_grad_is_the_mean_over_noise(family):
    """The noise is drawn again here as captum draws it: one call for all samples, float32, from the seed.

    Its size is that of the text itself, without padding.
    """
    model, samples, noise = stock_model(family, torch.float64), 6, 0.3
    with without_downcasts(family):
        found = smooth_grad(traced(model, IDS, MASK), READOUT, noise=noise, samples=samples, seed=4)
        for row in range(2):
            x, mask = table(model)[row : row + 1], MASK[row : row + 1]
            torch.manual_seed(4)
            size = torch.full((samples, *x.shape[1:]), noise * float(x[mask.bool()].std()))
            noisy = x + torch.normal(0, size)
            flow = gradient(model, noisy, mask.expand(samples, -1))[0].mean(dim=0)
            assert torch.allclose(found.scores[row], (flow * x[0]).sum(dim=-1), **BOUND), f"text {row}"


def test_smooth_grad_follows_its_seed_and_leaves_the_global_one(family):
    """Also while it runs: another thread may be drawing from it."""
    model, seen = stock_model(family), []
    before = torch.get_rng_state()
    model.register_forward_hook(lambda *_: seen.append(torch.equal(torch.get_rng_state(), before)))
    one, again, other = (smooth_grad(traced(model), READOUT, samples=3, seed=s).scores for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert len(seen) > 9
    assert all(seen)
    assert_equal_to_rounding(again, one)
    assert not torch.allclose(one, other)
    alone = smooth_grad(traced(model, IDS[1:]), READOUT, samples=3, seed=0).scores
    assert torch.allclose(alone, one[1:], rtol=1e-4, atol=1e-5), "a text's neighbours change nothing"  # float32
    still = smooth_grad(traced(model), READOUT, noise=1e-9, samples=1).scores
    assert torch.allclose(still, gradient_x_input(traced(model), READOUT).scores, rtol=1e-3, atol=1e-4)


def test_transformers_have_gradients_too():
    config = transformers.GPT2Config(n_layer=2, n_embd=12, n_head=2, vocab_size=50, n_positions=32)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).eval().double()
    x = table(model)
    flow, value = gradient(model, x)
    found = gradient_x_input(traced(model), READOUT)
    assert torch.allclose(found.scores, (flow * x).sum(dim=-1), **BOUND)
    assert torch.allclose(found.value, value, **BOUND)


@pytest.mark.parametrize("method", METHODS)
def test_the_model_is_left_as_it_was(family, method):
    model = stock_model(family).train()
    frozen = model.backbone.layers[0].norm.weight.requires_grad_(False)
    asking = [p.requires_grad for p in model.parameters()]

    def hooks():
        return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]

    expected = hooks()
    ids = IDS.clone()
    method(traced(model, ids), READOUT)

    def broken(outputs):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        method(traced(model, ids), broken)
    assert [p.requires_grad for p in model.parameters()] == asking
    assert not frozen.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert all(m.training for m in model.modules())
    assert hooks() == expected
    assert torch.equal(ids, IDS)


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_and_no_grad_callers_are_served(method):
    model, seen = stock_model("mamba", torch.bfloat16), set()
    model.backbone.layers[0].register_forward_pre_hook(lambda _, args: seen.add(args[0].dtype))
    with torch.no_grad():
        found = method(traced(model), READOUT)
    assert seen == {torch.bfloat16}, "the model reads embeddings of its own precision"
    assert isinstance(found, GradientScores)
    assert found.scores.dtype == torch.bfloat16
    assert found.scores.isfinite().all()
    assert found.scores.shape == IDS.shape


@pytest.mark.parametrize("method", METHODS)
def test_without_captum_the_way_to_get_it_is_said(method, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.delitem(sys.modules, "captum.attr", raising=False)
    with pytest.raises(InputError, match=r"pip install mambascope\[captum\]"):
        method(traced(stock_model("mamba")), READOUT)


@pytest.mark.parametrize("method", METHODS)
def test_quantised_models_are_refused(method):
    model = stock_model("mamba")
    model.backbone.layers[0].mixer.in_proj.qweight = torch.zeros(1)  # as several libraries' layers have
    with pytest.raises(UnsupportedModelError, match="is quantised"):
        method(traced(model), READOUT)


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda m: integrated_gradients(traced(m), READOUT, steps=0), "steps must be 1 or more"),
        (lambda m: integrated_gradients(traced(m), READOUT, batch=0), "batch must be 1 or more"),
        (
            lambda m: integrated_gradients(traced(m), READOUT, baseline="noise"),
            "unknown baseline 'noise'",
        ),
        (lambda m: smooth_grad(traced(m), READOUT, samples=0), "samples must be 1 or more"),
        (lambda m: smooth_grad(traced(m), READOUT, noise=0.0), "is not positive"),
        (lambda m: smooth_grad(traced(m), READOUT, noise=float("nan")), "noise must be a finite number, found nan"),
        (lambda m: gradient_x_input(traced(m, IDS[0]), READOUT), "must have shape"),
        (lambda m: gradient_x_input(capture(m), READOUT), "there is nothing to read"),
    ],
)
def test_refusals_are_one_sentence(run, words):
    with pytest.raises(InputError, match=words) as caught:
        run(stock_model("mamba"))
    assert "\n" not in str(caught.value)
