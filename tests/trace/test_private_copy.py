"""Passes run on a private copy of the model: what it shares, what it has of its own, and that nothing runs past it."""

import functools
import gc
import itertools
import weakref

import pytest
import torch
import transformers
from torch import nn

from mambascope import UnsupportedModelError, capture, explain, readouts
from mambascope.methods.registry import METHODS
from mambascope.trace.differentiate import differentiate
from mambascope.trace.private_copy import private_copy
from models import FAMILIES, TRANSFORMERS, padded_batch, stock_model, stock_transformer
from picture_mixer_models import Block
from rounding import assert_equal_to_rounding

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

IDS = padded_batch(7, 1, "left")[0]


def model_of(family, **options):
    return stock_model(family, **options) if family in FAMILIES else stock_transformer(family, **options)


@pytest.mark.parametrize("family", [*FAMILIES, *(name for name in TRANSFORMERS if name != "vit")])
def test_a_copy_computes_what_the_model_computes_from_the_same_memory(family):
    model = model_of(family).train()
    twin = private_copy(model)
    assert [type(part) for part in twin.modules()] == [type(part) for part in model.modules()]
    assert not any(own is part for own, part in itertools.product(twin.modules(), model.modules()))
    places = {name: weight.data_ptr() for name, weight in model.named_parameters(remove_duplicate=False)}
    assert {name: weight.data_ptr() for name, weight in twin.named_parameters(remove_duplicate=False)} == places
    assert len(list(twin.parameters())) == len(list(model.parameters())), "tied weights stay tied"
    assert not any(weight.requires_grad for weight in twin.parameters())
    assert all(weight.requires_grad for weight in model.parameters())
    assert not any(part.training for part in twin.modules())
    assert all(part.training for part in model.modules())
    with torch.no_grad():
        assert_equal_to_rounding(twin(input_ids=IDS).logits, model.eval()(input_ids=IDS).logits)


def test_a_copy_follows_its_model_when_the_weights_change():
    model = stock_model("mamba")
    trace = capture(model, input_ids=IDS)
    with torch.no_grad():
        model.backbone.layers[0].mixer.out_proj.weight.mul_(2)
    assert torch.equal(trace.branches[0].mixer.out_proj.weight, model.backbone.layers[0].mixer.out_proj.weight)
    assert trace.model is model


def test_a_trace_keeps_no_more_than_its_mixers(monkeypatch):
    """The rest of the copy, and what its hooks hold, is let go at the end of the pass."""
    copies = []
    running = __import__("mambascope.trace.running", fromlist=["private_copy"])
    stock = running.private_copy

    def noted(*args, **kwargs):
        twin = stock(*args, **kwargs)
        copies.append(weakref.ref(twin))
        return twin

    monkeypatch.setattr(running, "private_copy", noted)
    gc.disable()
    try:
        trace = capture(stock_model("mamba"), input_ids=IDS)
        trace.gradients(readouts.token(-1, 3))
        assert len(copies) == 3  # of the capture, of the test for parts that mix tokens, and of the backward pass
        assert not any(copy() for copy in copies)
    finally:
        gc.enable()
    assert not any(
        part._forward_hooks or part._forward_pre_hooks for branch in trace.branches for part in branch.mixer.modules()
    )


def blocks(model):
    return model.transformer.h if hasattr(model, "transformer") else model.backbone.layers


@pytest.mark.parametrize("family", ["mamba", "mamba2", "gpt2"])
def test_steering_by_a_users_hook_acts_in_every_pass(family):
    model = model_of(family)
    push = torch.randn(model.get_input_embeddings().embedding_dim, generator=torch.Generator().manual_seed(0))
    plain = capture(model, input_ids=IDS).logits
    blocks(model)[0].register_forward_hook(lambda _, args, output: output + push)
    with torch.no_grad():
        expected = model(input_ids=IDS, use_cache=False).logits
    assert (expected - plain).abs().max() > 0.1
    assert_equal_to_rounding(capture(model, input_ids=IDS).logits, expected)
    value = float(expected[0, -1, 3])
    assert float(differentiate(model, readouts.token(-1, 3), input_ids=IDS).value) == pytest.approx(value, rel=1e-4)
    names = ["occlusion", "smoothgrad", *(["knockout"] if family != "gpt2" else [])]
    for one in explain(model, None, {"input_ids": IDS}, method=names, target=3, progress=False):
        assert one.diagnostics["value"] == pytest.approx(value, rel=1e-4), one.method


def test_a_hook_that_is_a_method_of_the_model_acts_on_the_copy():
    class Noting(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.seen = stock_model("mamba"), None
            self.inner.backbone.register_forward_hook(self.note)

        def note(self, _, __, output):
            self.seen = output.last_hidden_state

        def forward(self, input_ids):
            self.inner(input_ids, use_cache=False)
            return self.seen.sum(dim=-1)

    model = Noting()
    with torch.no_grad():
        expected = model(IDS)
    model.seen = None
    assert_equal_to_rounding(capture(model, input_ids=IDS).outputs, expected)
    assert model.seen is None


def in_a_closure(model):
    stock = model.forward
    model.forward = lambda **inputs: stock(**inputs)


def in_a_partial(model):
    model.forward = functools.partial(type(model).forward, model)


def in_an_object(model):
    class Called:
        def __init__(self, function):
            self.function = function

        def __call__(self, **inputs):
            return self.function(**inputs)

    model.forward = Called(model.forward)


def in_a_list(model):
    model.parts = [model.backbone]
    stock = model.forward

    def forward(**inputs):
        assert model.parts[0] is model.backbone
        return stock(**inputs)

    model.forward = forward


def compiled(model):
    model.forward = torch.compile(model.forward)


def compiled_in_place(model):
    model.backbone.compile()


@pytest.mark.parametrize("replace", [in_a_closure, in_a_partial, in_an_object, in_a_list, compiled, compiled_in_place])
def test_a_replaced_forward_runs_the_copy(replace):
    """So hooks for the pass act, nothing is compiled for it, and the model stays in training mode."""
    model, stock = stock_model("mamba"), stock_model("mamba")
    replace(model)
    model.train()
    seen = torch._dynamo.utils.counters["frames"]["total"]
    held = capture(model, input_ids=IDS)
    assert len(held.layers) == 2
    assert_equal_to_rounding(held.logits, capture(stock, input_ids=IDS).logits)
    readout = readouts.token(-1, 3)
    assert_equal_to_rounding(
        held.gradients(readout).at_embeddings, differentiate(stock, readout, input_ids=IDS).at_embeddings
    )
    assert all(part.training for part in model.modules())
    assert torch._dynamo.utils.counters["frames"]["total"] == seen


KEPT = {}


@pytest.mark.parametrize("part", ["model", "block"])
def test_a_mixer_that_runs_past_the_copy_is_refused(part):
    """A function that finds the user's module by itself would leave a shorter trace, or none."""
    model = stock_model("mamba")
    whole = model if part == "model" else model.backbone.layers[1]
    KEPT["forward"] = whole.forward
    whole.forward = lambda *args, **inputs: KEPT["forward"](*args, **inputs)
    with pytest.raises(
        UnsupportedModelError, match=r"runs backbone\.layers\.\d\.mixer by a function .* pass the model as it was"
    ) as e:
        capture(model, input_ids=IDS)
    assert "\n" not in str(e.value)


class Some(nn.Module):
    """A model that calls only the layers that it is told to call, as often as it is told."""

    def __init__(self, order):
        super().__init__()
        config = transformers.MambaConfig(hidden_size=12, state_size=3, num_hidden_layers=1)
        mixer = transformers.models.mamba.modeling_mamba.MambaMixer
        self.layers = nn.ModuleList(Block(12, mixer(config, layer_idx=0)) for _ in range(3))
        self.order = order

    def forward(self, x):
        for number in self.order:
            x = self.layers[number](x)
        return x


@pytest.mark.parametrize("order", [(0, 2), (1, 1, 2), (0,)])
def test_layers_that_a_model_skips_or_repeats_are_not_in_the_way(order):
    trace = capture(Some(order), x=torch.randn(1, 9, 12))
    assert [branch.name for branch in trace.branches] == [f"layers.{number}.mixer" for number in order]


def test_modules_under_two_names_stay_one():
    model = Some((0, 1))
    model.layers[1].mixer = model.layers[0].mixer
    model.again = {"mixers": (model.layers[0].mixer,)}
    twin = private_copy(model)
    assert twin.layers[1].mixer is twin.layers[0].mixer is twin.again["mixers"][0]
    assert twin.layers[0].mixer is not model.layers[0].mixer
    assert [branch.name for branch in capture(model, x=torch.randn(1, 9, 12)).branches] == ["layers.0.mixer"] * 2


def without_weights():
    with torch.device("meta"):
        return transformers.MambaForCausalLM(
            transformers.MambaConfig(vocab_size=50, hidden_size=12, num_hidden_layers=1)
        )


def offloaded():
    accelerate = pytest.importorskip("accelerate")
    return accelerate.cpu_offload(stock_model("mamba"))


@pytest.mark.parametrize("made", [without_weights, offloaded])
def test_models_whose_weights_are_not_in_memory_are_refused(made):
    for call in (capture, differentiate):
        more = () if call is capture else (readouts.token(-1, 3),)
        with pytest.raises(
            UnsupportedModelError, match="weight of this MambaForCausalLM has no numbers in memory"
        ) as e:
            call(made(), *more, input_ids=IDS)
        assert "\n" not in str(e.value)


def test_models_that_are_split_over_processes_are_refused(tmp_path):
    from torch.distributed.fsdp import fully_shard

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/together", rank=0, world_size=1)
    try:
        model = stock_model("mamba")
        fully_shard(model, mesh=torch.distributed.init_device_mesh("cpu", (1,)))
        with pytest.raises(UnsupportedModelError, match="is split into shards by fully_shard"):
            capture(model, input_ids=IDS)
    finally:
        torch.distributed.destroy_process_group()


def test_a_module_of_torchscript_is_shared_and_refused_in_training_mode():
    model = Some((0, 1)).eval()
    model.layers[0].norm = torch.jit.trace(model.layers[0].norm, torch.randn(1, 9, 12))
    assert len(capture(model, x=torch.randn(1, 9, 12)).layers) == 2
    model.train()
    with pytest.raises(UnsupportedModelError, match=r"layers\.0\.norm is a module of TorchScript in training mode"):
        capture(model, x=torch.randn(1, 9, 12))


@pytest.mark.parametrize("family", ["mamba", "mamba2", "gpt2", "llama"])
def test_explanations_in_inference_mode(family):
    model = model_of(family)
    names = [
        name
        for name, method in METHODS.items()
        if method.reads({branch.kind for branch in capture(model, input_ids=IDS).branches})
    ]
    expected = explain(model, None, {"input_ids": IDS}, method=names, progress=False)
    with torch.inference_mode():
        found = explain(model, None, {"input_ids": IDS.clone()}, method=names, progress=False)
        copied = type(model)(model.config).eval()
        copied.load_state_dict(model.state_dict())
        again = explain(copied, None, {"input_ids": IDS.clone()}, method=names, progress=False)
    for one, other, right in zip(found, again, expected, strict=True):
        if right.method != "random":
            assert_equal_to_rounding(one.scores, right.scores, right.method)
            assert_equal_to_rounding(other.scores, right.scores, right.method)


@pytest.mark.parametrize("family", ["mamba", "mamba2", "gpt2", "llama"])
def test_explanations_under_autocast(family):
    """The model runs in the precision of its weights there too, so scores are the same."""
    model = model_of(family)
    names = ["latim", "gradient-x-input", "occlusion", "alti-logit"]
    expected = explain(model, None, {"input_ids": IDS}, method=names, progress=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = explain(model, None, {"input_ids": IDS}, method=names, progress=False)
    for one, right in zip(found, expected, strict=True):
        assert_equal_to_rounding(one.scores, right.scores, right.method)
