"""ALTI and ALTI-Logit against dense contribution vectors, and the sum of scores and terms against the readout."""

import pytest
import torch

from dense_reference import alti as dense_alti
from dense_reference import biases, contributions, distance, runs
from mambascope import readouts
from mambascope.methods.alti import alti, alti_rollout, alti_rollout_row, alti_row
from mambascope.methods.alti_logit import alti_logit
from mambascope.trace import capture
from models import FAMILIES, padded_batch, stock_model, without_downcasts

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

LENGTH, LAYERS = 14, 3
TARGETS = (0, 1, 6, LENGTH - 1)
RULES = ("secant", "silu", "identity")
#: float64: sums over the model's width of differences of L1 norms, then products over three layers.
BOUND = 1e-10


@pytest.fixture(scope="module", params=FAMILIES)
def case(request):
    model = stock_model(request.param, torch.float64, num_hidden_layers=LAYERS)
    ids = torch.cat([padded_batch(LENGTH, 1, "left", seed=seed)[0] for seed in (0, 1)])
    with without_downcasts(request.param):
        trace = capture(model, input_ids=ids)
    texts = runs(model, ids)
    maps = {rule: [[dense_alti(layer, rule) for layer in text.layers] for text in texts] for rule in RULES}
    return request.param, model, ids, trace, texts, maps


def rolled(maps):
    """Return R^1, R^2, …: R^1 = C^1, R^λ = C^λ R^{λ-1}."""
    out = [maps[0]]
    for C in maps[1:]:
        out.append(C @ out[-1])
    return out


@pytest.mark.parametrize("rule", RULES)
def test_maps_and_rows_are_how_much_closer_each_source_brings_the_output(case, rule):
    _, _, _, trace, texts, maps = case
    for layer in range(LAYERS):
        full = alti(trace, layer, rule)
        for text in range(len(texts)):
            assert distance(full[text], maps[rule][text][layer]) < BOUND, f"layer {layer}, text {text}"
            for target in TARGETS:
                row = alti_row(trace, layer, target, rule)[text]
                assert distance(row, maps[rule][text][layer][target]) < BOUND, f"layer {layer}, row {target}"
        assert not full.triu(1).any()
        assert (full.sum(dim=-1) - 1).abs().max() < BOUND


@pytest.mark.parametrize("rule", RULES)
def test_rollout_multiplies_the_maps_and_adds_no_identity(case, rule):
    _, _, _, trace, texts, maps = case
    full = alti_rollout(trace, rule)
    for text in range(len(texts)):
        expected = rolled(maps[rule][text])[-1]
        assert distance(full[text], expected) < BOUND
        for target in TARGETS:
            assert distance(alti_rollout_row(trace, target, rule)[text], expected[target]) < BOUND, f"row {target}"
        several = alti_rollout_row(trace, (2, -1), rule)[text]
        assert distance(several, (expected[2] + expected[-1]) / 2) < BOUND, "the mean of two rows"


def test_a_row_that_nothing_brings_closer_is_the_targets_own():
    """Here the mixers give their bias alone, and the residual points away from it: no source made the output."""
    model = stock_model("mamba", torch.float64)
    with torch.no_grad():
        model.backbone.embeddings.weight.fill_(-1e-3)
        for block in model.backbone.layers:
            block.mixer.out_proj.weight.zero_()
            block.mixer.out_proj.bias.fill_(1.0)
    ids, _ = padded_batch(6, 1, "left")
    trace = capture(model, input_ids=ids)
    own = torch.eye(6, dtype=torch.float64)
    assert torch.equal(alti(trace, 0)[0], own)
    assert torch.equal(alti_row(trace, 0, 4)[0], own[4])


def explained(case, readout, rule="secant"):
    family, _, _, trace, _, _ = case
    with without_downcasts(family):
        return alti_logit(trace, readout, rule=rule)


def dense_scores(case, text, directions, rule):
    """Return (layer, L): Σ_t q_t · T^λ_tj, carried to the inputs by R^{λ-1}; `directions` are (position, q)."""
    _, _, _, _, texts, maps = case
    shares = [torch.eye(LENGTH, dtype=torch.float64), *rolled(maps[rule][text])]
    rows = []
    for layer, share in zip(texts[text].layers, shares[:-1], strict=True):
        T = contributions(layer, rule)
        rows.append(sum(T[position] @ q for position, q in directions) @ share)
    return torch.stack(rows)


def logit_direction(model, text, position, token):
    return (model.lm_head.weight[token] * text.final_factor[position]).detach()


def dense_terms(text, directions):
    """Return what belongs to no other token: the embedding at the readout's positions, and the mixers' biases."""
    residual = sum(text.embedded[position] @ q for position, q in directions)
    bias = sum(biases(layer)[position] @ q for layer in text.layers for position, q in directions)
    return residual, bias


@pytest.mark.parametrize("position", TARGETS)
@pytest.mark.parametrize("rule", RULES)
def test_a_logits_scores_are_updates_carried_to_the_inputs(case, rule, position):
    _, model, _, _, texts, _ = case
    result = explained(case, readouts.token(position, 7), rule)
    for number, text in enumerate(texts):
        directions = [(position, logit_direction(model, text, position, 7))]
        assert distance(result.scores[number], dense_scores(case, number, directions, rule)) < BOUND, f"text {number}"


@pytest.mark.parametrize("position", TARGETS)
def test_scores_and_terms_sum_to_the_logit(case, position):
    _, model, _, _, texts, _ = case
    result = explained(case, readouts.token(position, 7))
    assert set(result.terms) == {"residual", "bias", "other", "constant"}
    assert result.conservation_error.max() < 1e-12
    for number, text in enumerate(texts):
        logit = float(text.logits[position, 7])
        residual, bias = dense_terms(text, [(position, logit_direction(model, text, position, 7))])
        size = abs(logit) + float(result.scores[number].abs().sum()) + abs(float(residual)) + abs(float(bias))
        assert abs(float(result.value[number]) - logit) < BOUND * size
        assert abs(float(result.terms["residual"][number] - residual)) < BOUND * size
        assert abs(float(result.terms["bias"][number] - bias)) < BOUND * size
        assert abs(float(result.terms["other"][number])) < 1e-13 * size, "there is nothing but mixers"
        assert abs(float(result.terms["constant"][number])) < 1e-13 * size, "neither final norm nor head has a bias"
        assert abs(float(result.scores[number].sum() + residual + bias) - logit) < BOUND * size


def test_a_contrast_is_the_difference_of_two_logits(case):
    both, target, foil = (explained(case, readouts.token(9, *tokens)) for tokens in ((7, 30), (7,), (30,)))
    assert distance(both.scores, target.scores - foil.scores) < BOUND
    for name in ("residual", "bias"):
        assert distance(both.terms[name], target.terms[name] - foil.terms[name]) < BOUND, name
    assert distance(both.value, target.value - foil.value) < BOUND


def test_a_continuation_is_explained_to_first_order_at_all_its_positions(case):
    """q_t is the gradient of log p(w_t) in the stream; what is not linear in the stream is the term `constant`."""
    _, model, _, _, texts, _ = case
    tokens, start = (4, 9, 33), 8
    result = explained(case, readouts.continuation(start, tokens, "…"))
    assert result.conservation_error.max() < 1e-12
    W_U = model.lm_head.weight.detach()
    for number, text in enumerate(texts):
        directions = []
        value = 0.0
        for position, token in enumerate(tokens, start - 1):
            p = text.logits[position].softmax(dim=-1)
            directions.append((position, (W_U[token] - p @ W_U) * text.final_factor[position].detach()))
            value += float(p[token].log())
        residual, bias = dense_terms(text, directions)
        linear = sum(float(text.stream[position] @ q) for position, q in directions)
        assert distance(result.scores[number], dense_scores(case, number, directions, "secant")) < BOUND
        assert abs(float(result.value[number]) - value) < BOUND * abs(value)
        assert abs(float(result.terms["residual"][number] - residual)) < BOUND * abs(float(residual))
        assert abs(float(result.terms["bias"][number] - bias)) < BOUND * abs(float(bias)) + BOUND
        assert abs(float(result.terms["constant"][number]) - (value - linear)) < BOUND * (abs(value) + abs(linear))
        total = result.scores[number].sum() + sum(term[number] for term in result.terms.values())
        assert abs(float(total) - value) < BOUND * float(result.scores[number].abs().sum())


@pytest.mark.parametrize("rule", RULES)
def test_the_activation_rule_shows_in_the_conservation_error(case, rule):
    """The secant leaves nothing; the other two leave a residual of tenths of the output on random weights."""
    error = explained(case, readouts.token(LENGTH - 1, 7), rule).conservation_error
    assert (error < 1e-12).all() if rule == "secant" else (error > 1e-3).all()
