"""Gated delta nets and the attention around them: maps, methods and gradients against the families' equations."""

from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import pytest
import torch
import transformers

import mambascope
from delta_reference import attention_layer, delta_layer
from dense_reference import distance
from hybrids import hybrid_model
from mambascope import InputError, ReconstructionError, UnsupportedModelError, families, readouts
from mambascope.families import find_mixers, gated_delta, kimi_linear, olmo_hybrid, qwen3_next
from mambascope.methods import (
    METHODS,
    alti,
    alti_logit,
    alti_rollout_row,
    hidden_attention,
    implicit_attention,
    latim,
    norm_based,
    rollout,
    rollout_row,
)
from mambascope.methods.alti import alti_row
from mambascope.methods.hidden_attention import hidden_attention_row
from mambascope.methods.implicit_attention import implicit_attention_row
from mambascope.methods.latim import latim_row
from mambascope.methods.norm_based import norm_based_row
from mambascope.methods.value_bias import with_value_bias
from mambascope.operators.gated_delta import GatedDeltaRule
from mambascope.trace import capture
from models import padded_batch, without_downcasts
from small_tokenizers import byte_level

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

#: float64 sums of a few hundred terms in another order; the same in float32, through three layers.
BOUND, SINGLE = 1e-10, 1e-5
#: Products of 8-bit mantissas, a dozen in a row.
HALF = 2e-2
FAMILIES = ("qwen3_next", "qwen3_5", "qwen3_5_moe", "olmo_hybrid", "kimi_linear")
TEXT = "When Mary and John went to the store"


@pytest.fixture(autouse=True)
def quiet():
    """OLMo Hybrid's configuration warns of its own token ids in a small vocabulary."""
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(level)


@pytest.fixture
def ids():
    return torch.randint(1, 50, (2, 9), generator=torch.Generator().manual_seed(0))


def captured(family, ids, **options):
    """A float64 model, in whose code nothing is rounded to float32, and its trace."""
    model = hybrid_model(family, torch.float64, **options)
    with without_downcasts(family):
        return model, capture(model, input_ids=ids)


def text_layers(model):
    return model.get_decoder().layers


def equations(family, model, trace, text=0):
    """(matrices, T, β, implicit attention) of every layer for one text, from the weights and the layers' inputs."""
    with torch.no_grad():
        for block, layer in zip(trace.layers, text_layers(model), strict=True):
            x, mixer = block.x[text], block.branch.mixer
            if block.kind == "delta":
                yield delta_layer(family, mixer, x)
            else:
                yield attention_layer(family, mixer, x, block.branch.captured.scan["p"][text], layer)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_is_what_the_equations_say(family, ids):
    model, trace = captured(family, ids)
    assert [block.kind for block in trace.layers] == ["delta", "attention", "delta"]
    assert all(block.trusted and block.stream_error < BOUND for block in trace.layers)
    product, eye = torch.eye(9, dtype=torch.float64), torch.eye(9, dtype=torch.float64)
    for number, (matrices, T, beta, implicit) in enumerate(equations(family, model, trace, text=1)):
        block, operator = trace.layers[number], trace.operator(number)
        assert distance(T.sum(dim=1) + beta, block.y[1]) < BOUND  # the equations are those of the model
        assert distance(hidden_attention(trace, number)[1], matrices) < BOUND
        assert distance(implicit_attention(trace, number, "mean")[1], implicit) < BOUND
        assert distance(latim(trace, number)[1], T.norm(dim=-1)) < BOUND
        vectors, bias = operator.contributions(7)
        assert distance(vectors[1], T[7]) < BOUND
        assert (bias[1] - beta[7]).abs().max() < BOUND  # zero in a delta net
        q = torch.randn(2, 9, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        assert distance(operator.pull(q)[1], torch.einsum("if,ijf->j", q[1], T)) < BOUND
        product = (eye + matrices.mean(dim=0)) @ product
        after = block.stream("test")[1] + block.y[1]
        own = T + eye[..., None] * block.stream("test")[1]
        shares = (after.abs().sum(dim=-1)[:, None] - (after[:, None] - own).abs().sum(dim=-1)).clamp(min=0).tril()
        shares = torch.where(shares.sum(dim=-1, keepdim=True) == 0, eye, shares)  # nothing brings the sum closer
        assert distance(alti(trace, number)[1], shares / shares.sum(dim=-1, keepdim=True)) < BOUND
    assert distance(rollout(trace)[1], product) < BOUND
    assert distance(rollout_row(trace, -1)[1], product[-1]) < BOUND


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_those_of_the_maps(family, ids):
    _, trace = captured(family, ids)
    for layer in range(3):
        pairs = [
            (hidden_attention(trace, layer, "mean"), hidden_attention_row(trace, layer, 6)),
            (implicit_attention(trace, layer, "mean"), implicit_attention_row(trace, layer, 6)),
            (latim(trace, layer), latim_row(trace, layer, 6)),
            (alti(trace, layer), alti_row(trace, layer, 6)),
        ]
        if trace.layers[layer].kind == "attention":
            pairs.append((norm_based(trace, layer), norm_based_row(trace, layer, 6)))
        for whole, row in pairs:
            assert row.any()
            assert distance(row, whole[:, 6]) < BOUND


@pytest.mark.parametrize("family", FAMILIES)
def test_norm_based_attention_counts_the_value_bias_as_alti_can(family, ids):
    """‖Σ_h p W_O (g ⊙ (W_V x + b_V))‖: the vectors of the equations, with the bias of the values in them."""
    _, trace = captured(family, ids)
    operator = with_value_bias(trace.operator(1), "source")
    norms = torch.zeros(2, 9, 9, dtype=torch.float64)
    for block, tile in operator.contribution_tiles():
        norms[:, block.rows, block.columns] = tile.norm(dim=1)
    assert distance(norm_based(trace, 1), norms) < BOUND
    assert distance(norms, latim(trace, 1)) > 1e-2  # the bias is not small
    vectors, bias = operator.contributions(5)
    assert distance(vectors.sum(dim=1) + bias, trace.layers[1].y[:, 5]) < BOUND


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_layers_are_rebuilt_in_every_precision(family, dtype, ids):
    model = hybrid_model(family, dtype)
    with without_downcasts(family) if dtype == torch.float64 else nullcontext():
        trace = capture(model, input_ids=ids)
        terms = alti_logit(trace, readouts.token(-1, 3))
    bound = {torch.float32: SINGLE, torch.float64: BOUND, torch.bfloat16: HALF}[dtype]
    assert max(trace.reconstruction_error) < bound
    assert max(block.scan_error for block in trace.layers) < bound
    assert float(terms.conservation_error.max()) < bound
    row = alti_rollout_row(trace, -1)
    assert float((row.sum(dim=-1) - 1).abs().max()) < SINGLE


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_padded_texts_have_the_maps_of_the_texts_alone(family, side):
    model = hybrid_model(family)
    ids, mask = padded_batch(9, 3, side)
    trace = capture(model, input_ids=ids, attention_mask=mask)
    for text in range(3):
        real = mask[text].bool()
        alone = capture(model, input_ids=ids[text : text + 1, real])
        forms = (latim, alti, *(partial(form, channels="mean") for form in (implicit_attention, hidden_attention)))
        for form in forms:
            for layer in range(3):
                found = form(trace, layer)[text]
                assert not found[~real].any()
                assert not found[:, ~real].any()
                assert distance(found[real][:, real], form(alone, layer)[0]) < SINGLE
        assert distance(rollout_row(trace, -1)[text, real], rollout_row(alone, -1)[0]) < SINGLE


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_the_stock_model(family, ids):
    model = hybrid_model(family, torch.float64)
    with without_downcasts(family):
        trace = capture(model, input_ids=ids)
        ours = trace.gradients(readouts.token(-1, 3))
        embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
        logits = model(inputs_embeds=embedded, use_cache=False).logits
        (theirs,) = torch.autograd.grad(logits[:, -1, 3].sum(), embedded)
    assert theirs.abs().max() > 1e-3
    assert distance(ours.at_embeddings, theirs) < BOUND


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.reads({"delta", "attention"})])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_method_that_reads_both_explains_it(family, name):
    result = mambascope.explain(hybrid_model(family, vocab_size=300), byte_level(), TEXT, method=name)
    assert result.scores.isfinite().all()
    assert result.scores.any()
    assert result.model.family == family


def test_pictures_are_left_to_the_wrapper_and_its_text_is_explained():
    model = hybrid_model("qwen3_5", vocab_size=300)
    names = [name for name, _, _ in find_mixers(model)]
    assert [name.rpartition(".")[2] for name in names] == ["linear_attn", "self_attn", "linear_attn"]
    assert all(name.startswith("model.language_model.layers.") for name in names)
    with pytest.raises(InputError, match="does not match the text's"):  # of time, height and width, as for pictures
        capture(model, input_ids=torch.arange(1, 10)[None], position_ids=torch.arange(9).expand(3, 1, 9))
    result = mambascope.explain(model, byte_level(), TEXT, method="alti-logit")
    assert result.diagnostics["conservation_error"] < SINGLE


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cache_and_packed_texts_are_refused_by_name(family, ids):
    model = hybrid_model(family)
    with pytest.raises(InputError, match="pass no cache"):
        capture(model, input_ids=ids, use_cache=True)
    with pytest.raises(InputError, match="packed into one row"):
        capture(model, input_ids=ids[:1], cu_seq_lens_q=torch.tensor([0, 4, 9]))
    places = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]])
    with pytest.raises(InputError, match="reads the row as one text"):
        capture(model, input_ids=ids[:1], position_ids=places)
    q, beta = torch.ones(1, 2, 1, 3), torch.ones(1, 2, 1)
    with pytest.raises(InputError, match=r"packed into one row \(cu_seqlens\)"):
        gated_delta.read(q, q, q, beta, beta, cu_seqlens=torch.tensor([0, 1, 2]))


def test_a_rule_that_is_not_the_models_is_caught_on_the_first_tokens(monkeypatch, ids):
    """Read without the scale of q, and without the removal of what a key held: the usual heuristic."""

    def unscaled(*args, **kwargs):
        call = gated_delta.read(*args, **kwargs)
        return replace(call, coefficients=call.coefficients | {"q": call.coefficients["q"] * 2})

    def nothing_removed(consumed, dtype):
        return NothingRemoved(**vars(gated_delta.gated_delta(consumed, dtype)))

    model = hybrid_model("qwen3_next")
    for wrong in ({"read": unscaled}, {"scan": nothing_removed}):
        monkeypatch.setitem(families.FAMILIES, qwen3_next.FAMILY.name, replace(qwen3_next.FAMILY, **wrong))
        with pytest.raises(ReconstructionError, match=r"layer 0 \(model.layers.0.linear_attn.* of its scan"):
            capture(model, input_ids=ids)


class NothingRemoved(GatedDeltaRule):
    def apply(self, v):
        length = self.length
        whole = replace(self, k=self.k * 1e-6, q=self.q * 1e6)  # keys so short that they remove nothing
        return torch.einsum("bdij,bjd->bid", self.channels(whole.tile(slice(0, length), slice(0, length))), v)


@pytest.mark.parametrize(
    ("family", "wrong", "found"),
    [
        (qwen3_next.ATTENTION_FAMILY, {"gate": None}, "cannot be rebuilt"),
        (kimi_linear.ATTENTION_FAMILY, {"source_factor": None}, "cannot be rebuilt"),
        (olmo_hybrid.ATTENTION_FAMILY, {"output_norm": lambda b: (b.post_feedforward_layernorm, b.mlp)}, None),
        (olmo_hybrid.ATTENTION_FAMILY, {"output_norm": None}, None),
    ],
    ids=["no-gate", "no-latent-norm", "another-norm", "no-norm"],
)
def test_what_comes_between_p_and_the_stream_cannot_be_forgotten(monkeypatch, ids, family, wrong, found):
    monkeypatch.setitem(families.FAMILIES, family.name, replace(family, **wrong))
    model = hybrid_model(family.model_type)
    if found is not None:
        with pytest.raises(ReconstructionError, match=found):
            capture(model, input_ids=ids)
        return
    trace = capture(model, input_ids=ids)
    with pytest.raises(UnsupportedModelError, match="changes it in a way that mambascope does not know"):
        alti_logit(trace, readouts.token(-1, 3))
