"""Transformer counterparts on stock models against references written here from the papers' formulas, in float64."""

import dataclasses

import pytest
import torch

from hybrids import hybrid_model
from mambascope import capture, readouts
from mambascope.errors import InputError, UnsupportedModelError
from mambascope.explanation import explain
from mambascope.methods.alti import alti, alti_rollout, alti_rollout_row, alti_row
from mambascope.methods.alti_logit import alti_logit
from mambascope.methods.hidden_attention import hidden_attention_row
from mambascope.methods.norm_based import norm_based
from mambascope.methods.registry import METHODS
from mambascope.methods.rollout import rollout, rollout_row
from mambascope.methods.transformer_attribution import transformer_attribution
from mambascope.methods.value_bias import with_value_bias
from models import stock_model, stock_transformer, transformer_inputs
from rounding import assert_equal_to_rounding

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

MODELS = ("gpt2", "gpt_neox", "bert", "vit", "llama")
CAUSAL = {"gpt2", "gpt_neox", "llama"}


@pytest.fixture(params=MODELS)
def case(request):
    """A model in float64, one input, its capture, and a readout with its position."""
    family = request.param
    model = stock_transformer(family, torch.float64)
    inputs = {key: value[:1] for key, value in transformer_inputs(family, torch.float64, side="none").items()}
    trace = capture(model, **inputs)
    place = trace.shape[1] - 1 if family in CAUSAL else 0
    readout = readouts.token(place, 7, 3) if family in CAUSAL else readouts.class_(1, 0)
    return family, model, inputs, trace, readout, place


def stock_attentions(model, inputs, gradient_of=None):
    """Return the stock eager model's attentions, and the readout's gradient at each by plain autograd."""
    model.set_attn_implementation("eager")
    try:
        outputs = model(**inputs, output_attentions=True)
        if gradient_of is None:
            return [p.detach() for p in outputs.attentions]
        flows = torch.autograd.grad(gradient_of(outputs).sum(), outputs.attentions)
        return list(zip([p.detach() for p in outputs.attentions], flows, strict=True))
    finally:
        model.set_attn_implementation("sdpa")


def test_rollout_is_that_of_abnar_and_zuidema(case):
    """Rows of I + A sum to two where A is softmax attention, so that normalised rollout is their (A + I)/2."""
    _, model, inputs, trace, _, place = case
    product = torch.eye(trace.shape[1], dtype=torch.float64)
    for p in stock_attentions(model, inputs):
        product = (p.mean(dim=1)[0] + torch.eye(trace.shape[1], dtype=torch.float64)) / 2 @ product
    # the stock models take their softmax in float32
    assert torch.allclose(rollout(trace, normalise=True)[0], product, atol=1e-6)
    assert torch.allclose(rollout_row(trace, place, normalise=True)[0], product[place], atol=1e-6)


def test_hidden_attention_is_the_mean_of_the_heads(case):
    _, model, inputs, trace, _, place = case
    for layer, p in enumerate(stock_attentions(model, inputs)):
        assert torch.allclose(hidden_attention_row(trace, layer, place)[0], p.mean(dim=1)[0, place], atol=1e-7)


def test_transformer_attribution_is_chefers(case):
    """R ← R + E_h(∇p ⊙ p)⁺ R from the first layer to the last, with gradients from the stock model's own autograd."""
    _, model, inputs, trace, readout, place = case
    R = torch.eye(trace.shape[1], dtype=torch.float64)
    for p, flow in stock_attentions(model, inputs, readout):
        R = R + (p * flow).clamp(min=0).mean(dim=1)[0].double() @ R
    found = transformer_attribution(trace, dataclasses.replace(readout, positions=(place,)))
    assert torch.allclose(found[0], R[place], rtol=1e-5, atol=1e-7)


def dense_vectors(trace, layer, value_bias=False):
    """Return T (L, L, E) with p and the projections written out, and the residual, output and norm after it.

    With `value_bias`, b_V counts among what a source brings, as in the code of the papers on Transformers.
    """
    block, record = trace.layers[layer], trace.branches[layer]
    part = record.family.projections(record.mixer, record.captured.scan["p"].shape[1])
    p, x = record.captured.scan["p"][0].double(), record.captured.x[0]
    heads = p.shape[0]
    v = x @ part.W_V.detach().t()
    v = (v + part.b_V.detach() if value_bias else v).unflatten(-1, (heads, -1))
    W_O = part.W_O.detach().unflatten(-1, (heads, -1))
    T = torch.einsum("hij,jhp,ehp->ije", p, v, W_O)
    return T, block.stream_in[0], record.captured.y[0], block.post_norm


def dense_alti(trace, layer, value_bias=False):
    T, residual, y, norm = dense_vectors(trace, layer, value_bias)
    L = len(y)
    C = torch.zeros(L, L, dtype=torch.float64)
    for i in range(L):
        total = residual[i] + y[i]
        std = (total.var(unbiased=False) + getattr(norm, "eps", 0)).sqrt()

        def after(vector, std=std):
            return vector if norm is None else norm.weight.detach() * (vector - vector.mean()) / std

        reached = after(total) + (0 if norm is None else norm.bias.detach())
        for j in range(L):
            given = after(T[i, j] + (residual[i] if i == j else 0))
            C[i, j] = max(0.0, float(reached.abs().sum() - (reached - given).abs().sum()))
    return C / C.sum(dim=1, keepdim=True)


def test_alti_on_transformers_is_the_papers(case):
    """Before or after the norm: BERT normalises the sum, and contributions pass through the norm's linear part."""
    _, _, _, trace, _, _ = case
    dense = [dense_alti(trace, layer) for layer in range(2)]
    for layer in range(2):
        assert torch.allclose(alti(trace, layer)[0], dense[layer], atol=1e-10)
    assert torch.allclose(alti_rollout(trace)[0], dense[1] @ dense[0], atol=1e-10)


def test_alti_logit_on_transformers_sums_to_the_logit_with_mlps_as_a_term(case):
    family, model, inputs, trace, readout, _ = case
    if family == "bert":
        with pytest.raises(UnsupportedModelError, match="no norm after its last layer"):
            alti_logit(trace, readout)
        return
    found, updates = trace.logit_direction(readout), alti_logit(trace, readout)
    assert float(updates.conservation_error) < 1e-6  # stock logits are float32 in some classes
    assert float(updates.value) == pytest.approx(float(readout(trace.outputs)), rel=1e-5)
    q = found.at_embeddings[0].double()
    T, *_ = dense_vectors(trace, 1)
    last = torch.einsum("ie,ije->j", q, T)
    assert torch.allclose(
        updates.scores[0, 1], last @ dense_alti(trace, 0), atol=1e-9 * float(last.abs().max()) + 1e-12
    )
    assert abs(float(updates.terms["other"])) > 1e-4, "these models have MLPs"


def test_the_value_bias_belongs_to_the_sources_where_that_is_asked(case):
    """As in the papers' code; the maps differ from those that leave it to the bias, and rows still sum to one."""
    _, _, _, trace, _, place = case
    dense = [dense_alti(trace, layer, value_bias=True) for layer in range(2)]
    for layer in range(2):
        found = alti(trace, layer, value_bias="source")[0]
        assert torch.allclose(found, dense[layer], atol=1e-10)
        assert torch.allclose(alti_row(trace, layer, place, value_bias="source")[0], dense[layer][place], atol=1e-10)
        assert float((found - alti(trace, layer, value_bias="bias")[0]).abs().max()) > 1e-3
    product = dense[1] @ dense[0]
    assert torch.allclose(alti_rollout(trace, value_bias="source")[0], product, atol=1e-10)
    assert torch.allclose(alti_rollout_row(trace, place, value_bias="source")[0], product[place], atol=1e-10)
    several = alti_rollout_row(trace, [place, 1], value_bias="source")[0]
    assert torch.allclose(several, (product[place] + product[1]) / 2, atol=1e-10)


def test_alti_logit_moves_the_value_bias_from_its_term_to_the_sources(case):
    """What b_V adds to the readout is Σ_i q_i · W_O b_V of each layer, since attention's rows sum to one."""
    family, model, inputs, trace, readout, _ = case
    if family == "bert":
        return
    plain, moved = (alti_logit(trace, readout, value_bias=where) for where in ("bias", "source"))
    q = trace.logit_direction(readout).at_embeddings[0].double()
    last, first = (torch.einsum("ie,ije->j", q, dense_vectors(trace, layer, True)[0]) for layer in (1, 0))
    expected = torch.stack([first, last @ dense_alti(trace, 0, value_bias=True)])
    assert torch.allclose(moved.scores[0], expected, atol=1e-9 * float(expected.abs().max()))
    of_b_V = sum(
        float(q.sum(dim=0) @ (part.W_O.detach() @ part.b_V.detach()))
        for part in (r.family.projections(r.mixer, r.captured.scan["p"].shape[1]) for r in trace.branches)
    )
    assert abs(of_b_V) > 1e-3, "nothing to move"
    assert float(plain.terms["bias"] - moved.terms["bias"]) == pytest.approx(of_b_V, rel=1e-6)
    assert float(moved.scores.sum() - plain.scores.sum()) == pytest.approx(of_b_V, rel=1e-6)
    for name in ("residual", "other", "constant"):
        assert_equal_to_rounding(plain.terms[name], moved.terms[name])
    assert float(moved.conservation_error) < 1e-6


def test_the_value_bias_is_of_attention_alone_and_has_two_places():
    """A scan's map is the same object's, so the same numbers come out of the same arithmetic."""
    trace = capture(stock_model("mamba", torch.float64), input_ids=torch.tensor([[3, 4, 5, 9]]))
    assert_equal_to_rounding(alti(trace, 1, value_bias="source"), alti(trace, 1))
    with pytest.raises(InputError, match="unknown value_bias 'value'; choose one of bias, source") as caught:
        with_value_bias(trace.operator(0), "value")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.reads({"attention"})])
def test_every_method_for_transformers_explains_them(case, name):
    family, model, inputs, trace, readout, place = case
    if (family, name) == ("bert", "alti-logit"):
        return
    model = model.float()
    inputs = {k: v.float() if v.is_floating_point() else v for k, v in inputs.items()}
    (result,) = explain(model, None, inputs, method=[name])
    assert result.axes["target"] == (place,)
    assert result.scores.shape[-1] == trace.shape[1]
    assert result.row().isfinite().all()
    assert result.row().any()
    assert result.diagnostics["reconstruction_error"] < 1e-5


@pytest.mark.parametrize(("name", "reads"), [("mamba-attribution", "softmax attention only beside others")])
def test_methods_for_other_mixers_refuse_a_transformer(name, reads):
    model = stock_transformer("gpt2")
    with pytest.raises(UnsupportedModelError, match=f"{name} reads {reads}, but this model mixes tokens by soft"):
        explain(model, None, {"input_ids": torch.tensor([[3, 4, 5]])}, method=[name])


@pytest.mark.parametrize("length", [3, "as many as a state has rows"])
def test_what_a_recurrent_mixer_returns_beside_its_output_is_no_attention(length):
    """MiniMax's lightning attention returns its state there, of one width of a head by another."""
    model = hybrid_model("minimax")
    length = model.config.head_dim if isinstance(length, str) else length
    trace = capture(model, input_ids=torch.randint(3, 20, (1, length), generator=torch.Generator().manual_seed(0)))
    kinds = {branch.name: branch.kind for branch in trace.branches}
    gradients = trace.gradients(readouts.token(-1, 7))
    assert {kinds[name] for name in gradients.attention} == {"attention"}
    with pytest.raises(UnsupportedModelError, match="MiniMaxLightningAttention, which has no attention probabilities"):
        transformer_attribution(trace, readouts.token(-1, 7))


def test_norm_based_is_latim_with_the_values_bias_counted_among_the_sources(case):
    """The one difference between the two on softmax attention, so that each keeps its own name."""
    _, _, _, trace, _, _ = case
    operator = with_value_bias(trace.operator(1), "source")
    norms = torch.zeros(trace.shape[1], trace.shape[1], dtype=torch.float64)
    for block, tile in operator.contribution_tiles():
        norms[block.rows, block.columns] = tile[0].norm(dim=0)
    assert torch.allclose(norm_based(trace, 1)[0], norms, rtol=1e-10, atol=1e-12)
