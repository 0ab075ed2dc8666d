"""Every method on Vision Mamba, against dense references: its matrices are full, and its directions are added first."""

import pytest
import torch

import mambascope
from dense_reference import distance
from mambascope import methods, readouts
from mambascope.errors import InputError
from mambascope.inputs.patches import patch_grid
from mambascope.methods.alti_logit import alti_logit
from mambascope.methods.gradients import gradient_x_input, integrated_gradients, smooth_grad
from mambascope.methods.interventions import knockout
from mambascope.methods.mamba_attribution import from_gradients
from mambascope.methods.mamba_lrp import LRP, LRP_VISION, mamba_lrp
from mambascope.methods.occlusion import occlusion
from mambascope.methods.value_zeroing import value_zeroing
from mambascope.trace import capture
from mambascope.trace.differentiate import differentiate
from mambascope.trace.rules import PropagationRules
from rounding import assert_equal_to_rounding
from vision_models import CLASS_TOKENS, pictures, vision_mamba
from vision_reference import alti as dense_alti
from vision_reference import contributions, embed, hidden, place_of_class, run
from vision_reference import implicit_attention as dense_implicit
from vision_relevance import dense_relevance, dense_value, readout_of

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

#: float64: a backward pass through two layers; the γ-rule divides by sums, none of them smaller than their output.
BOUND = 1e-10
RULES = frozenset({"silu", "scan", "gate", "norm"})
SIZE = (8, 12)
TOKENS = 7
QUERIES = ("class", "contrast", "patch")


@pytest.fixture(scope="module", params=CLASS_TOKENS)
def case(request):
    model = vision_mamba(torch.float64, image_size=SIZE, class_token=request.param)
    batch = pictures(model, 2)
    with torch.no_grad():
        return (
            model,
            batch,
            capture(model, pixel_values=batch),
            [run(model, embed(model, picture)) for picture in batch],
        )


def stacked(of, references, layer):
    return torch.stack([of(reference.layers[layer]) for reference in references])


def test_hidden_attention_and_its_kin(case):
    _, _, trace, references = case
    length = trace.shape[1]
    for layer in range(2):
        dense = stacked(hidden, references, layer)
        assert distance(methods.hidden_attention(trace, layer), dense) < BOUND
        assert distance(methods.hidden_attention(trace, layer, [4, 1]), dense[:, [4, 1]]) < BOUND
        mean = dense.mean(dim=1)
        assert mean.triu(1).any()
        assert distance(methods.hidden_attention(trace, layer, "mean"), mean) < BOUND
        low, high = dense.amin(dim=(1, 3), keepdim=True), dense.amax(dim=(1, 3), keepdim=True)
        scaled = ((dense - low) / (high - low)).mean(dim=1)
        assert distance(methods.raw_attention(trace, layer), scaled) < BOUND
        implicit = stacked(dense_implicit, references, layer)
        assert distance(methods.implicit_attention(trace, layer), implicit) < BOUND
        assert distance(methods.implicit_attention(trace, layer, "mean"), implicit.mean(dim=1)) < BOUND
        for target in range(length):
            assert distance(methods.hidden_attention_row(trace, layer, target), mean[:, target]) < BOUND
            assert distance(methods.raw_attention_row(trace, layer, target), scaled[:, target]) < BOUND
            row = methods.implicit_attention_row(trace, layer, target)
            assert distance(row, implicit.mean(dim=1)[:, target]) < BOUND


def test_rollout_of_any_tokens(case):
    _, _, trace, references = case
    length = trace.shape[1]
    identity = torch.eye(length, dtype=torch.float64)
    means = [stacked(hidden, references, layer).mean(dim=1) for layer in range(2)]
    full = (identity + means[1]) @ (identity + means[0])
    assert distance(methods.rollout(trace), full) < BOUND
    for target in (0, 3, length - 1):
        assert distance(methods.rollout_row(trace, target), full[:, target]) < BOUND
    assert distance(methods.rollout_row(trace, range(length)), full.mean(dim=1)) < BOUND, "mean-pooled features"
    steps = [identity + mean for mean in means]
    steps = [step / step.sum(dim=-1, keepdim=True) for step in steps]
    normalised = steps[1] @ steps[0]
    assert distance(methods.rollout(trace, normalise=True), normalised) < 1e-9, "sums of rows may be small"
    assert distance(methods.rollout_row(trace, 3, normalise=True), normalised[:, 3]) < 1e-9
    largest = [stacked(hidden, references, layer).abs().amax(dim=1) for layer in range(2)]
    expected = (identity + largest[1]) @ (identity + largest[0])
    assert distance(methods.rollout(trace, channels="max", absolute=True), expected) < BOUND
    implicit = [identity + stacked(dense_implicit, references, layer).mean(dim=1) for layer in range(2)]
    assert distance(methods.implicit_rollout_row(trace, 3), (implicit[1] @ implicit[0])[:, 3]) < BOUND


def test_a_discard_ratio_counts_all_that_a_target_sees(case):
    _, _, trace, references = case
    length = trace.shape[1]
    step = torch.eye(length, dtype=torch.float64).repeat(2, 1, 1)
    product = step
    for layer in range(2):
        mean = stacked(hidden, references, layer).mean(dim=1)
        kept = mean.abs().argsort(dim=-1)[..., length // 2 :]
        product = (step + torch.zeros_like(mean).scatter(-1, kept, mean.gather(-1, kept))) @ product
    assert distance(methods.rollout(trace, discard=0.5), product) < BOUND


@pytest.mark.parametrize("rule", ["secant", "silu"])
def test_latim(case, rule):
    _, _, trace, references = case
    for layer in range(2):
        T = torch.stack([contributions(reference.layers[layer], rule) for reference in references])
        for norm in (1, 2):
            maps = methods.latim(trace, layer, norm, rule)
            assert distance(maps, T.norm(p=norm, dim=-1)) < BOUND
            for target in (0, 3, trace.shape[1] - 1):
                assert distance(methods.latim_row(trace, layer, target, norm, rule), maps[:, target]) < BOUND
        vectors, beta = methods.contributions(trace, layer, -1, rule)
        assert distance(vectors, T[:, -1]) < BOUND
        if rule == "secant":
            y = torch.stack([reference.layers[layer].y[-1] for reference in references])
            assert distance(vectors.sum(dim=1) + beta, y) < BOUND


def test_alti(case):
    _, _, trace, references = case
    maps = [stacked(dense_alti, references, layer) for layer in range(2)]
    for layer in range(2):
        assert distance(methods.alti(trace, layer), maps[layer]) < BOUND
        for target in range(trace.shape[1]):
            assert distance(methods.alti_row(trace, layer, target), maps[layer][:, target]) < BOUND
    product = maps[1] @ maps[0]
    assert distance(methods.alti_rollout(trace), product) < BOUND
    assert distance(methods.alti_rollout_row(trace, [1, 5]), product[:, [1, 5]].mean(dim=1)) < BOUND


@pytest.mark.parametrize("query", QUERIES)
def test_alti_logit(case, query):
    model, batch, trace, references = case
    updates = alti_logit(trace, readout_of(query))
    assert float(updates.conservation_error.max()) < BOUND
    for row, reference in enumerate(references):
        value, asked = dense_value(model, query, reference)
        assert distance(updates.value[row], value) < BOUND
        along = model.head.weight[3] - (model.head.weight[1] if query == "contrast" else 0)
        along = reference.features[2] / reference.features[2].norm() if query == "patch" else along / len(asked)
        scores = []
        for layer in range(2):
            T = contributions(reference.layers[layer])
            update = sum(T[i] @ (along * reference.final_factor[i]) for i in asked)
            scores.append(update @ dense_alti(reference.layers[0]) if layer else update)
        assert distance(updates.scores[row], torch.stack(scores)) < BOUND


@pytest.mark.parametrize("query", QUERIES)
def test_mamba_attribution(case, query):
    model, batch, trace, _ = case
    gradients = differentiate(model, readout_of(query), mixers=True, pixel_values=batch)
    asked = None
    for row, picture in enumerate(batch):
        with torch.enable_grad():
            reference = run(model, embed(model, picture).detach().requires_grad_())
            value, asked = dense_value(model, query, reference)
            flows = torch.autograd.grad(value, [layer.y for layer in reference.layers])
        rho = torch.zeros(len(reference.tokens), dtype=torch.float64)
        rho[asked] = 1 / len(asked)
        for layer, flow in zip(reversed(reference.layers), reversed(flows), strict=True):
            weighted = (flow.mean(dim=1)[:, None] * hidden(layer).mean(dim=0)).clamp(min=0)
            rho = rho + rho @ weighted
        assert distance(from_gradients(trace, gradients, asked)[row], rho) < BOUND


@pytest.mark.parametrize("pixels", [False, True], ids=["tokens", "pixels"])
@pytest.mark.parametrize("gamma", [0.0, 0.25])
@pytest.mark.parametrize("query", QUERIES)
def test_mamba_lrp(case, query, gamma, pixels):
    model, batch, *_ = case
    rules = PropagationRules(**dict.fromkeys(RULES, True), softmax=True, gamma=gamma)
    assert rules == (LRP_VISION if gamma else LRP)
    found = mamba_lrp(capture(model, pixel_values=batch), readout_of(query), rules=rules, pixels=pixels)
    scores = found.pixels if pixels else found.scores
    for row, picture in enumerate(batch):
        expected, value = dense_relevance(model, picture, query, RULES, gamma, pixels)
        assert distance(found.value[row], value) < BOUND
        assert scores[row].shape == expected.shape
        assert distance(scores[row], expected) < BOUND
    if pixels:
        at_tokens = mamba_lrp(capture(model, pixel_values=batch), readout_of(query), rules=rules)
        assert_equal_to_rounding(found.scores, at_tokens.scores, "relevance of tokens with pixels and without")


@pytest.mark.parametrize("rule", sorted(RULES))
def test_each_rule_alone(case, rule):
    model, batch, *_ = case
    found = mamba_lrp(
        capture(model, pixel_values=batch[:1]), readouts.class_(3), rules=PropagationRules(**{rule: True}), pixels=True
    )
    expected, _ = dense_relevance(model, batch[0], "class", frozenset({rule}), 0.0, True)
    assert distance(found.pixels[0], expected) < BOUND
    others, _ = dense_relevance(model, batch[0], "class", frozenset(), 0.0, True)
    assert distance(expected, others) > 1e-4


def without_biases(model):
    """Zero every bias and position that relevance could flow into; Δ's own is part of a coefficient.

    The class token stays: where it is zero so is its gate, and every logit with it.
    """
    with torch.no_grad():
        for block in model.layers:
            mixer = block.mixer
            for part in (mixer.in_proj, mixer.conv1d, mixer.conv1d_b, mixer.out_proj):
                part.bias.zero_()
        model.head.bias.zero_()
        model.patch_embed.proj.bias.zero_()
        model.pos_embed.zero_()
    return model


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
@pytest.mark.parametrize("gamma", [0.0, 0.25])
@pytest.mark.parametrize("place", CLASS_TOKENS)
def test_relevance_is_conserved(place, gamma, dtype):
    """Float32's unit roundoff of 6e-8 over sums of thousands of terms that cancel; float64's 1e-16 likewise."""
    rules = PropagationRules(**dict.fromkeys(RULES, True), softmax=True, gamma=gamma)
    bound = {torch.float32: 1e-4, torch.float64: 1e-12}[dtype]
    for query in QUERIES:
        model = vision_mamba(dtype, class_token=place)
        batch = pictures(model, 2)
        for pixels in (False, True):
            found = mamba_lrp(capture(model, pixel_values=batch), readout_of(query), rules=rules, pixels=pixels)
            assert found.conservation_error.max() < bound
            assert (found.biases.abs() > 1e-4).all()
        assert ((found.pixel_share - 1).abs() > 1e-3).all(), "class token and positions hold some"
        model = without_biases(model)
        found = mamba_lrp(capture(model, pixel_values=batch), readout_of(query), rules=rules, pixels=True)
        grid = patch_grid(model, {"pixel_values": batch})
        of_patches = found.scores.double()[:, list(grid.patch_positions)].sum(dim=1)
        sizes = found.pixels.double().abs().sum(dim=(1, 2))
        assert (sizes > 1e-2).all()
        assert ((found.pixels.double().sum(dim=(1, 2)) - of_patches).abs() / sizes).max() < bound
        assert not found.biases.any()
        assert found.pixels.shape == (2, 12, 16)


def test_a_share_of_nothing_is_no_number_and_no_evidence():
    """Where no patch reaches the class, the tokens hold nothing to share out among the pixels."""
    model = vision_mamba(torch.float32)
    with torch.no_grad():
        model.head.weight.zero_()
    found = mambascope.explain(model, None, {"pixel_values": pictures(model, 1)}, method="mamba-lrp")
    assert not found.scores.any()
    assert "pixel_share" not in found.diagnostics


def test_pixels_that_no_patch_reads_have_no_relevance():
    model = vision_mamba(torch.float64)
    trace = capture(model, pixel_values=pictures(model, 1, (14, 19)))
    scores = mamba_lrp(trace, readouts.class_(0), rules=LRP_VISION, pixels=True).pixels[0]
    assert scores.shape == (14, 19)
    assert scores[:12, :16].all()
    assert not scores[12:].any()
    assert not scores[:, 16:].any()
    with pytest.raises(InputError, match="no pixels"):
        mamba_lrp(capture(model, inputs_embeds=model.embed(pictures(model))), readouts.class_(0), pixels=True)
    with pytest.raises(InputError, match="stopped at the tokens"):
        mamba_lrp(trace, readouts.class_(0), rules=LRP_VISION).pixel_share  # noqa: B018


@pytest.mark.parametrize("query", QUERIES)
def test_gradient_methods(case, query):
    model, batch, *_ = case
    found = gradient_x_input(capture(model, pixel_values=batch), readout_of(query))
    through = mamba_lrp(capture(model, pixel_values=batch), readout_of(query), rules=PropagationRules(), pixels=True)
    for row, picture in enumerate(batch):
        expected, _ = dense_relevance(model, picture, query, frozenset(), 0.0, False)
        assert distance(found.scores[row], expected) < BOUND
        expected, _ = dense_relevance(model, picture, query, frozenset(), 0.0, True)
        assert distance(through.pixels[row], expected) < BOUND
    length = found.scores.shape[1]
    one = {"pixel_values": batch[:1]}
    assert smooth_grad(capture(model, **one), readout_of(query), samples=2, noise=1e-6).scores.shape == (1, length)
    nearly = smooth_grad(capture(model, **one), readout_of(query), samples=2, noise=1e-9).scores
    assert distance(nearly, found.scores[:1]) < 1e-5
    if query == "class":
        steps = integrated_gradients(capture(model, **one), readout_of(query), steps=3).scores
        embedded = embed(model, batch[0]).detach()
        nodes = torch.tensor([0.5 - 0.15**0.5, 0.5, 0.5 + 0.15**0.5], dtype=torch.float64)
        expected = 0
        for node, weight in zip(nodes, (5 / 18, 8 / 18, 5 / 18), strict=True):
            with torch.enable_grad():
                leaf = (node * embedded).requires_grad_()
                value, _ = dense_value(model, query, run(model, leaf))
                expected = expected + weight * (torch.autograd.grad(value, leaf)[0] * embedded).sum(dim=1)
        assert distance(steps[0], expected) < 1e-5, "captum's nodes are float32"


def share_of(layer, target, source):
    """What one source's value gives to one target's output, both directions, through alpha and skip."""
    total, last = 0, len(layer.residual) - 1
    for one, i, j in ((layer.forwards, target, source), (layer.backwards, last - target, last - source)):
        s = one.a[j] * torch.sigmoid(one.a[j])
        weight = one.alpha[:, i, j] + (one.skip if i == j else 0)
        total = total + one.W_o @ (one.gate[i] * weight * s)
    return total


def test_value_zeroing_turns_targets_before_the_source_too(case):
    model, batch, trace, references = case
    length = trace.shape[1]
    found = value_zeroing(capture(model, pixel_values=batch[:1]), 1, batch=3)[0]
    layer = references[0].layers[1]
    after = layer.residual + layer.y
    expected = torch.zeros(length, length, dtype=torch.float64)
    for i in range(length):
        for j in range(length):
            without = after[i] - share_of(layer, i, j)
            expected[i, j] = 1 - torch.cosine_similarity(without, after[i], dim=0)
    assert expected.triu(1).any()
    assert distance(found, expected) < BOUND


def test_knockout_cuts_both_directions(case):
    """In the last layer what is lost is the source's share, read through the final norm and the head."""
    model, batch, trace, references = case
    length, reference = trace.shape[1], references[0]
    place = place_of_class(model, length - 1)
    targets = [1, 4] if place is None else [place]
    effect = knockout(
        capture(model, pixel_values=batch[:1]), readouts.class_(3), targets=targets, layers=(1, 1), batch=4
    )
    for source in range(length):
        stream = reference.stream.clone()
        for target in targets:
            stream[target] -= share_of(reference.layers[1], target, source)
        scale = torch.sqrt((stream**2).mean(dim=1, keepdim=True) + model.norm_f.eps)
        features = stream / scale * model.norm_f.weight
        pooled = features.mean(dim=0) if place is None else features[place]
        logit = model.head.weight[3] @ pooled + model.head.bias[3]
        assert effect.scores[source] == pytest.approx((reference.logits[3] - logit).item(), rel=1e-8, abs=1e-12)


def test_occlusion(case):
    model, batch, trace, references = case
    effect = occlusion(capture(model, pixel_values=batch[:1]), readouts.class_(3))
    tokens = references[0].tokens
    for source in range(trace.shape[1]):
        hidden_one = tokens.clone()
        hidden_one[source] = 0
        with torch.no_grad():
            fall = references[0].logits[3] - run(model, hidden_one).logits[3]
        assert effect.scores[source] == pytest.approx(fall.item(), rel=1e-8, abs=1e-12)
