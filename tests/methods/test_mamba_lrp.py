"""MambaLRP against a dense graph of the model with `.detach()` where the paper puts it, and conservation of relevance.

The reference (`dense_reference.run`) is the whole model in plain autograd with dense alpha; what it freezes is named
rule by rule, so that each rule of the package is held to its own detach.
"""

import contextlib
import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from dense_reference import RULES, distance, gamma_relevance, run
from mambascope import readouts
from mambascope.methods.mamba_lrp import ATTN_LRP, LRP, LRP_VISION, mamba_lrp
from mambascope.operators.frozen import frozen_ratio, gamma_stand_in
from mambascope.trace import capture
from mambascope.trace.rules import GRADIENT, PropagationRules
from models import FAMILIES, padded_batch, stock_model, without_downcasts

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

LENGTH = 12
#: float64: a backward pass through two layers; the γ-rule divides by sums, none of them smaller than their output.
BOUND = 1e-10
#: All, each rule off, each rule alone, two and two, none.
COMBINATIONS = [frozenset(rules) for count in range(5) for rules in itertools.combinations(sorted(RULES), count)]
#: Float32's unit roundoff of 6e-8 over sums of thousands of terms that cancel; float64's 1e-16 likewise.
CONSERVED = {torch.float32: 1e-5, torch.float64: 1e-12}


def rules(names, gamma=0.0):
    return PropagationRules(**dict.fromkeys(names, True), gamma=gamma)


def reference(model, ids, readout, frozen, gamma=0.0):
    """Return relevance (L,) and value of one text (1, L) from the dense graph."""
    embedded = model.backbone.embeddings(ids[0]).detach().requires_grad_()
    value = readout.of_logits(run(model, embedded, frozen, gamma).logits[None]).sum()
    (gradient,) = torch.autograd.grad(value, embedded)
    return (embedded * gradient).sum(dim=-1).detach(), value.detach()


def predicted(outputs):
    """The largest logit after the last token: a small one is a difference of large scores, and its error no measure."""
    return outputs.logits[:, -1].max(dim=-1).values


def without_biases(model):
    """Return the model with every bias zero that relevance could flow into; Δ's own is part of a coefficient."""
    with torch.no_grad():
        for block in model.backbone.layers:
            for part in (block.mixer.in_proj, block.mixer.conv1d, block.mixer.out_proj):
                if part.bias is not None:
                    part.bias.zero_()
    return model


@pytest.mark.parametrize("frozen", COMBINATIONS, ids=lambda names: "+".join(sorted(names)) or "none")
@pytest.mark.parametrize("family", FAMILIES)
def test_every_set_of_rules_is_the_dense_graph_with_those_detached(family, frozen):
    model = stock_model(family, torch.float64)
    ids, _ = padded_batch(LENGTH, 1, "left")
    for readout in (readouts.token(LENGTH - 1, 7, 30), readouts.continuation(6, [4, 9], "…")):
        expected, value = reference(model, ids, readout, frozen)
        with without_downcasts(family):
            result = mamba_lrp(capture(model, input_ids=ids), readout, rules=rules(frozen))
        assert distance(result.value[0], value) < BOUND
        assert distance(result.scores[0], expected) < BOUND


def test_the_default_is_all_rules_and_the_sets_differ():
    """Were two sets alike, the test above could pass with a rule that does nothing."""
    assert replace(rules(RULES), softmax=True) == LRP
    assert rules(RULES) == ATTN_LRP
    assert rules((), 0.0) == GRADIENT
    assert replace(rules(RULES, 0.25), softmax=True) == LRP_VISION
    for family in FAMILIES:
        model = stock_model(family, torch.float64)
        ids, _ = padded_batch(LENGTH, 1, "left")
        scores = [reference(model, ids, readouts.token(LENGTH - 1, 7), frozen)[0] for frozen in COMBINATIONS]
        assert min(distance(a, b) for a, b in itertools.combinations(scores, 2)) > 1e-4


def explicit_linear(x, weight, bias, relevance, gamma):
    """The γ-rule neuron by neuron, number by number: x (J,), weight (K, J), bias (K,), R (K,)."""
    out = torch.zeros_like(x)
    for k in range(len(weight)):
        z = float(weight[k] @ x + bias[k])
        sign = 1 if z > 0 else -1
        parts = []
        for xj, wj in [*zip(x.tolist(), weight[k].tolist(), strict=True), (1.0, float(bias[k]))]:
            agrees = xj * wj * sign > 0
            parts.append(xj * wj * (1 + gamma if agrees else 1))
        for j in range(len(x)):
            out[j] += parts[j] / sum(parts) * relevance[k]
    return out


def package_relevance(layer, x, weight, bias, relevance, gamma):
    """Gradient times input through the package's stand-in, for relevance given at the output."""
    leaf = x.clone().requires_grad_()
    value = layer(leaf, weight, bias)
    through = frozen_ratio(value, gamma_stand_in(layer, leaf, weight, bias, gamma)[0])
    assert distance(through, value) < 1e-14, "the forward pass is unchanged"
    (gradient,) = torch.autograd.grad((through * (relevance / value.detach())).sum(), leaf)
    return x * gradient


@pytest.mark.parametrize("gamma", [0.0, 0.25, 3.0])
def test_the_gamma_rule_of_a_linear_layer_redistributes_neuron_by_neuron(gamma):
    draw = torch.Generator().manual_seed(0)
    x, weight, bias, relevance = (
        torch.randn(shape, dtype=torch.float64, generator=draw) for shape in ((5, 7), (6, 7), (6,), (5, 6))
    )
    expected = torch.stack([explicit_linear(x[i], weight, bias, relevance[i], gamma) for i in range(5)])
    assert distance(package_relevance(F.linear, x, weight, bias, relevance, gamma), expected) < BOUND
    assert distance(gamma_relevance(x, weight, bias, relevance, gamma), expected) < BOUND, "the dense reference"
    kept = package_relevance(F.linear, x, weight, torch.zeros(6, dtype=torch.float64), relevance, gamma).sum()
    assert abs(float(kept - relevance.sum())) < BOUND, "without a bias relevance is conserved"


@pytest.mark.parametrize("gamma", [0.0, 0.25, 3.0])
def test_the_gamma_rule_of_a_depthwise_convolution_redistributes_over_its_window(gamma):
    draw = torch.Generator().manual_seed(1)
    channels, length, taps = 3, 8, 4
    x, weight, bias, relevance = (
        torch.randn(shape, dtype=torch.float64, generator=draw)
        for shape in ((1, channels, length), (channels, taps), (channels,), (1, channels, length))
    )

    def convolution(x, weight, bias):
        return F.conv1d(F.pad(x, (taps - 1, 0)), weight[:, None], bias, groups=channels)

    expected = torch.zeros_like(x)
    for d in range(channels):
        for k in range(length):
            window = torch.stack([x[0, d, k - delta] if k >= delta else x.new_zeros(()) for delta in range(taps)])
            shares = explicit_linear(
                window, weight[d : d + 1].flip(1), bias[d : d + 1], relevance[0, d, k : k + 1], gamma
            )
            for delta in range(min(taps, k + 1)):
                expected[0, d, k - delta] += shares[delta]
    assert distance(package_relevance(convolution, x, weight, bias, relevance, gamma), expected) < BOUND


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gamma_rule_of_a_whole_model_is_the_explicit_one(family):
    """With biases, which take their own part, and γ = 0.25 in in_proj, convolution and out_proj."""
    model = stock_model(family, torch.float64)
    ids, _ = padded_batch(8, 1, "left")
    readout = readouts.token(7, 7)
    expected, _ = reference(model, ids, readout, RULES, gamma=0.25)
    with without_downcasts(family):
        ours = mamba_lrp(capture(model, input_ids=ids), readout, rules=LRP_VISION).scores[0]
        plain = mamba_lrp(capture(model, input_ids=ids), readout, rules=LRP).scores[0]
    assert distance(ours, expected) < BOUND
    assert distance(ours, plain) > 1e-2, "γ does something"


@pytest.mark.parametrize("used", [LRP, LRP_VISION], ids=["language", "vision"])
@pytest.mark.parametrize("dtype", CONSERVED, ids=["f32", "f64"])
@pytest.mark.parametrize(("length", "batch"), [(20, 1), (20, 2), (300, 2)])
@pytest.mark.parametrize("family", FAMILIES)
def test_relevance_of_tokens_and_biases_is_the_logit(family, length, batch, dtype, used):
    """The predicted token's logit; also for texts of different lengths padded on the left, and over 300 tokens."""
    model = stock_model(family, dtype)
    ids, mask = padded_batch(length, batch, "left")
    given = {"input_ids": ids, "attention_mask": mask}
    with without_downcasts(family) if dtype == torch.float64 else contextlib.nullcontext():
        result = mamba_lrp(capture(model, **given), predicted, rules=used)
        bare = mamba_lrp(capture(without_biases(model), **given), predicted, rules=used)
    assert float(result.conservation_error.max()) < CONSERVED[dtype]
    assert (result.biases.abs().amax(dim=0) > 1e-3).all(), "every layer has biases that hold something"
    assert not result.scores[mask == 0].any(), "padding has no relevance"
    lost = (bare.value.double() - bare.scores.double().sum(dim=1)).abs() / bare.scores.double().abs().sum(dim=1)
    assert float(lost.max()) < CONSERVED[dtype], "where every bias is zero the tokens hold all"
    assert not bare.biases.any()


@pytest.mark.parametrize("family", FAMILIES)
def test_without_biases_a_log_probabilitys_relevance_sums_to_its_linear_part(family):
    """A log-probability is no linear map of the logits: relevance starts from its gradient there times the logits."""
    model = without_biases(stock_model(family, torch.float64))
    ids, _ = padded_batch(LENGTH, 1, "left")
    with without_downcasts(family):
        result = mamba_lrp(capture(model, input_ids=ids), readouts.continuation(6, [4, 9], "…"))
    linear = 0.0
    for position, token in ((5, 4), (6, 9)):
        z = result.outputs.logits[0, position]
        linear += float(z[token] - z.softmax(dim=-1) @ z)
    assert abs(float(result.scores.sum()) - linear) < 1e-12 * abs(linear)
    assert float(result.conservation_error) < 1e-12
    assert abs(linear - float(result.value)) > 0.1


@pytest.mark.parametrize("off", sorted(RULES))
@pytest.mark.parametrize("family", FAMILIES)
def test_with_one_rule_off_relevance_is_not_conserved(family, off):
    """Each rule freezes what makes a part non-linear; left out, the part's gradient times input is not its output.

    A product of two branches counts twice, a norm hardly at all (it does not change along its own input), the SiLU by
    what its slope differs from its secant, the scan by what its coefficients owe to its input. The errors are tenths
    and more; 1e-3 is ten orders of magnitude above what all rules leave.
    """
    model = without_biases(stock_model(family, torch.float64))
    ids, _ = padded_batch(20, 1, "left")
    with without_downcasts(family):
        result = mamba_lrp(capture(model, input_ids=ids), predicted, rules=rules(RULES - {off}))
    assert float(result.conservation_error) > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_what_biases_hold_is_their_gradient_times_them_layer_by_layer(family):
    """Against autograd through the dense graph, each bias taken as an input of its own."""
    model = stock_model(family, torch.float64)
    ids, _ = padded_batch(LENGTH, 1, "left")
    readout = readouts.token(LENGTH - 1, 7)
    with without_downcasts(family):
        result = mamba_lrp(capture(model, input_ids=ids), readout)
    value = readout.of_logits(run(model, model.backbone.embeddings(ids[0]), RULES).logits[None]).sum()
    for layer, block in enumerate(model.backbone.layers):
        parts = [p for name, p in block.named_parameters() if name.endswith("bias") and "dt_" not in name]
        gradients = torch.autograd.grad(value, parts, retain_graph=True)
        held = sum((part.detach() * gradient).sum() for part, gradient in zip(parts, gradients, strict=True))
        assert abs(float(held)) > 1e-3
        assert distance(result.biases[0, layer], held) < BOUND
    assert not result.other_biases.any(), "neither the final norm nor the head has a bias"


@pytest.mark.parametrize("used", [LRP, LRP_VISION], ids=["language", "vision"])
def test_biases_of_the_head_belong_to_no_layer(used):
    """And those of a text in a batch are its own."""
    model = stock_model("mamba", torch.float64)
    model.lm_head = torch.nn.Linear(model.lm_head.in_features, model.lm_head.out_features, dtype=torch.float64)
    ids, _ = padded_batch(LENGTH, 3, "left")
    readout = readouts.token(LENGTH - 1, 7)
    with without_downcasts("mamba"):
        batch = mamba_lrp(capture(model, input_ids=ids), readout, rules=used)
        for row in range(3):
            alone = mamba_lrp(capture(model, input_ids=ids[row : row + 1]), readout, rules=used)
            assert distance(batch.biases[row], alone.biases[0]) < BOUND
    assert distance(batch.other_biases, model.lm_head.bias[7].detach().expand(3)) < BOUND
    assert float(batch.conservation_error.max()) < CONSERVED[torch.float64]


@pytest.mark.parametrize("used", [LRP, LRP_VISION, GRADIENT], ids=["language", "vision", "gradient"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_padded_batch_equals_one_by_one(family, side, used):
    """Without biases, which the stock model lets flow from padded tokens on the left."""
    model = without_biases(stock_model(family, torch.float64))
    ids, mask = padded_batch(20, 3, side)
    with without_downcasts(family):
        batch = mamba_lrp(capture(model, input_ids=ids, attention_mask=mask), readouts.token(-1, 7), rules=used)
    for row in range(3):
        real = mask[row].bool()
        with without_downcasts(family):
            text = ids[row : row + 1, real]
            alone = mamba_lrp(capture(model, input_ids=text), readouts.token(int(real.sum()) - 1, 7), rules=used)
        assert distance(batch.scores[row][real], alone.scores[0]) < BOUND, f"text {row}"
        assert distance(batch.value[row], alone.value[0]) < BOUND, f"text {row}"
        assert not batch.scores[row][~real].any(), "padding has no relevance"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_answers_as_before_and_is_left_as_it_was(family):
    model = stock_model(family)
    ids, _ = padded_batch(LENGTH, 1, "left")
    plain = model(input_ids=ids).logits.detach()
    for used in (LRP, LRP_VISION):
        result = mamba_lrp(capture(model, input_ids=ids), readouts.token(LENGTH - 1, 7), rules=used)
        # float32: the same sums in another order
        assert distance(result.outputs.logits, plain) < 1e-5
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
