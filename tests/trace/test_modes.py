"""What a pass meets in users' programs: a capture within another's, half precision, another default device."""

import contextlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import mambascope
from hybrids import hybrid_model
from mambascope import capture, explain
from mambascope.errors import InputError
from mambascope.explanation import answering
from mambascope.families import find_mixers
from mambascope.families.patch_points import _dispatching
from mambascope.methods import latim
from models import stock_model
from picture_checkpoints import vim
from rounding import assert_equal_to_rounding

IDS = torch.tensor([[1, 2, 3]])


def test_a_capture_of_another_family_within_a_capture():
    """Each handles the calls of its own family; the other's go to whoever they were meant for."""
    outer, inner = stock_model("mamba"), stock_model("mamba2")
    expected, found = capture(inner, input_ids=IDS), []
    hook = outer.backbone.embeddings.register_forward_hook(lambda *_: found.append(capture(inner, input_ids=IDS)))
    trace = capture(outer, input_ids=IDS)
    hook.remove()
    assert len(trace.layers) == len(capture(outer, input_ids=IDS).layers)
    torch.testing.assert_close(found[0].logits, expected.logits)


def test_a_model_of_another_family_runs_within_a_capture():
    """Its scans are not the capture's, though a capture in another thread may have put its patch points in place."""
    outer, inner = stock_model("mamba"), stock_model("mamba2")
    expected = inner(input_ids=IDS, use_cache=False).logits
    found = []

    def run(*_):
        with _dispatching(find_mixers(inner)[0][2].scan_point):
            found.append(inner(input_ids=IDS, use_cache=False).logits)

    hook = outer.backbone.embeddings.register_forward_hook(run)
    capture(outer, input_ids=IDS)
    hook.remove()
    torch.testing.assert_close(found[0], expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_vim_in_half_precision(dtype):
    model = vim().to(dtype)
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    trace = capture(model, pixel_values=pixels)
    assert trace.logits.dtype == dtype
    assert max(trace.reconstruction_error) < 4e-2


def test_another_default_device_changes_nothing():
    model = stock_model("mamba")
    expected = latim(capture(model, input_ids=IDS), 0)
    with torch.device("meta"):
        found = latim(capture(model, input_ids=IDS), 0)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("generate", [None, 1])
def test_what_the_models_own_code_raises_is_said_in_one_sentence(generate):
    """A chunk of no tokens divides by zero deep in transformers."""
    model = stock_model("mamba2", pad_token_id=None)
    for block in model.backbone.layers:
        block.mixer.chunk_size = 0
    said = r"^Mamba2ForCausalLM's own code cannot run on these inputs: ZeroDivisionError: [^\n]*$"
    with pytest.raises(InputError, match=said):
        mambascope.explain(model, None, {"input_ids": IDS}, method="hidden-attention", generate=generate)


def test_what_a_compiled_kernel_refuses_is_said_in_one_sentence(monkeypatch):
    """As causal_conv1d does where channels are no multiple of eight, or weights are in float64."""
    kernel = {"__name__": "causal_conv1d.cpp_functions"}
    exec("def refuse(*args, **kwargs): raise RuntimeError('channels must be divisible by 8')", kernel)
    monkeypatch.setattr("transformers.models.mamba.modeling_mamba.causal_conv1d_fn", kernel["refuse"])
    said = "^MambaForCausalLM's own code cannot run on these inputs: RuntimeError: channels must be divisible by 8$"
    with pytest.raises(InputError, match=said):
        capture(stock_model("mamba"), input_ids=IDS)


def test_what_the_models_own_code_raises_within_a_callers_mode_is_said_in_one_sentence():
    """A mode that hands every operation on stands between the model's code and the operation that refuses."""

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    model = stock_model("mamba")
    model.backbone.layers[0].mixer.x_proj.double()
    for mode in (contextlib.nullcontext(), Watching()):
        with mode, pytest.raises(InputError, match="own code cannot run on these inputs: RuntimeError"):
            capture(model, input_ids=IDS, check=False)


def test_what_a_hook_raises_passes_as_it_is():
    model = stock_model("mamba")

    def stop(*_):
        raise KeyError("the caller's own way out")

    model.backbone.layers[0].register_forward_hook(stop)
    with pytest.raises(KeyError, match="own way out"):
        capture(model, input_ids=IDS)


def test_scores_that_are_not_finite_are_refused(monkeypatch):
    monkeypatch.setattr(answering, "score", _overflowing(answering.score))
    with pytest.raises(InputError, match="the latim scores hold NaN or infinite values: the model's weights are"):
        mambascope.explain(stock_model("mamba"), None, {"input_ids": IDS}, method="latim")


def _overflowing(score):
    def scored(*args, **kwargs):
        rows = score(*args, **kwargs)
        rows.scores[..., 0] = torch.inf
        return rows

    return scored


@pytest.mark.parametrize("family", ["mamba2", "olmo_hybrid", "xlstm"])
def test_an_operator_asked_for_under_autocast_has_the_precision_of_the_weights(family):
    model = stock_model(family) if family == "mamba2" else hybrid_model(family)
    trace = capture(model, input_ids=IDS)
    expected = [trace.operator(layer).output() for layer in range(len(trace.layers))]
    with torch.autocast("cpu", torch.bfloat16):
        operators = [trace.operator(layer) for layer in range(len(trace.layers))]
    for found, one in zip(operators, expected, strict=True):
        assert_equal_to_rounding(found.output(), one)


@pytest.mark.parametrize("precision", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ["smoothgrad", "random", "integrated-gradients", "mamba-lrp", "latim"])
def test_scores_do_not_depend_on_the_default_precision(name, precision):
    model, default = stock_model("mamba2"), torch.get_default_dtype()
    torch.manual_seed(0)
    expected = explain(model, None, {"input_ids": IDS}, method=name, progress=False).scores
    try:
        torch.set_default_dtype(precision)
        torch.manual_seed(0)
        found = explain(model, None, {"input_ids": IDS}, method=name, progress=False).scores
    finally:
        torch.set_default_dtype(default)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
