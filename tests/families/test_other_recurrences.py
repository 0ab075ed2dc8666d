"""LFM2, RecurrentGemma, RWKV-4, xLSTM and MiniMax: stock models against dense references from their equations."""

import copy

import pytest
import torch
import transformers
from torch import nn

import mambascope
from dense_reference import distance
from hybrids import HYBRIDS, hybrid_model, in_double
from mambascope import readouts
from mambascope.errors import InputError, ReconstructionError, UnsupportedModelError
from mambascope.methods import (
    METHODS,
    alti,
    alti_logit,
    gradient_x_input,
    hidden_attention,
    latim,
    rollout,
    rollout_row,
)
from mambascope.operators.decayed_attention import DecayedAttention
from mambascope.operators.gated_recurrence import GatedRecurrence
from mambascope.operators.short_convolution import ShortConvolution
from mambascope.trace import capture
from models import padded_batch
from recurrent_reference import mixed
from rounding import assert_equal_to_rounding
from small_tokenizers import byte_level

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

#: float64 sums of a few hundred terms in another order; in float32 the same at 1e-7 per term.
BOUND, SINGLE = 1e-10, 1e-5
#: What each block of the small models mixes tokens with.
KINDS = {
    "lfm2": ["conv", "attention", "conv"],
    "lfm2_moe": ["conv", "attention", "conv"],
    "recurrent_gemma": ["recurrence", "recurrence", "attention"],
    "rwkv": ["recurrence", "shift"] * 3,
    "xlstm": ["recurrence"] * 3,
    "minimax": ["recurrence", "attention", "recurrence"],
}
#: Models that read no mask, or whose recurrent layers do not, so that padding must come last.
PADDED_LAST = ("recurrent_gemma", "rwkv")
OPTIONS = [(family, {}) for family in KINDS] + [("lfm2", {"conv_bias": False}), ("xlstm", {"weight_mode": "fused"})]


def text(length=11, batch=2):
    return torch.randint(1, 50, (batch, length), generator=torch.Generator().manual_seed(0))


def batch_of(family, side):
    """Return three texts, two of them padded, if the family can tell."""
    if family == "xlstm" or side == "none":
        return {"input_ids": text(batch=3)}
    ids, mask = padded_batch(11, 3, "right" if family in PADDED_LAST else side)
    return {"input_ids": ids, "attention_mask": mask}


def nothing(*_):
    """Stand in for a function of which nothing is wanted."""


@pytest.fixture(params=list(KINDS))
def family(request):
    return request.param


@pytest.mark.parametrize(("family", "options"), OPTIONS, ids=lambda one: one if isinstance(one, str) else "-".join(one))
@torch.no_grad()
def test_maps_are_those_of_the_equations(family, options, monkeypatch):
    if "weight_mode" in options:  # transformers' own initialisation fails where layers are fused
        monkeypatch.setattr(transformers.models.xlstm.modeling_xlstm.xLSTMPreTrainedModel, "_init_weights", nothing)
    with in_double(family, **options) as model:
        trace = capture(model, input_ids=text(batch=1))
        assert [block.kind for block in trace.layers] == KINDS[family]
        assert max(trace.reconstruction_error) < BOUND
        for number, block in enumerate(trace.layers):
            branch = block.branches[0]
            alpha, T, beta = mixed(
                branch.mixer, branch.captured.x[0], branch.captured.scans[0] if branch.captured.scans else {}
            )
            T, beta = branch.scale * T, branch.scale * beta
            assert distance(T.sum(dim=1) + beta, block.y[0]) < BOUND  # the reference is the model's own layer
            assert distance(hidden_attention(trace, number, "mean")[0], branch.scale * alpha.mean(dim=0)) < BOUND
            assert distance(latim(trace, number)[0], T.norm(dim=-1)) < BOUND
            operator = trace.operator(number)
            assert (operator.bias()[0] - beta).norm() <= BOUND * block.y.norm()  # β is zero where nothing has a bias
            for target in (0, 4, 10):
                vectors, bias = operator.contributions(target)
                assert distance(vectors[0], T[target]) < BOUND
                assert distance(vectors[0].sum(dim=0) + bias[0], T[target].sum(dim=0) + beta[target]) < BOUND
            q = torch.randn(1, *beta.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
            assert distance(operator.pull(q)[0], torch.einsum("if,ijf->j", q[0], T)) < BOUND
            matrix = operator.implicit_mean()
            assert distance(operator.implicit_row(7), matrix[:, 7, :8]) < BOUND
            assert distance(operator.implicit_pull(q[..., 0]), torch.einsum("bi,bij->bj", q[..., 0], matrix)) < BOUND


@pytest.mark.parametrize("side", ["none", "left", "right"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_captures_rebuild_what_the_model_computed(family, dtype, side):
    if family == "xlstm" and dtype == torch.bfloat16:
        pytest.skip("transformers' own form of the mLSTM does not run in half precision")
    model = hybrid_model(family, dtype)
    inputs = batch_of(family, side)
    trace = capture(model, **inputs)
    assert max(trace.reconstruction_error) < (SINGLE if dtype == torch.float32 else 2e-2)  # products of 8 bits
    assert all(block.trusted for block in trace.layers)
    if dtype == torch.float32:
        assert max(block.stream_error for block in trace.layers) < 1e-6
        with torch.no_grad():
            stock = copy.deepcopy(model)(**inputs, use_cache=False).logits
        kept = torch.ones_like(inputs["input_ids"]) if "attention_mask" not in inputs else inputs["attention_mask"]
        assert distance(trace.logits[kept.bool()], stock[kept.bool()]) < SINGLE


def test_a_text_scores_in_a_batch_as_it_does_alone(family):
    model, inputs = (
        hybrid_model(family, conv_bias=False) if family.startswith("lfm2") else hybrid_model(family),
        batch_of(family, "left"),
    )
    together = capture(model, **inputs)
    mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()
    readout = readouts.token(-1, 3)
    updates = alti_logit(together, readout)
    for row, real in enumerate(mask):
        alone = capture(model, input_ids=inputs["input_ids"][row : row + 1, real])
        for number in range(len(together.layers)):
            found = latim(together, number)[row]
            assert distance(found[real][:, real], latim(alone, number)[0]) < SINGLE
            assert not found[~real].any()
            assert not found[:, ~real].any()
        assert distance(rollout_row(together, -1)[row, real], rollout_row(alone, -1)[0]) < SINGLE
        assert (
            distance(updates.scores[row][:, real], alti_logit(alone, readout).scores[0]) < 1e-4
        )  # sums of many layers


def test_rollout_is_the_product_of_the_layers(family):
    trace = capture(hybrid_model(family), input_ids=text())
    product = torch.eye(11)
    for number in range(len(trace.layers)):
        product = (torch.eye(11) + hidden_attention(trace, number, "mean")) @ product
    assert distance(rollout(trace), product) < SINGLE
    assert distance(rollout_row(trace, -1), product[:, -1]) < SINGLE


def test_shares_of_a_layer_add_up_to_one_and_those_of_a_logit_to_the_logit(family):
    with in_double(family) as model:
        trace = capture(model, input_ids=text())
        for number in range(len(trace.layers)):
            assert distance(alti(trace, number).sum(dim=-1), torch.ones(2, 11, dtype=torch.float64)) < BOUND
        for readout in (readouts.token(-1, 3), readouts.token(5, 7, foil=2), readouts.continuation(9, [3], "it")):
            updates = alti_logit(trace, readout)
            assert float(updates.conservation_error.max()) < BOUND
            assert updates.scores.abs().max() > 1e-4


@pytest.mark.parametrize(
    ("family", "options"),
    [("rwkv", {}), ("rwkv", {"rescale_every": 0}), ("minimax", {"mlp_beta_factor": 0}), ("minimax", {})],
    ids=["rwkv", "rwkv-unscaled", "minimax-without-mlps", "minimax"],
)
def test_a_logit_is_followed_through_what_multiplies_the_stream(family, options):
    """Down to every layer, whose share is the logit's change when, all else constant, its update is left out.

    Nothing but mixers adds to the stream of RWKV, or of MiniMax without its MLPs, so there is no other share.
    """
    with in_double(family, **options) as model:
        trace = capture(model, input_ids=text(batch=1))
        readout = readouts.token(-1, 3)
        updates = alti_logit(trace, readout)
        total = updates.scores.sum() + sum(term.sum() for term in updates.terms.values())
        assert distance(total, trace.logits[0, -1, 3]) < BOUND
        without_others = family == "rwkv" or "mlp_beta_factor" in options
        assert (float(updates.terms["other"].abs().max()) < BOUND) is without_others
        for number, block in enumerate(trace.layers):
            lost = without_update(model, block, readout, text(batch=1))
            operator = trace.operator(number)
            assert not operator.bias().any()
            assert distance(updates.scores[0, number].sum(), lost) < 1e-6  # a difference of small steps


def without_update(model, block, readout, ids, step=1e-4):
    """Return the logit's slope along one layer's update; other mixers, parts and norms' statistics are constant."""
    layers = dict(model.named_modules())
    found = {}

    def constant(name, part):
        def hook(_, args, output):
            first = output[0] if isinstance(output, tuple) else output
            kept = found.setdefault(name, first.detach().clone())
            kept = kept * (1 + found["step"]) if name == found["which"] else kept
            return (kept, *output[1:]) if isinstance(output, tuple) else kept

        return part.register_forward_hook(hook)

    def statistic(name, norm):
        def hook(_, args, output):
            x = args[0]
            centred = x - x.mean(dim=-1, keepdim=True) if isinstance(norm, nn.LayerNorm) else x
            eps = norm.eps if isinstance(norm, nn.LayerNorm) else norm.variance_epsilon
            scale = found.setdefault(name, (centred.pow(2).mean(dim=-1, keepdim=True) + eps).rsqrt())
            return centred * scale * norm.weight + (0 if getattr(norm, "bias", None) is None else norm.bias)

        return norm.register_forward_hook(hook)

    handles = []
    for name, part in layers.items():
        if name.rpartition(".")[2] in ("attention", "feed_forward", "self_attn", "mlp"):
            handles.append(constant(name, part))
        elif "norm" in type(part).__name__.lower() and "self_attn" not in name:
            handles.append(statistic(name, part))
    found |= {"step": 0.0, "which": block.branches[0].name}
    try:
        with torch.no_grad():
            values = []
            for size in (0.0, step, -step):
                found["step"] = size
                values.append(readout(model(input_ids=ids, use_cache=False)))
    finally:
        for handle in handles:
            handle.remove()
    return (values[1] - values[2]) / (2 * step)


def test_gradients_are_those_of_the_stock_model(family):
    with in_double(family) as model:
        ids, readout = text(), readouts.token(-1, 3)
        found = gradient_x_input(capture(model, input_ids=ids), readout).scores
        stock = copy.deepcopy(model)
        embedded = stock.get_input_embeddings()(ids).detach().requires_grad_()
        (flow,) = torch.autograd.grad(stock(inputs_embeds=embedded, use_cache=False).logits[:, -1, 3].sum(), embedded)
        assert found.abs().max() > 1e-6  # soft caps make them small
        assert distance(found, (embedded * flow).sum(dim=-1).detach()) < BOUND


def test_rwkv_divides_no_weights_of_the_users_model():
    """Its first pass in evaluation mode changes weights in place: in the private copy only, every time anew."""
    model = hybrid_model("rwkv")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trace = capture(model, input_ids=text())
    again = capture(model, input_ids=text())
    alti_logit(trace, readouts.token(-1, 3))
    assert not model.rwkv.layers_are_rescaled
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        stock = model(text(), use_cache=False).logits  # now the model has divided its weights itself
    assert model.rwkv.layers_are_rescaled
    assert distance(trace.logits, stock) < SINGLE
    assert distance(again.logits, stock) < SINGLE
    later = capture(model, input_ids=text())
    assert distance(later.logits, stock) < SINGLE
    for number in range(len(trace.layers)):
        assert_equal_to_rounding(latim(later, number), latim(trace, number))
    halved = [
        block.stream_in.norm() / before.stream_out.norm()
        for before, block in zip(later.layers, later.layers[1:], strict=False)
    ]
    assert [round(float(ratio), 3) for ratio in halved] == [1, 1, 1, 0.5, 1]


def test_padding_that_a_layer_would_read_is_refused():
    ids, mask = padded_batch(11, 3, "left")
    for family in PADDED_LAST:
        with pytest.raises(
            InputError, match=r"padding comes before a text, and .* reads it as if it were text; pad on"
        ):
            capture(hybrid_model(family), input_ids=ids, attention_mask=mask)


def test_positions_at_which_a_recurrence_starts_anew_are_refused():
    model, places = hybrid_model("recurrent_gemma"), torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5]])
    with pytest.raises(InputError, match="position_ids hold 0 after the first token"):
        capture(model, input_ids=text(batch=1), position_ids=places)
    shifted = capture(model, input_ids=text(batch=1), position_ids=places[:, :1] + torch.arange(3, 14))
    assert max(shifted.reconstruction_error) < SINGLE  # without position 0 the first token's root is not 1


def test_a_text_read_in_pieces_is_refused():
    model = hybrid_model("xlstm", hidden_size=128, num_hidden_layers=1, max_inference_chunksize=4)
    with pytest.raises(InputError, match=r"continues from a state, but a capture reads a whole text at once"):
        capture(model, input_ids=text())


def test_an_activation_that_the_map_does_not_know_is_refused():
    with pytest.raises(UnsupportedModelError, match=r"has the activation GELU\w* on its values; mambascope reads SiLU"):
        capture(hybrid_model("minimax", hidden_act="gelu"), input_ids=text())


def test_the_language_model_inside_lfm2_vl_is_read():
    """Its tower of picture layers does not run for a text."""
    text_config = HYBRIDS["lfm2"][1]().to_dict()
    sizes = {"hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Lfm2VlConfig(
        text_config=text_config, vision_config=sizes | {"model_type": "siglip2_vision_model"}, image_token_id=49
    )
    torch.manual_seed(0)
    trace = capture(transformers.Lfm2VlForConditionalGeneration(config).eval(), input_ids=text() % 49)
    assert [block.kind for block in trace.layers] == KINDS["lfm2"]
    assert max(trace.reconstruction_error) < SINGLE
    assert max(block.stream_error for block in trace.layers) < SINGLE


def test_its_checkpoints_are_loaded(family, tmp_path):
    model = hybrid_model(family)
    model.save_pretrained(tmp_path)
    loaded, _ = mambascope.load(tmp_path)
    assert type(loaded) is type(model)
    assert distance(capture(loaded, input_ids=text()).logits, capture(model, input_ids=text()).logits) < SINGLE


def test_methods_explain_it_or_say_that_they_cannot(family):
    """Those that read any layer have scores; those of scans or of attention alone say what the model has instead."""
    model = hybrid_model(family, vocab_size=300)
    for name, method in METHODS.items():
        if method.reads(KINDS[family]) and method.needs != "interventions":
            if method.takes_means and family == "rwkv":
                with pytest.raises(UnsupportedModelError, match="LayerNorms follow"):
                    mambascope.explain(model, byte_level(), "to the store", method=name)
                continue
            result = mambascope.explain(model, byte_level(), "to the store", method=name)
            assert result.scores.isfinite().all(), name
            assert result.scores.any(), name
            assert result.diagnostics.get("conservation_error", 0) < SINGLE, name
    with pytest.raises(UnsupportedModelError, match=r"reads softmax attention, but this model mixes tokens by"):
        mambascope.explain(model, byte_level(), "to the store", method="transformer-attribution")


def test_a_wrong_equation_is_caught(family, monkeypatch):
    """With a little more of every target's own value, the rebuilt output is not the model's."""
    for scan in (DecayedAttention, GatedRecurrence, ShortConvolution):
        apply = scan.apply
        monkeypatch.setattr(scan, "apply", lambda self, v, apply=apply: apply(self, v) + 0.01 * v)
    with pytest.raises(ReconstructionError, match=r"layer 0 .* cannot be rebuilt"):
        capture(hybrid_model(family), input_ids=text())
