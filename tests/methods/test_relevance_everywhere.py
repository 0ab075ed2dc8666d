"""Relevance through every family: it adds up to the logit, and is what the equations say, block by block.

The models are the small stock ones of `models.py` and `hybrids.py`; a family that is added there is tested here.
"""

import contextlib
from dataclasses import replace

import pytest
import torch
from torch import nn

import relevance_reference as reference
from dense_reference import distance
from hybrids import HYBRIDS, hybrid_model
from mambascope import readouts
from mambascope.methods.mamba_lrp import ATTN_LRP, LRP, LRP_VISION, mamba_lrp
from mambascope.operators.frozen import gamma_stand_in
from mambascope.trace import capture
from mambascope.trace.rules import PropagationRules
from mambascope.trace.uncovered import uncovered
from mambascope.trust import caution
from models import TRANSFORMERS, stock_transformer, transformer_inputs, without_downcasts

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

#: Sums of thousands of products that cancel, relative to the sum of their sizes.
CONSERVED = {torch.float32: 1e-5, torch.float64: 1e-10}
#: float64, two or three layers there and back; the reference adds in another order.
BOUND = 1e-10
EVERY = [*TRANSFORMERS, *HYBRIDS]


def model_and_inputs(family, dtype=torch.float32, batch=3, **options):
    if family in TRANSFORMERS:
        model, inputs = stock_transformer(family, dtype, **options), transformer_inputs(family, dtype, side="none")
        return model, {name: value[:batch] for name, value in inputs.items()}
    ids = torch.randint(3, 50, (batch, 11), generator=torch.Generator().manual_seed(0))
    return hybrid_model(family, dtype, **options), {"input_ids": ids}


def in_own_precision(model, dtype):
    """Let stock code compute in float64 throughout where the test is about that."""
    module = type(model).__module__.split(".")[-2]
    return without_downcasts(module) if dtype == torch.float64 else contextlib.nullcontext()


def predicted(outputs):
    """The largest logit, at the last position of a text: a small one is a difference of large scores."""
    logits = outputs.logits if outputs.logits.ndim == 2 else outputs.logits[:, -1]
    return logits.max(dim=-1).values


def without_biases(model):
    """Return the model with everything zero that is added and no token: biases, positions, types, class tokens."""
    added = ("bias", "position_embeddings", "cls_token", "wpe.weight", "dt_bias")
    kept = ("dt_proj.bias", "dt_bias", "A_log")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            positions = any(
                part in name for part in ("wpe", "position_embeddings", "token_type_embeddings", "cls_token")
            )
            if positions or (name.endswith(added) and not name.endswith(kept)):
                parameter.zero_()
    return model


@pytest.mark.parametrize("rules", [LRP, ATTN_LRP], ids=["frozen", "attn-lrp"])
@pytest.mark.parametrize("dtype", CONSERVED, ids=["f32", "f64"])
@pytest.mark.parametrize("family", EVERY)
def test_relevance_of_tokens_and_biases_is_the_logit(family, dtype, rules):
    """Also for several texts at once, each with its own; under AttnLRP's rules with what softmax loses as a term."""
    model, inputs = model_and_inputs(family, dtype)
    with in_own_precision(model, dtype):
        trace = capture(model, **inputs)
        found = mamba_lrp(trace, predicted, rules=rules)
    assert float(found.conservation_error.max()) < CONSERVED[dtype]
    assert found.uncovered == ""
    assert found.scores.abs().amax(dim=1).min() > 1e-3
    assert set(found.undistributed) == ({"softmax"} if rules == ATTN_LRP and "attention" in trace.kinds else set())


@pytest.mark.parametrize("family", EVERY)
def test_without_biases_the_tokens_hold_all(family):
    model, inputs = model_and_inputs(family, torch.float64)
    without_biases(model)
    with in_own_precision(model, torch.float64):
        found = mamba_lrp(capture(model, **inputs), predicted)
    held = found.terms["tokens"]
    assert float(((held - found.value).abs() / found.scores.abs().sum(dim=1)).max()) < CONSERVED[torch.float64]


#: The rules that a family has a part for: BERT has no product of two, and neither Transformer weighs tokens otherwise.
ABLATED = {"llama": ("silu", "gate", "norm"), "bert": ("silu", "norm"), "qwen3_next": ("silu", "scan", "gate", "norm")}


@pytest.mark.parametrize(("family", "off"), [(name, off) for name in ABLATED if name in EVERY for off in ABLATED[name]])
def test_with_one_rule_off_relevance_is_not_conserved(family, off):
    """Else a rule would do nothing; what it leaves out is far above rounding."""
    model, inputs = model_and_inputs(family, torch.float64)
    without_biases(model)
    with in_own_precision(model, torch.float64):
        found = mamba_lrp(capture(model, **inputs), predicted, rules=replace(LRP, **{off: False}))
    assert float(found.conservation_error.max()) > 1e-6


@pytest.mark.parametrize("family", EVERY)
def test_several_texts_are_scored_as_each_by_itself(family):
    model, inputs = model_and_inputs(family, torch.float64)
    with in_own_precision(model, torch.float64):
        together = mamba_lrp(capture(model, **inputs), predicted)
        for row in range(2):
            alone = mamba_lrp(capture(model, **{k: v[row : row + 1] for k, v in inputs.items()}), predicted)
            assert distance(together.scores[row], alone.scores[0]) < BOUND
            assert abs(float(together.terms["biases"][row] - alone.terms["biases"][0])) < BOUND


REFERENCES = {
    "llama": (reference.llama, LRP, {}),
    "llama under AttnLRP": (lambda *asked: reference.llama(*asked, differentiated=True), ATTN_LRP, {}),
    "gpt2": (reference.gpt2, LRP, {}),
    "qwen3_next": (
        reference.qwen3_next,
        LRP,
        {"layer_types": ["linear_attention"] * 2, "num_hidden_layers": 2, "mlp_only_layers": [0, 1]},
    ),
}


@pytest.mark.parametrize("name", [name for name in REFERENCES if name.split()[0] in EVERY])
def test_it_is_what_the_equations_say(name):
    expected, rules, options = REFERENCES[name]
    model, inputs = model_and_inputs(name.split()[0], torch.float64, batch=1, **options)
    with in_own_precision(model, torch.float64), torch.no_grad():
        found = mamba_lrp(capture(model, **inputs), readouts.token(9, 7), rules=rules)
        scores, biases, lost = expected(model, inputs["input_ids"][0], 9, 7)
    assert scores.abs().max() > 1e-2
    assert distance(found.scores[0], scores) < BOUND
    assert abs(float(found.terms["biases"][0]) - biases) < BOUND
    assert abs(float(found.terms.get("softmax", torch.zeros(1))[0]) - lost) < BOUND
    assert (abs(lost) > 1e-3) == (rules == ATTN_LRP)


def test_the_true_gradient_is_untouched():
    """With no rule on, the model's own autograd and ours agree, whatever is noted beside it."""
    model, inputs = model_and_inputs("llama", torch.float64)
    with in_own_precision(model, torch.float64):
        found = mamba_lrp(capture(model, **inputs), predicted, rules=PropagationRules())
        embedded = model.get_input_embeddings()(inputs["input_ids"]).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(predicted(model(inputs_embeds=embedded)).sum(), embedded)
    assert distance(found.scores, (embedded * gradient).sum(dim=-1).detach()) < BOUND


@pytest.mark.parametrize("where", ["v_proj", "o_proj"])
def test_gamma_reaches_the_linear_layers_of_attention_alone(where):
    """γ changes what attention's values hand on; with all of a layer's weights of one sign it changes nothing."""
    model, inputs = model_and_inputs("vit", torch.float64)
    with in_own_precision(model, torch.float64):
        plain, gamma = (mamba_lrp(capture(model, **inputs), predicted, rules=rules) for rules in (LRP, LRP_VISION))
    assert float(gamma.conservation_error.max()) < CONSERVED[torch.float64]
    assert distance(gamma.scores, plain.scores) > 1e-2
    weight = torch.rand(3, 4, dtype=torch.float64)
    stand_in, _ = gamma_stand_in(nn.functional.linear, torch.rand(2, 4, dtype=torch.float64), weight, None, 0.25)
    assert (stand_in > 0).all(), where


class Unknown(nn.Module):
    def forward(self, x):
        return torch.special.i0(x) - 1


class Inline(nn.Module):
    def forward(self, x):
        return x * 0.5 * (1 + torch.erf(x / 2**0.5))


@pytest.mark.parametrize(("part", "named"), [(Unknown(), "special_i0"), (Inline(), "add")])
def test_a_part_that_no_rule_covers_is_named(part, named):
    model, inputs = model_and_inputs("llama")
    model.model.layers[1].mlp.act_fn = part
    found = mamba_lrp(capture(model, **inputs), predicted)
    error = float(found.conservation_error.max())
    assert error > 1e-3
    assert found.uncovered == f"{named} in model.layers.1.mlp.act_fn"
    words = caution({"conservation_error": error, "uncovered": found.uncovered})
    assert words.startswith("do not rely on these scores: they miss what they should add up to by")
    assert f"because no propagation rule covers {named} in model.layers.1.mlp.act_fn" in words


class Aside(nn.Module):
    """Its first function lacks a rule and reaches nothing: what it returns is dropped, or multiplied by 0."""

    def __init__(self, reaching=None):
        super().__init__()
        self.reaching = reaching

    def forward(self, x):
        torch.special.i0(x)
        x = x + 0 * torch.special.i0(x).mean(dim=-1, keepdim=True)
        return x if self.reaching is None else self.reaching(x)


def test_what_reaches_nothing_is_not_named_and_what_comes_after_it_is():
    model, inputs = model_and_inputs("llama")
    model.model.layers[1].mlp.act_fn = Aside()
    assert uncovered(model, LRP, **inputs) == ""
    model.model.layers[1].mlp.act_fn = Aside(Unknown())
    assert uncovered(model, LRP, **inputs) == "special_i0 in model.layers.1.mlp.act_fn.reaching"


@pytest.mark.parametrize("family", EVERY)
def test_nothing_in_a_known_family_is_uncovered(family):
    model, inputs = model_and_inputs(family)
    for rules in (LRP, ATTN_LRP):
        assert uncovered(model, rules, **inputs) == ""


def test_the_search_draws_no_numbers_of_the_callers():
    model, inputs = model_and_inputs("gpt2")
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    uncovered(model, LRP, **inputs)
    assert torch.equal(torch.rand(3), expected)
