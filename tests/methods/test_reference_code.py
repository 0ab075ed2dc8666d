"""Released forms against what the papers' code computes, written from a description of it (`reference_code`)."""

import pytest
import torch

import dense_reference
import released_programs as reference
import vision_reference
from dense_reference import distance
from mambascope import readouts
from mambascope.errors import InputError
from mambascope.explanation import explain
from mambascope.methods.mamba_attribution import from_gradients
from mambascope.methods.raw_attention import raw_attention_row
from mambascope.methods.reference_code import check_variant, first_reference_layer
from mambascope.methods.registry import find_method
from mambascope.methods.rollout import rollout_row
from mambascope.trace import capture
from mambascope.trace.differentiate import differentiate
from models import FAMILIES, padded_batch, stock_model, without_downcasts
from vision_models import pictures, vision_mamba

#: Layers 3 and 4 of 5 are read: the reference code starts at layer 15 of 24.
LENGTH, LAYERS, FIRST = 17, 5, 3
TARGETS = (4, 9, LENGTH - 1)
#: float64: a backward pass through five layers, then products of matrices whose entries partly cancel.
BOUND = 1e-10


def agree(row, expected, target, what):
    """The reference has no place for the target; ours has, and 0 there."""
    assert row[target] == 0, f"{what}: the target's own score"
    others = torch.cat([row[:target], row[target + 1 :]])
    if expected.any():
        assert distance(others, expected) < BOUND, what
    else:  # all were negative, and clamped
        assert not others.any(), what


@pytest.fixture(scope="module", params=FAMILIES)
def texts(request):
    model = stock_model(request.param, torch.float64, num_hidden_layers=LAYERS)
    ids = torch.cat([padded_batch(LENGTH, 1, "left", seed=seed)[0] for seed in (2, 3)])
    with without_downcasts(request.param):
        trace = capture(model, input_ids=ids)
    return request.param, model, ids, trace, dense_reference.runs(model, ids)


@pytest.mark.parametrize("target", TARGETS)
def test_texts(texts, target):
    """The target stands for the class token; nothing is read from the end, and raw attention's text ends with it."""
    family, model, ids, trace, dense = texts
    with without_downcasts(family):
        gradients = differentiate(model, readouts.token(target, 7), mixers=True, input_ids=ids)
    found = {
        "rollout": rollout_row(trace, target, variant="reference-code"),
        "Mamba-Attribution": from_gradients(trace, gradients, (target,), variant="reference-code"),
    }
    for number, text in enumerate(dense):
        vectors = [reference.class_vector(layer, None, target) for layer in text.layers]
        for layer, vector in enumerate(vectors):
            raw = raw_attention_row(trace, layer, target, "reference-code")[number]
            expected = reference.raw_attention([vector[:, : target + 1]], target)
            assert expected.any(), "there is nothing to compare"
            agree(raw[: target + 1], expected, target, f"raw attention of layer {layer}, text {number}")
            assert not raw[target + 1 :].any()
        flows = [gradients.mixers[record.name][1][number] for record in trace.branches]
        expected = {
            "rollout": reference.rollout(vectors[FIRST:], target),
            "Mamba-Attribution": reference.attribution(vectors[FIRST:], flows[FIRST:], target),
        }
        for name, row in found.items():
            agree(row[number], expected[name], target, f"{name}, text {number}")
    assert all(row.any() for row in found.values()), "there is nothing to compare"


def test_the_first_token_of_a_text_has_no_source(texts):
    family, model, ids, trace, _ = texts
    with without_downcasts(family):
        gradients = differentiate(model, readouts.token(0, 7), mixers=True, input_ids=ids)
    for row in (
        raw_attention_row(trace, LAYERS - 1, 0, "reference-code"),
        rollout_row(trace, 0, variant="reference-code"),
        from_gradients(trace, gradients, (0,), variant="reference-code"),
    ):
        assert torch.equal(row, torch.zeros_like(row))


@pytest.mark.parametrize("place", ["middle", "first", "last"])
def test_pictures(place):
    """As the code is run on Vim: forwards up to the class token, backwards after it, in the layers that it reads."""
    model = vision_mamba(torch.float64, num_hidden_layers=LAYERS, class_token=place)
    batch = pictures(model, 2)
    with torch.no_grad():
        trace = capture(model, pixel_values=batch)
        runs = [vision_reference.run(model, vision_reference.embed(model, picture)) for picture in batch]
    c = vision_reference.place_of_class(model, trace.shape[1] - 1)
    readout = readouts.class_(3)
    gradients = differentiate(model, readout, mixers=True, pixel_values=batch)
    raw = torch.stack([raw_attention_row(trace, layer, c, "reference-code") for layer in range(FIRST, LAYERS)]).mean(
        dim=0
    )
    found = {
        "raw attention": raw,
        "rollout": rollout_row(trace, c, variant="reference-code"),
        "Mamba-Attribution": from_gradients(trace, gradients, (c,), variant="reference-code"),
    }
    for number, run in enumerate(runs):
        vectors = [reference.class_vector(layer.forwards, layer.backwards, c) for layer in run.layers[FIRST:]]
        flows = [gradients.mixers[record.name][1][number] for record in trace.branches[FIRST:]]
        expected = {
            "raw attention": reference.raw_attention(vectors, c),
            "rollout": reference.rollout(vectors, c),
            "Mamba-Attribution": reference.attribution(vectors, flows, c),
        }
        for name, row in found.items():
            assert expected[name].any(), "there is nothing to compare"
            agree(row[number], expected[name], c, f"{name} of picture {number}")


@pytest.mark.parametrize("name", ["raw-attention", "rollout", "mamba-attribution"])
def test_explain_returns_what_the_reference_code_does(name):
    model = vision_mamba(torch.float64, num_hidden_layers=LAYERS)
    batch = pictures(model)
    c = vision_reference.place_of_class(model, model.pos_embed.shape[1] - 1)
    target = 3 if find_method(name).asks else None
    result = explain(model, None, {"pixel_values": batch}, method=name, target=target, variant="reference-code")
    with torch.no_grad():
        run = vision_reference.run(model, vision_reference.embed(model, batch[0]))
    vectors = [reference.class_vector(layer.forwards, layer.backwards, c) for layer in run.layers[FIRST:]]
    gradients = differentiate(model, readouts.class_(3), mixers=True, pixel_values=batch)
    flows = [gradient[0] for _, gradient in list(gradients.mixers.values())[FIRST:]]
    expected = {
        "raw-attention": reference.raw_attention(vectors, c),
        "rollout": reference.rollout(vectors, c),
        "mamba-attribution": reference.attribution(vectors, flows, c),
    }[name]
    row = result.row()
    assert row[c] == 0
    assert distance(torch.cat([row[:c], row[c + 1 :]]), expected) < 1e-5, "a result holds float32"


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_padded_batch_equals_one_by_one(family, side):
    """Without biases, which the stock model lets flow from padded tokens on the left."""
    model = stock_model(family, torch.float64, use_bias=False, use_conv_bias=False, num_hidden_layers=LAYERS)
    ids, mask = padded_batch(12, 3, side)

    def scored(target, **inputs):
        with without_downcasts(family):
            trace = capture(model, **inputs)
            gradients = differentiate(model, readouts.token(target, 7), mixers=True, **inputs)
        return {
            "raw attention": raw_attention_row(trace, FIRST, target, "reference-code"),
            "rollout": rollout_row(trace, target, variant="reference-code"),
            "Mamba-Attribution": from_gradients(trace, gradients, (target,), variant="reference-code"),
        }

    seen = set()  # where a sum of signed attention is below -1, rollout may be clamped to nothing
    for target in (-1, -3):
        batch = scored(target, input_ids=ids, attention_mask=mask)
        for text in range(3):
            real = mask[text].bool()
            for name, row in scored(target, input_ids=ids[text : text + 1, real]).items():
                apart = float((batch[name][text][real] - row[0]).norm())
                assert apart <= BOUND * float(row.norm()), f"{name}, text {text}, target {target}"
                assert not batch[name][text][~real].any(), f"{name}: padding is no source"
                seen |= {name} if row.any() else set()
    assert len(seen) == 3, "nothing to compare"


def test_released_methods_start_at_layer_15_of_24():
    assert [first_reference_layer(layers) for layers in (24, 5, 48, 2, 1)] == [15, 3, 30, 1, 0]


def test_wrong_requests_are_refused_in_one_sentence(texts):
    _, _, _, trace, _ = texts
    for call, words in (
        (lambda: check_variant("code"), "unknown variant 'code'"),
        (lambda: rollout_row(trace, (0, 1), variant="reference-code"), "one target"),
        (lambda: rollout_row(trace, [], variant="reference-code"), "one target"),
        (lambda: rollout_row(trace, 0, variant="reference-code", normalise=True), "cannot be normalised"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
