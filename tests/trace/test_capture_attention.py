"""Capture on stock Transformers: the layers are rebuilt exactly, and the model is left as it was."""

import threading

import pytest
import torch
import transformers
from torch import nn

from mambascope import ReconstructionError, capture
from mambascope.families import find_mixers
from mambascope.families.gpt2 import FAMILY as GPT2
from mambascope.families.mamba import FAMILY as MAMBA
from mambascope.methods import hidden_attention, implicit_attention, latim
from mambascope.methods.hidden_attention import hidden_attention_mean, hidden_attention_row
from mambascope.methods.implicit_attention import implicit_attention_row
from mambascope.methods.latim import latim_row
from models import TRANSFORMERS, padded_batch, stock_model, stock_transformer, transformer_inputs
from rounding import assert_equal_to_rounding

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

#: Rounding of one product after the other; p is captured as the model applied it, so that the float32 in which some
#: families take the softmax of a float64 model costs nothing here.
BOUND = {torch.float64: 1e-12, torch.float32: 1e-5}
#: In which some families take the softmax, whatever the model's precision.
LEAST = torch.float32
SIDES = ("none", "right", "left")
#: In float64 the softmax of these is not a number where padding on the left has masked a whole row.
NO_NUMBERS = {"gpt_neox", "llama", "mistral", "qwen2", "qwen3"}
CASES = [
    pytest.param(family, dtype, side, id=f"{family}-{'f64' if dtype == torch.float64 else 'f32'}-{side}")
    for family in TRANSFORMERS
    for dtype in BOUND
    for side in (SIDES if family != "vit" else SIDES[:1])
    if not (dtype == torch.float64 and side == "left" and family in NO_NUMBERS)
]
DECODERS = tuple(name for name in TRANSFORMERS if name not in ("bert", "vit"))


def relative(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


def eager(model):
    """Switch a model to eager attention the way its users do."""
    model.set_attn_implementation("eager")
    return model


def stock_outputs(model, inputs):
    """Return input and written output of every attention layer, from hooks of our own on a plain forward pass."""
    seen, handles = {}, []
    for name, mixer, family in find_mixers(model):
        writer = {"bert": lambda m: m.output.dense, "gpt2": lambda m: m.c_proj, "gpt_neox": lambda m: m.dense}.get(
            family.model_type, lambda m: m.o_proj
        )(mixer)
        seen[name] = [None, None]
        handles.append(
            mixer.register_forward_pre_hook(
                lambda _, args, kwargs, n=name: seen[n].__setitem__(0, (*args, kwargs.get("hidden_states"))[0]),
                with_kwargs=True,
            )
        )
        handles.append(writer.register_forward_hook(lambda _, __, y, n=name: seen[n].__setitem__(1, y)))
    with torch.no_grad():
        outputs = model(**inputs)
    for handle in handles:
        handle.remove()
    return outputs, list(seen.values())


@pytest.fixture(params=TRANSFORMERS)
def family(request):
    return request.param


@pytest.mark.parametrize(("family", "dtype", "side"), CASES)
def test_layers_are_rebuilt_and_contributions_sum_to_the_output(family, dtype, side):
    """Against the stock eager model, whose logits the capture gives."""
    inputs = transformer_inputs(family, dtype, side=side)
    stock, layers = stock_outputs(eager(stock_transformer(family, dtype)), inputs)
    trace = capture(stock_transformer(family, dtype), **inputs)
    assert_equal_to_rounding(trace.logits, stock.logits, "logits", LEAST)
    assert trace.shape == ((3, 17) if family == "vit" else (3, 11))
    assert len(trace.layers) == 2
    for record, (x, y) in zip(trace.branches, layers, strict=True):
        assert_equal_to_rounding(record.captured.x, x, "inputs of a layer", LEAST)
        assert_equal_to_rounding(record.captured.y, y, "outputs of a layer", LEAST)
        y = record.captured.y  # of the pass that p was captured in
        operator = record.operator()
        assert record.reconstruction_error < BOUND[dtype]
        assert relative(operator.output(), y) < BOUND[dtype], "the product with p"
        bias = operator.bias()
        total = bias.clone()
        for block, tile in operator.contribution_tiles():
            total[:, block.rows] += tile.sum(dim=-1).transpose(1, 2)
        assert relative(total, y) < BOUND[dtype], "the tiled form"
        for target in (0, 4, 10):
            vectors, beta = operator.contributions(target)  # of padding as well, which no method explains
            assert relative(vectors.sum(dim=1) + beta, y[:, target]) < BOUND[dtype], f"the row of target {target}"
            assert float((beta - bias[:, target]).norm() / y.norm()) < BOUND[dtype], f"the bias of target {target}"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "f16"])
def test_half_precision_is_rebuilt_within_its_tolerance(family, dtype):
    trace = capture(stock_transformer(family, dtype), **transformer_inputs(family, dtype))
    assert trace.operator(0).x.dtype == torch.float32
    assert all(error > 0 for error in trace.reconstruction_error)


def test_maps_are_the_models_own_attentions(family):
    inputs = transformer_inputs(family)
    with torch.no_grad():
        attentions = eager(stock_transformer(family))(**inputs, output_attentions=True).attentions
    trace = capture(stock_transformer(family), **inputs)
    for layer, own in enumerate(attentions):
        mask = inputs.get("attention_mask")
        p = own if mask is None else own * mask[:, None, :, None]  # targets that are padding have no row
        assert_equal_to_rounding(hidden_attention(trace, layer), p)
        torch.testing.assert_close(implicit_attention(trace, layer), p)
        torch.testing.assert_close(hidden_attention_mean(trace, layer), p.mean(dim=1))
        for target in (0, 5, 6):  # no padding in any text
            torch.testing.assert_close(hidden_attention_row(trace, layer, target), p.mean(dim=1)[:, target])
            torch.testing.assert_close(implicit_attention_row(trace, layer, target), p.mean(dim=1)[:, target])
    assert trace.operator(0).scan.causal is (family in DECODERS)


def test_rows_of_latim_are_those_of_its_map(family):
    trace = capture(stock_transformer(family), **transformer_inputs(family))
    maps, length = latim(trace), trace.shape[1]
    assert maps.shape == (3, 2, length, length)
    assert maps.triu(1).any() == (family not in DECODERS)
    for target in (0, 5, 6):  # no padding in any text
        torch.testing.assert_close(latim_row(trace, 1, target), maps[:, 1, target], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", [name for name in TRANSFORMERS if name != "vit"])
def test_padding_on_the_right_changes_nothing(family):
    model = stock_transformer(family)
    ids, mask = padded_batch(11, 3, "right")
    batch = latim(capture(model, input_ids=ids, attention_mask=mask))
    for row, length in enumerate(mask.sum(dim=1).tolist()):
        alone = latim(capture(model, input_ids=ids[row : row + 1, :length]))
        torch.testing.assert_close(batch[row, :, :length, :length], alone[0], rtol=1e-4, atol=1e-5)
        assert not batch[row, :, :length, length:].any(), "padding gives nothing to real tokens"


def test_what_surrounds_a_layer_is_recorded(family):
    """The stream that y is added to enters the layer through its block's norm, or, in BERT, is normalised after."""
    model = stock_transformer(family)
    blocks, norms = {}, []
    for name, module in model.named_modules():
        if isinstance(module, transformers.modeling_layers.GradientCheckpointingLayer):
            module.register_forward_pre_hook(
                lambda _, args, kwargs, n=name: blocks.__setitem__(n, (*args, kwargs.get("hidden_states"))[0]),
                with_kwargs=True,
            )
        if family == "bert" and name.endswith("attention.output.LayerNorm"):
            module.register_forward_hook(lambda _, args, output: norms.append((args[0], output)))
    trace = capture(model, **transformer_inputs(family))
    for record in trace.layers:
        captured, block = record.branch.captured, model.get_submodule(record.name)
        assert torch.equal(record.stream_in, blocks[record.name])
        if family == "bert":
            before, after = norms[record.index]
            assert torch.equal(captured.x, record.stream_in)
            assert_equal_to_rounding(captured.y + record.stream_in, before)
            assert_equal_to_rounding(record.post_norm(before), after)
        else:
            norm = {"gpt2": "ln_1", "vit": "layernorm_before"}.get(family, "input_layernorm")
            assert record.post_norm is None
            assert_equal_to_rounding(captured.x, getattr(block, norm)(record.stream_in))


def test_the_attention_implementation_is_left_as_it_is(family):
    model, seen = stock_transformer(family), []
    assert model.config._attn_implementation == "sdpa"
    handle = find_mixers(model)[0][1].register_forward_hook(
        lambda own, *_: seen.append(
            [part.config._attn_implementation for part in (model, *own.modules()) if hasattr(part, "config")]
        )
    )
    capture(model, **transformer_inputs(family))
    handle.remove()
    assert seen[0][0] == "sdpa"
    assert set(seen[0][1:]) == {"eager"}
    assert model.config._attn_implementation == "sdpa"
    eager(model)
    capture(model, **transformer_inputs(family))
    assert model.config._attn_implementation == "eager"


def test_everything_is_put_back_when_the_model_raises(family):
    model = stock_transformer(family)
    mixers = [mixer for _, mixer, _ in find_mixers(model)]

    def fail(*_):
        raise RuntimeError("the model broke")

    handle = mixers[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="the model broke"):
        capture(model, **transformer_inputs(family))
    handle.remove()
    assert model.config._attn_implementation == "sdpa"
    assert not any(m._forward_hooks or m._forward_pre_hooks for mixer in mixers for m in mixer.modules())
    assert len(capture(model, **transformer_inputs(family)).layers) == 2


def test_models_that_share_a_configuration_do_not_disturb_each_other():
    """One capture that ends inside another must not take the eager form away from it."""
    outer, inner = stock_transformer("gpt2", seed=1), stock_transformer("gpt2", seed=2)
    inner = type(inner)(outer.config).eval()
    assert inner.config is outer.config
    ids = padded_batch(7, 1, "right")[0]
    handle = find_mixers(outer)[0][1].register_forward_pre_hook(lambda *_: capture(inner, input_ids=ids) and None)
    trace = capture(outer, input_ids=ids)
    handle.remove()
    assert len(trace.layers) == 2
    assert_equal_to_rounding(trace.logits, capture(outer, input_ids=ids).logits)
    assert outer.config._attn_implementation == "sdpa"


def test_threads_do_not_see_each_other():
    """Their models share a configuration, so that each could take the eager form away from the other."""
    model = stock_transformer("llama")
    models = [model, type(model)(model.config).eval()]
    inputs = [padded_batch(length, 1, "right", seed=length)[0] for length in (9, 31)]
    expected = [capture(m, input_ids=ids) for m, ids in zip(models, inputs, strict=True)]
    start, results = threading.Barrier(2), {}

    def work(number):
        start.wait()
        results[number] = [capture(models[number], input_ids=inputs[number]) for _ in range(12)]

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert model.config._attn_implementation == "sdpa"
    for number in (0, 1):
        assert len(results[number]) == 12, "a thread failed"
        for trace in results[number]:
            assert_equal_to_rounding(trace.logits, expected[number].logits)
            assert len(trace.layers) == 2


def test_a_layer_that_does_something_else_is_caught(family):
    model = stock_transformer(family)
    mixer = find_mixers(model)[1][1]
    part = {"bert": lambda: mixer.output.dense, "gpt2": lambda: mixer.c_proj, "gpt_neox": lambda: mixer.dense}.get(
        family, lambda: mixer.o_proj
    )()
    part.register_forward_hook(lambda module, args, y: y * 1.001)
    with pytest.raises(ReconstructionError, match=r"layer 1 .*Attention\) cannot be rebuilt"):
        capture(model, **transformer_inputs(family))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda out: (out[0], out[1] * torch.nan), "attention probabilities that are NaN; in float64"),
        (lambda out: (out[0], None), "returned no attention probabilities with its output"),
    ],
)
def test_probabilities_that_are_no_use_are_refused_in_one_sentence(change, words):
    model = stock_transformer("gpt2")
    find_mixers(model)[0][1].register_forward_hook(lambda module, args, out: change(out))
    with pytest.raises(ReconstructionError, match=rf"transformer\.h\.0\.attn \(GPT2Attention\).*{words}") as e:
        capture(model, **transformer_inputs("gpt2"))
    assert "\n" not in str(e.value)


def test_gpt2_that_computes_its_scores_in_float32_is_captured():
    """It bypasses the eager function of its modelling file."""
    trace = capture(stock_transformer("gpt2", reorder_and_upcast_attn=True), **transformer_inputs("gpt2"))
    assert max(trace.reconstruction_error) < BOUND[torch.float32]


def test_cross_attention_is_no_mixer_of_a_models_own_tokens():
    for family in ("gpt2", "bert"):
        options = {"is_decoder": True} if family == "bert" else {}
        model = stock_transformer(family, add_cross_attention=True, **options)
        names = [name for name, _, _ in find_mixers(model)]
        assert len(names) == 2
        assert not any("cross" in name for name in names)


def test_a_model_of_both_kinds_is_captured_in_the_order_of_its_layers():
    torch.manual_seed(0)
    gpt2 = stock_transformer("gpt2")
    (mamba,) = stock_model("mamba", num_hidden_layers=1).backbone.layers

    class Hybrid(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([gpt2.transformer.h[0], mamba, gpt2.transformer.h[1]])

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    trace = capture(Hybrid(), x=torch.randn(2, 9, 12))
    assert [record.family for record in trace.branches] == [GPT2, MAMBA, GPT2]
    assert [record.name for record in trace.branches] == ["layers.0.attn", "layers.1.mixer", "layers.2.attn"]
    assert all(block.stream_in is not None for block in trace.layers)
    assert latim(trace).shape == (2, 3, 9, 9)
    assert gpt2.config._attn_implementation == "sdpa"
