"""Mamba-Attribution against its formula, with gradients from plain autograd on the stock model.

The gradients of the reference come from `retain_grad` on the mixers' outputs in transformers' own code, those of the
package from `differentiate`; alpha and the products over layers are dense and share nothing with the package.
"""

import pytest
import torch

from dense_reference import distance, runs
from mambascope import InputError, readouts
from mambascope.methods.mamba_attribution import from_gradients
from mambascope.trace import capture
from mambascope.trace.differentiate import differentiate
from models import FAMILIES, padded_batch, stock_model, without_downcasts

LENGTH, LAYERS = 15, 5
#: float64: a backward pass through five layers, then products of five matrices.
BOUND = 1e-10

#: What is explained, and the same in plain torch on logits (b, L, tokens).
READOUTS = {
    "the last token's logit": (readouts.token(LENGTH - 1, 7), lambda z: z[:, LENGTH - 1, 7]),
    "a logit in the middle": (readouts.token(8, 21), lambda z: z[:, 8, 21]),
    "a lead": (readouts.token(LENGTH - 1, 7, 30), lambda z: z[:, LENGTH - 1, 7] - z[:, LENGTH - 1, 30]),
    "a continuation": (
        readouts.continuation(12, [4, 9, 33], "…"),
        lambda z: sum(z[:, 11 + k].log_softmax(dim=-1)[:, token] for k, token in enumerate([4, 9, 33])),
    ),
}


@pytest.fixture(scope="module", params=FAMILIES)
def case(request):
    model = stock_model(request.param, torch.float64, num_hidden_layers=LAYERS)
    ids = torch.cat([padded_batch(LENGTH, 1, "left", seed=seed)[0] for seed in (0, 1)])
    with without_downcasts(request.param):
        trace = capture(model, input_ids=ids)
    return request.param, model, ids, trace, runs(model, ids)


def stock_gradients(family, model, ids, value):
    """Return the gradient of a number at every mixer's output, (b, L, E) each, by autograd in the stock code."""
    outputs = []

    def keep(_, __, output):
        output.retain_grad()
        outputs.append(output)

    handles = [block.mixer.register_forward_hook(keep) for block in model.backbone.layers]
    with without_downcasts(family):
        value(model(input_ids=ids, use_cache=False).logits).sum().backward()
    for handle in handles:
        handle.remove()
    model.zero_grad()
    return [output.grad for output in outputs]


def ours(case, readout):
    family, model, ids, trace, _ = case
    with without_downcasts(family):
        gradients = differentiate(model, readout, mixers=True, input_ids=ids)
        return from_gradients(trace, gradients, readout.positions)


@pytest.mark.parametrize("name", READOUTS)
def test_gradients_at_the_mixers_are_the_stock_models(case, name):
    family, model, ids, trace, _ = case
    readout, value = READOUTS[name]
    expected = stock_gradients(family, model, ids, value)
    with without_downcasts(family):
        gradients = differentiate(model, readout, mixers=True, input_ids=ids)
    assert len(gradients.mixers) == LAYERS
    for layer, (record, gradient) in enumerate(zip(trace.branches, expected, strict=True)):
        assert distance(gradients.mixers[record.name][1], gradient) < BOUND, f"layer {layer}"
        assert distance(gradients.mixers[record.name][0], record.captured.y) < BOUND, f"output of layer {layer}"


@pytest.mark.parametrize("name", READOUTS)
def test_published_is_the_product_of_identity_plus_positive_weighted_attention(case, name):
    family, model, ids, _, texts = case
    readout, value = READOUTS[name]
    gradients = stock_gradients(family, model, ids, value)
    scores = ours(case, readout)
    for number, text in enumerate(texts):
        rows = []
        for target in readout.positions:
            row = torch.eye(LENGTH, dtype=torch.float64)[target]
            for layer, gradient in zip(reversed(text.layers), reversed(gradients), strict=True):
                mean = layer.alpha.mean(dim=0)
                beta = torch.eye(LENGTH, dtype=torch.float64)
                for i in range(LENGTH):
                    for j in range(i + 1):
                        beta[i, j] += max(0.0, float(gradient[number, i].mean() * mean[i, j]))
                row = row @ beta
            rows.append(row)
        assert distance(scores[number], torch.stack(rows).mean(dim=0)) < BOUND, f"text {number}"


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_padded_batch_equals_one_by_one(family, side):
    """Without biases, which the stock model lets flow from padded tokens on the left."""
    model = stock_model(family, torch.float64, use_bias=False, use_conv_bias=False)
    ids, mask = padded_batch(12, 3, side)

    def scored(position, **inputs):
        with without_downcasts(family):
            trace = capture(model, **inputs)
            gradients = differentiate(model, readouts.token(position, 7), mixers=True, **inputs)
            return from_gradients(trace, gradients, (position,))

    batch = scored(-1, input_ids=ids, attention_mask=mask)
    for text in range(3):
        real = mask[text].bool()
        alone = scored(int(real.sum()) - 1, input_ids=ids[text : text + 1, real])
        assert distance(batch[text][real], alone[0]) < BOUND, f"text {text}"
        assert not batch[text][~real].any(), "padding is no source"


def test_wrong_requests_are_refused_in_one_sentence(case):
    family, model, ids, trace, _ = case
    with without_downcasts(family):
        full = differentiate(model, readouts.token(3, 1), mixers=True, input_ids=ids)
    for call, words in (
        (lambda: from_gradients(trace, full, (3, 4), variant="reference-code"), "one target"),
        (lambda: from_gradients(trace, full, (LENGTH,)), f"target {LENGTH} is not a position"),
        (lambda: from_gradients(trace, full, readouts.class_(1).positions), "is not a position"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
