"""Convolutions before scans: answered by our own during a capture, where it agrees with the model's."""

import importlib

import pytest
import torch

from hybrids import hybrid_model
from mambascope import capture
from mambascope.operators.convolution import CausalConvolution
from mambascope.trace.convolving import ACTIVATIONS, ConvolutionCall, answer_convolution
from mambascope.trace.scanning import PREFIX, relative_error
from models import FAMILIES, stock_model

CONVOLVING = (*FAMILIES, "jamba", "qwen3_next")


def small(family):
    return stock_model(family) if family in FAMILIES else hybrid_model(family)


def function_of(family):
    """Return the stock convolution of a family's modelling file, and the family as captured."""
    found = next(
        branch.family
        for block in capture(small(family), input_ids=torch.arange(4)[None]).layers
        for branch in block.branches
        if branch.kind != "attention"
    )
    return getattr(importlib.import_module(found.module), found.conv_function), found


def called(length, taps=4, dtype=torch.float32, bias=True, batch=2):
    generator = torch.Generator().manual_seed(length)
    sizes = ((batch, 12, length), (12, taps), (12,))
    x, weight, shift = (torch.randn(*size, generator=generator).to(dtype) for size in sizes)
    return (x, weight, shift if bias else None)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("length", [1, 2, 7, PREFIX, PREFIX + 1, 40])
@pytest.mark.parametrize("bias", [True, False])
def test_the_answer_is_the_models_own(activation, length, bias):
    original, family = function_of("mamba")
    args = called(length, bias=bias)
    output, record = answer_convolution(family, original, args, {"activation": activation}, 1e-6)
    assert record.made is not None
    assert record.read is args[0]
    torch.testing.assert_close(output, original(*args, activation=activation), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_precision_is_kept(dtype):
    original, family = function_of("mamba")
    args = called(30, dtype=dtype)
    output, record = answer_convolution(family, original, args, {"activation": "silu"}, 1e-2)
    assert record.made is not None
    assert output.dtype == dtype
    expected = original(*(one.double() for one in args), activation="silu")
    bound = {torch.bfloat16: 2**-8, torch.float16: 2**-10, torch.float64: 1e-13}[dtype]  # one rounding of the answer
    torch.testing.assert_close(output.double(), expected, rtol=bound, atol=bound)


def test_what_ours_does_not_answer_the_model_does():
    original, family = function_of("mamba")
    seen = []

    def noting(*args, **kwargs):
        seen.append(args[0].shape[-1])
        return original(*args, **kwargs)

    for args, kwargs in (
        (called(30), {"activation": "gelu"}),
        (called(30, taps=9), {"activation": "silu"}),
        (called(30), {"activation": "silu", "another": torch.zeros(2, 30)}),
    ):
        output, record = answer_convolution(family, noting, args, kwargs, 1e-6)
        assert record.made is None
        assert record.call is None
        assert seen.pop() == 30
        assert torch.equal(output, original(*args, **kwargs))
        assert not seen


@pytest.mark.parametrize("tokens", [PREFIX, PREFIX + 3])
def test_where_it_differs_from_the_model_the_model_answers(tokens):
    """At the first tokens or the last; a fault in between alone is not seen, as the module's reference says."""
    original, family = function_of("mamba")
    args = called(30)

    def other(x, *rest, **kwargs):
        output = original(x, *rest, **kwargs)
        output[..., -1] += x.shape[-1] == tokens  # of the first tokens, or of the last and the three that they read
        return output

    output, record = answer_convolution(family, other, args, {"activation": "silu"}, 1e-4)
    assert record.made is None
    assert torch.equal(output, other(*args, activation="silu"))


@pytest.mark.parametrize("family", CONVOLVING)
def test_a_capture_runs_the_models_convolution_on_few_tokens(family, monkeypatch):
    original, found = function_of(family)
    model, ids, lengths = small(family), torch.arange(40)[None] % 32, []

    def noting(*args, **kwargs):
        lengths.append((args[0] if args else kwargs["hidden_states"]).shape[-1])
        return original(*args, **kwargs)

    monkeypatch.setattr(f"{found.module}.{found.conv_function}", noting)
    stock = model(ids).logits.detach()
    assert set(lengths) == {40}
    for check, whole in (("projected", False), (False, False), ("full", True)):
        lengths.clear()
        outputs = capture(model, input_ids=ids, check=check).outputs
        assert (40 in lengths) == whole, check
        assert relative_error(outputs.logits, stock) < 1e-5  # some hundred roundings of 1e-7, through two layers


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trace_keeps_no_view_of_something_larger(family):
    for block in capture(stock_model(family), input_ids=torch.arange(40)[None]).layers:
        for name, kept in block.branch.captured.scan.items():
            assert kept.untyped_storage().nbytes() <= kept.nbytes, name


def test_a_call_is_the_operators_only_with_its_taps_bias_and_activation():
    taps, bias = torch.randn(12, 4), torch.randn(12)
    call, some = ConvolutionCall(CausalConvolution(taps), bias, True), slice(3, 9)
    right = CausalConvolution(taps[some])
    assert call.same(right, bias[some], True, some)
    assert not call.same(CausalConvolution(taps[some].flip(1)), bias[some], True, some)
    assert not call.same(right, bias[some] + 1e-3, True, some)
    assert not call.same(right, None, True, some)
    assert not call.same(right, bias[some], False, some)
    assert not call.same(right, bias[some], True, slice(2, 8))
