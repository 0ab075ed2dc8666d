"""Capture on stock models: what it accepts, what it proves, and that it leaves everything as it was."""

import importlib
import threading

import pytest
import torch
import transformers
from torch import nn

from mambascope import ReconstructionError, UnsupportedModelError, capture
from mambascope.errors import InputError
from mambascope.families import falcon_mamba, mamba, mamba2
from mambascope.methods.latim import latim
from mambascope.trace import scanning
from mambascope.trust import TOLERANCE
from models import FAMILIES, padded_batch, stock_model
from rounding import assert_equal_to_rounding

IDS, MASK = padded_batch(20, 2, "left")


def scan_function(family):
    known = {"mamba": mamba, "falcon_mamba": falcon_mamba, "mamba2": mamba2}[family].FAMILY
    return getattr(importlib.import_module(known.module), known.scan_function)


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["f32", "bf16", "f16"])
def test_logits_are_the_stock_models_own(family, dtype):
    model = stock_model(family, dtype)
    with torch.no_grad():
        stock = model(input_ids=IDS, attention_mask=MASK, use_cache=False).logits
    trace = capture(model, input_ids=IDS, attention_mask=MASK)
    real = MASK.bool()
    error = (trace.logits - stock)[real].norm() / stock[real].norm()
    assert error < {torch.float32: 1e-5}.get(dtype, 5e-2)  # halves: the stock scan rounds every step, ours does not
    assert max(trace.reconstruction_error) < TOLERANCE[dtype]
    assert trace.operator(0).x.dtype == torch.float32
    assert trace.operator(0, torch.float64).x.dtype == torch.float64
    assert [record.index for record in trace.layers] == [0, 1]
    assert trace.shape == (2, 20)


def test_embeddings_are_accepted_and_give_the_same(family):
    model = stock_model(family)
    embeds = model.get_input_embeddings()(IDS).detach()
    from_ids, from_embeds = capture(model, input_ids=IDS), capture(model, inputs_embeds=embeds)
    assert_equal_to_rounding(from_embeds.logits, from_ids.logits)
    assert_equal_to_rounding(latim(from_embeds), latim(from_ids))


def test_a_model_in_training_mode_is_captured_in_evaluation_mode_and_put_back(family):
    model = stock_model(family).train()
    model.backbone.layers[0].eval()
    expected = [module.training for module in model.modules()]
    trace = capture(model, input_ids=IDS)
    assert [module.training for module in model.modules()] == expected
    assert not any(t.requires_grad for t in trace.branches[0].captured.scan.values())


def test_everything_is_restored_when_the_model_raises(family):
    model, before = stock_model(family).train(), scan_function(family)

    def fail(*_):
        raise RuntimeError("the model broke")

    handle = model.backbone.layers[1].mixer.out_proj.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="the model broke"):
        capture(model, input_ids=IDS)
    handle.remove()
    assert scan_function(family) is before
    assert model.training
    assert torch.is_grad_enabled()
    mixers = [layer.mixer for layer in model.backbone.layers]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in mixers)
    capture(model, input_ids=IDS)


def test_nested_captures_do_not_see_each_other(family):
    outer, inner, found = stock_model(family, seed=1), stock_model(family, seed=2), []
    expected = capture(inner, input_ids=IDS[:, :7])
    handle = outer.backbone.layers[0].mixer.in_proj.register_forward_hook(
        lambda *_: found.append(capture(inner, input_ids=IDS[:, :7])) and None
    )
    alone = capture(outer, input_ids=IDS, check=False)
    handle.remove()
    assert_equal_to_rounding(alone.logits, capture(outer, input_ids=IDS).logits)
    assert len(alone.layers) == len(found[0].layers) == 2
    assert_equal_to_rounding(found[0].logits, expected.logits)


@pytest.mark.parametrize("shared", [True, False], ids=["one model", "two models"])
def test_threads_do_not_see_each_other(family, shared):
    first = stock_model(family, seed=1)
    second = first if shared else stock_model(family, seed=2)
    inputs = [padded_batch(length, 1, "left", seed=length)[0] for length in (9, 31)]
    expected = [capture(m, input_ids=i) for m, i in zip((first, second), inputs, strict=True)]
    start, results = threading.Barrier(2), {}

    def work(name, model, ids):
        start.wait()
        results[name] = [capture(model, input_ids=ids) for _ in range(12)]

    threads = [threading.Thread(target=work, args=(n, m, inputs[n])) for n, m in enumerate((first, second))]
    before = scan_function(family)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert scan_function(family) is before
    for name in (0, 1):
        assert len(results[name]) == 12, "a thread failed"
        for trace in results[name]:
            assert_equal_to_rounding(trace.logits, expected[name].logits)
            for record, right in zip(trace.branches, expected[name].branches, strict=True):
                assert_equal_to_rounding(record.captured.scan["dt"], right.captured.scan["dt"])


@pytest.mark.parametrize("same", [True, False], ids=["the same model", "another model"])
def test_a_thread_that_does_not_capture_runs_the_original(family, same):
    """While one thread captures, another's plain forward pass calls the stock scan, and is not recorded."""
    model = stock_model(family, seed=1)
    other = model if same else stock_model(family, seed=2)
    with torch.no_grad():
        stock = other(input_ids=IDS, use_cache=False).logits
    expected, seen = capture(model, input_ids=IDS), []

    def run():
        with torch.no_grad():
            seen.append(other(input_ids=IDS, use_cache=False).logits)

    def elsewhere(*_):
        if threading.current_thread() is threading.main_thread():
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()

    handle = model.backbone.layers[0].mixer.in_proj.register_forward_hook(elsewhere)
    trace = capture(model, input_ids=IDS)
    handle.remove()
    assert len(seen) == 1, "the other thread failed"
    assert_equal_to_rounding(seen[0], stock)
    assert len(trace.layers) == 2
    assert_equal_to_rounding(trace.logits, expected.logits)


@pytest.mark.parametrize("inputs", [{"input_ids": IDS}, {"input_ids": IDS, "attention_mask": MASK}])
def test_the_gate_that_a_norm_reads_is_kept_and_is_that_of_the_projection(inputs):
    (branch, *_) = capture(stock_model("mamba2", torch.float64), **inputs).branches
    gate, mixer, x = branch.captured.scan["gate"], branch.mixer, branch.captured.x
    x = x if branch.captured.mask is None else x * branch.captured.mask[..., None]
    channels = mixer.out_proj.weight.shape[1]
    with torch.no_grad():
        assert_equal_to_rounding(gate, mixer.in_proj(x)[..., :channels])
    assert gate.untyped_storage().nbytes() == gate.numel() * gate.element_size()  # no view of all projections


def test_a_mixer_that_does_something_else_is_caught(family):
    """A changed forward pass must not pass for the one that the operator describes."""
    model = stock_model(family)
    model.backbone.layers[1].mixer.out_proj.register_forward_hook(lambda module, args, y: y * 1.001)
    with pytest.raises(
        ReconstructionError, match=r"layer 1 \(backbone\.layers\.1\.mixer, .*Mixer\).*transformers 5"
    ) as e:
        capture(model, input_ids=IDS)
    assert "\n" not in str(e.value)
    assert len(capture(model, input_ids=IDS, check=False).layers) == 2
    assert max(capture(model, input_ids=IDS, tolerance=1e-2).reconstruction_error) == pytest.approx(1e-3, rel=0.1)


def test_a_wrong_fast_scan_is_caught_against_the_models_own(family, monkeypatch):
    """The rebuilt output runs the same scan, so only the comparison with the stock reference can tell."""
    name = "channel_recurrence" if family != "mamba2" else "head_recurrence"
    module = "selective_scan" if family != "mamba2" else "state_space_dual"
    module = __import__(f"mambascope.operators.{module}", fromlist=[name])
    right = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *args: right(*args) * 1.01)
    with pytest.raises(ReconstructionError, match="of its scan"):
        capture(stock_model(family), input_ids=IDS)


def test_where_the_model_has_a_kernel_its_own_scan_runs(family, monkeypatch):
    """As on a GPU with mamba_ssm installed: the stock scan runs and not ours, and all is rebuilt."""
    model = stock_model(family)
    with torch.no_grad():
        stock = model(input_ids=IDS, use_cache=False).logits
    ours = []
    monkeypatch.setattr(scanning, "has_kernel", lambda tensor: True)
    monkeypatch.setattr(scanning, "run_scan", lambda *_: ours.append(1))
    trace = capture(model, input_ids=IDS)
    assert not ours
    assert_equal_to_rounding(trace.logits, stock)
    assert max(trace.reconstruction_error) < TOLERANCE[torch.float32]
    assert all(record.scan_error == 0 for record in trace.layers)


def test_any_module_around_a_stock_mixer_is_captured():
    config = transformers.MambaConfig(hidden_size=12, state_size=3, num_hidden_layers=1)
    mixer = transformers.models.mamba.modeling_mamba.MambaMixer(config, layer_idx=0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = mixer

        def forward(self, x):
            return self.block(x).mean(dim=1)

    trace = capture(Net(), x=torch.randn(2, 9, 12))
    assert trace.layers[0].name == "block"
    assert trace.logits is None


@pytest.mark.parametrize("length", [1, 2, 3])
def test_texts_shorter_than_the_convolution(family, length):
    trace = capture(stock_model(family), input_ids=IDS[:, :length])
    assert latim(trace).shape == (2, 2, length, length)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"input_ids": torch.zeros(1, 0, dtype=torch.long)}, "tokens > 0"),
        ({"input_ids": torch.tensor([1, 2])}, "must have shape"),
        ({"input_ids": torch.tensor([[1, 50]])}, "token id 50 is outside the model's vocabulary of 50"),
        ({"input_ids": torch.tensor([[-1, 5]])}, "token id -1 is outside"),
        ({"input_ids": IDS, "use_cache": True}, "pass no cache"),
        ({"input_ids": IDS, "cache": transformers.DynamicCache()}, "pass no cache"),
        ({"input_ids": IDS, "cache_params": transformers.DynamicCache()}, "pass no cache"),
        ({"input_ids": IDS, "past_key_values": transformers.DynamicCache()}, "pass no cache"),
        ({"input_ids": IDS, "attention_mask": MASK[:, :3]}, "does not match the text"),
        ({"inputs_embeds": torch.zeros(2, 20, 12), "attention_mask": MASK[:, :3]}, "does not match the text"),
        ({"inputs_embeds": torch.zeros(1, 0, 12)}, "inputs_embeds must have shape"),
    ],
)
def test_inputs_that_cannot_be_used_are_refused(inputs, words):
    with pytest.raises(InputError, match=words):
        capture(stock_model("mamba"), **inputs)


def test_a_model_without_a_known_mixer_is_refused_by_name():
    t5 = transformers.T5EncoderModel(transformers.T5Config(num_layers=1, d_model=8, num_heads=2, d_ff=8, vocab_size=20))
    with pytest.raises(UnsupportedModelError, match=r"T5EncoderModel .*vision-mamba, mambavision, vmamba, gpt2"):
        capture(t5, input_ids=IDS)


def test_layers_that_do_not_exist_are_refused():
    trace = capture(stock_model("mamba"), input_ids=IDS)
    with pytest.raises(InputError, match="layer 99 does not exist; this model has layers 0–1"):
        trace.operator(99)
    assert torch.equal(trace.operator(-1).x, trace.operator(1).x)
