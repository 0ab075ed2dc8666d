"""Mixers that no family names: read by their structure if that is right, refused by name if not, never overlooked."""

import pytest
import torch
from torch import nn

from custom_hybrid import (
    CustomAttention,
    CustomBlock,
    CustomHybrid,
    CustomStateMixer,
    FourierMixer,
    custom_hybrid,
)
from dense_reference import distance
from mambascope import methods, readouts
from mambascope.errors import UnsupportedModelError
from mambascope.families import FAMILIES, Family, find_mixers, found_by, mamba2
from mambascope.families.attention import AttentionFamily
from mambascope.families.recognised import recognise
from mambascope.methods import latim, rollout
from mambascope.operators.naive import attention_vectors
from mambascope.trace import capture, token_wise
from models import stock_model, stock_transformer, transformer_inputs

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

#: float64 sums of a few hundred terms in another order; the stock scan and its norm compute in float32.
BOUND, SINGLE = 1e-10, 1e-5
X = torch.randn(1, 9, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def known():
    return custom_hybrid(CustomBlock(CustomStateMixer()), CustomBlock(CustomAttention()))


def test_a_custom_modelling_file_is_read_without_registration():
    model = known()
    trace = capture(model, x=X)
    scan, attention = trace.branches
    assert (type(scan.family), type(attention.family)) == (Family, AttentionFamily)
    assert (scan.family.module, scan.family.mixer_class) == ("custom_hybrid", "CustomStateMixer")
    assert "calls mamba2_chunk_scan and causal_conv1d_fn" in found_by(scan.family)
    assert found_by(attention.family).endswith("o_proj and head_dim, as LlamaAttention does")
    assert scan.reconstruction_error < SINGLE
    assert attention.reconstruction_error < BOUND
    assert all(block.trusted for block in trace.layers)
    p, layer = attention.captured.scan["p"][0], model.layers[1].mixer
    values = layer.v_proj.weight.unflatten(0, (2, 4)).repeat_interleave(2, dim=0).flatten(0, 1)
    with torch.no_grad():
        expected = attention_vectors(p, attention.captured.x[0], values, layer.o_proj.weight).norm(dim=-1)
    assert distance(latim(trace, 1)[0], expected) < BOUND


def test_a_recognised_scan_has_the_map_of_the_stock_layer_with_its_weights():
    stock = stock_model("mamba2", torch.float64, use_bias=False, state_size=5, n_groups=2).backbone.layers[0]
    custom = CustomStateMixer().double()
    custom.load_state_dict(stock.mixer.state_dict())
    custom.norm = stock.mixer.norm  # of one group before transformers 5.23
    maps = [latim(capture(CustomHybrid(one), x=X), 0) for one in (stock.mixer, custom)]
    assert distance(*maps) < 1e-6  # the stock layer rounds A to float32


@pytest.mark.parametrize(("mixer", "words"), [(CustomStateMixer, "mamba2_chunk_scan"), (CustomAttention, "eager_at")])
def test_a_mixer_with_a_twist_is_refused_with_what_was_found_and_the_error(mixer, words):
    other = CustomAttention if mixer is CustomStateMixer else CustomStateMixer
    model = custom_hybrid(CustomBlock(mixer(twist=True)), CustomBlock(other()))
    with pytest.raises(UnsupportedModelError, match=rf"layers\.0\.mixer \({mixer.__name__}\): it calls {words}") as e:
        capture(model, x=X)
    assert "the output rebuilt so is another: relative error" in str(e.value)
    with pytest.raises(UnsupportedModelError):
        capture(model, x=X, check=False)  # what is only recognised is always checked
    trace = capture(model, x=X, partial=True)
    assert [branch.name for branch in trace.branches] == ["layers.1.mixer"]
    assert [part.name for part in trace.missing] == ["layers.0.mixer"]
    with torch.no_grad():
        stream = model.layers[0](X)
        assert distance(trace.layers[0].stream_in, stream) < SINGLE  # the unread mixer ran as it is


def test_a_scan_that_is_another_function_of_the_same_name_is_refused(monkeypatch):
    import custom_hybrid as file

    original = file.mamba2_chunk_scan
    monkeypatch.setattr(file, "mamba2_chunk_scan", lambda *args, **kwargs: original(*args, **kwargs) * 1.5)
    model = known()
    with pytest.raises(UnsupportedModelError, match=r"and 3\.33e-01 of its scan"):
        capture(model, x=X)
    stream = capture(model, x=X, partial=True).layers[0].stream_in
    with torch.no_grad():
        assert distance(stream, model.layers[0](X)) < BOUND
    monkeypatch.setattr(file, "mamba2_chunk_scan", lambda x, *, every, argument: x)
    with pytest.raises(TypeError):  # the model's own error, not one of ours
        capture(model, x=X)


UNKNOWN = {
    "an unknown mixer": (
        lambda: custom_hybrid(CustomBlock(CustomAttention()), CustomBlock(FourierMixer()), CustomBlock(FourierMixer())),
        ["layers.1.mixer", "layers.2.mixer"],
    ),
    "an unknown mixer first": (
        lambda: custom_hybrid(CustomBlock(FourierMixer()), CustomBlock(CustomAttention())),
        ["layers.0.mixer"],
    ),
    "an MLP that shifts tokens": (
        lambda: custom_hybrid(CustomBlock(CustomAttention()), CustomBlock(CustomAttention(), shift=True)),
        ["layers.1.mlp"],
    ),
    "the block's own code": (
        lambda: custom_hybrid(CustomBlock(CustomAttention(), inline=True), CustomBlock(CustomAttention())),
        ["layers.0"],
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [1, 9, 40])
def test_whatever_mixes_tokens_besides_is_found_by_name(name, dtype, length):
    make, names = UNKNOWN[name]
    model, x = make().to(dtype), torch.randn(2, length, 12).to(dtype)
    first = model.get_submodule(names[0])
    with pytest.raises(UnsupportedModelError, match=rf"{names[0]} \({type(first).__name__}\): ") as e:
        capture(model, x=x)
    assert "partial=True" in str(e.value)
    assert [part.name for part in capture(model, x=x, partial=True).missing] == names


def test_a_stock_layer_whose_family_is_not_known_is_not_passed_over(monkeypatch):
    """GPT-2's attention computes in a way of its own; without its family nothing about it is known."""
    model = stock_transformer("gpt2")
    (mamba,) = stock_model("mamba", num_hidden_layers=1).backbone.layers
    hybrid = CustomHybrid(model.transformer.h[0], mamba)
    family = next(family for family in FAMILIES.values() if family.model_type == "gpt2")
    monkeypatch.delitem(FAMILIES, family.name)
    with pytest.raises(UnsupportedModelError, match=r"layers\.0\.attn \(GPT2Attention\): "):
        capture(hybrid, x=torch.randn(1, 9, 12))


def test_whole_model_methods_refuse_a_trace_that_lacks_mixers():
    model = custom_hybrid(CustomBlock(CustomAttention()), CustomBlock(FourierMixer()))
    trace = capture(model, x=X, partial=True)
    whole = capture(custom_hybrid(CustomBlock(CustomAttention())), x=X)
    assert distance(latim(trace, 0), latim(whole, 0)) < BOUND
    with pytest.raises(UnsupportedModelError, match=r"rollout goes .*layers\.1\.mixer \(FourierMixer\)"):
        rollout(trace)
    for method in (methods.alti_logit, methods.mamba_attribution, methods.gradient_x_input):
        with pytest.raises(UnsupportedModelError, match=f"{method.__name__.replace('_', '-')} goes through the whole"):
            method(trace, readouts.token(-1, 3))


def test_the_state_space_mixer_that_lacks_a_part_is_refused_with_what_it_lacks():
    model = known()
    del model.layers[0].mixer.dt_bias
    with pytest.raises(UnsupportedModelError, match=r"calls mamba2_chunk_scan and .* lacks dt_bias of Mamba2Mixer"):
        find_mixers(model)


@pytest.mark.parametrize("family", ["gpt2", "bert", "vit", "mistral"])
def test_a_model_of_known_families_is_tested_once(family, monkeypatch):
    passes = []
    run = token_wise._Passes.run
    monkeypatch.setattr(token_wise._Passes, "run", lambda self, probe: (passes.append(1), run(self, probe))[1])
    model, inputs = stock_transformer(family), transformer_inputs(family)
    for _ in range(2):
        assert capture(model, **inputs).missing == ()
    assert len(passes) == 1
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)
    capture(model, **inputs)
    assert len(passes) == 2


def test_parts_of_a_known_mixer_are_not_recognised():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.mixer = CustomStateMixer()

    assert recognise(Outer(), FAMILIES.values()) is None
    found = recognise(CustomStateMixer(), FAMILIES.values())
    assert (found.affine, found.scan_function) == (mamba2.affine, "mamba2_chunk_scan")
