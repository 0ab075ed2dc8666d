"""The dense reference is the stock model: same outputs, same gradients, and its parts add up."""

import pytest
import torch

from dense_reference import biases, contributions, distance, implicit_attention, run, runs
from models import FAMILIES, padded_batch, stock_model, without_downcasts

#: float64: a few hundred products chained over two layers.
BOUND = 1e-11


@pytest.fixture(scope="module", params=FAMILIES)
def case(request):
    model = stock_model(request.param, torch.float64)
    ids, _ = padded_batch(13, 1, "left")
    return request.param, model, ids


def test_it_computes_what_the_stock_code_computes(case):
    family, model, ids = case
    seen = []
    handles = [b.mixer.register_forward_hook(lambda m, i, o: seen.append(o[0].detach())) for b in model.backbone.layers]
    with without_downcasts(family):
        logits = model(input_ids=ids, use_cache=False).logits[0]
    for handle in handles:
        handle.remove()
    (reference,) = runs(model, ids)
    assert distance(reference.logits, logits.detach()) < BOUND
    for layer, y in zip(reference.layers, seen, strict=True):
        assert distance(layer.y, y) < BOUND


def test_its_gradient_is_the_stock_codes_gradient(case):
    family, model, ids = case
    gradients = []
    for logits in (lambda e: run(model, e[0]).logits, lambda e: model(inputs_embeds=e, use_cache=False).logits[0]):
        embedded = model.backbone.embeddings(ids).detach().requires_grad_()
        with without_downcasts(family):
            gradients.append(torch.autograd.grad(logits(embedded)[-1, 7], embedded)[0])
    assert distance(*gradients) < BOUND


def test_contributions_and_biases_sum_to_the_output(case):
    _, model, ids = case
    for layer in runs(model, ids)[0].layers:
        assert distance(contributions(layer).sum(dim=1) + biases(layer), layer.y) < BOUND
        received = torch.einsum("dij,jd->id", implicit_attention(layer), layer.u)
        assert distance(received @ layer.W_o.t() + biases(layer), layer.y) < BOUND
