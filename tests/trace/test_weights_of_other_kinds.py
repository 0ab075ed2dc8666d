"""Weights that are quantised, or split over processes: refused by name with the remedy, never read as if plain.

Where the library that makes them is not here, a class of its name stands in.
"""

import types

import pytest
import torch
import torch.distributed
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

from mambascope import UnsupportedModelError, capture, explain, readouts
from models import padded_batch, stock_model
from rounding import assert_equal_to_rounding

IDS = padded_batch(7, 1, "left")[0]


def class_of(module, name, base):
    """A class of this full name."""
    return type(name, (base,), {"__module__": module})


def plain(layer):
    return layer.weight.detach()


def packed(layer, module, name, held, dtype):
    """The layer as a class of a library that keeps codes of this precision under this name."""
    twin = object.__new__(class_of(module, name, nn.Linear))
    vars(twin).update(vars(layer) | {"_parameters": dict(layer._parameters), "_buffers": {}})
    codes = torch.zeros_like(plain(layer)).to(dtype)
    if held == "weight":
        twin._parameters["weight"] = nn.Parameter(codes, requires_grad=False)
    else:
        twin._buffers[held] = codes
    return twin


def scaled(layer):
    """A layer whose class is plain, as compressed-tensors leaves it while it is calibrated."""
    layer.quantization_scheme = types.SimpleNamespace(weights="int8")
    return layer


def of_two_tensors(layer):
    """A weight that is a tensor of a class of its own, as those of torchao are."""
    layer.weight = nn.Parameter(TwoTensor(plain(layer), plain(layer)), requires_grad=False)
    return layer


def by_torch(layer):
    holder = nn.Sequential(layer)
    torch.ao.quantization.quantize_dynamic(holder, {nn.Linear}, inplace=True)
    return holder[0]


KINDS = {
    "bitsandbytes 8 bits": (
        lambda layer: packed(layer, "bitsandbytes.nn.modules", "Linear8bitLt", "weight", torch.int8),
        r"\(Linear8bitLt\) is quantised: it is a layer of bitsandbytes",
    ),
    "bitsandbytes 4 bits": (
        lambda layer: packed(layer, "bitsandbytes.nn.modules", "Linear4bit", "weight", torch.uint8),
        r"\(Linear4bit\) is quantised: it is a layer of bitsandbytes",
    ),
    "gptq": (
        lambda layer: packed(layer, "gptqmodel.nn_modules.qlinear.torch", "TorchQuantLinear", "qweight", torch.int32),
        r"\(TorchQuantLinear\) is quantised: it is a layer of gptqmodel",
    ),
    "awq": (
        lambda layer: packed(layer, "awq.modules.linear.gemm", "WQLinear_GEMM", "qweight", torch.int32),
        r"\(WQLinear_GEMM\) is quantised: it is a layer of awq",
    ),
    "fp8 of transformers": (
        lambda layer: packed(
            layer, "transformers.integrations.finegrained_fp8", "FP8Linear", "weight", torch.float8_e4m3fn
        ),
        r"\(FP8Linear\) is quantised: it is a layer of transformers.integrations.finegrained_fp8",
    ),
    "an unknown library": (
        lambda layer: packed(layer, "somewhere.layers", "Packed", "weight", torch.int8),
        r"\(Packed\) is quantised: weight holds int8 values",
    ),
    "an unknown library's eight bits": (
        lambda layer: packed(layer, "somewhere.layers", "Packed", "weight", torch.float8_e5m2),
        r"\(Packed\) is quantised: weight holds float8_e5m2 values",
    ),
    "codes beside the weight": (
        lambda layer: packed(layer, "somewhere.layers", "Packed", "qweight", torch.int32),
        r"\(Packed\) is quantised: it has qweight",
    ),
    "compressed-tensors": (scaled, r"\(Linear\) is quantised: it has quantization_scheme"),
    "tensors of a class of their own": (of_two_tensors, r"\(Linear\) is quantised: weight is a torch TwoTensor"),
    "torch": (by_torch, r"\(Linear\) is quantised: it is a layer of torch.ao.nn.quantized"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["in_proj", "out_proj"])
def test_a_quantised_layer_is_refused_by_name(kind, place):
    model, (change, says) = stock_model("mamba"), KINDS[kind]
    mixer = model.backbone.layers[1].mixer
    setattr(mixer, place, change(getattr(mixer, place)))
    for call in (
        lambda: capture(model, input_ids=IDS),
        lambda: explain(model, None, {"input_ids": IDS}, method="gradient-x-input"),
    ):
        with pytest.raises(
            UnsupportedModelError, match=rf"^backbone\.layers\.1\.mixer\.{place} {says}, so its"
        ) as refusal:
            call()
        assert "load the model without quantization_config" in str(refusal.value)
        assert "\n" not in str(refusal.value)


def test_a_model_that_was_dequantised_is_read():
    """Some ways leave the quantiser on the model; its weights are what counts."""
    model = stock_model("mamba")
    expected = capture(model, input_ids=IDS).logits
    model.hf_quantizer, model.is_quantized = object(), True
    assert_equal_to_rounding(capture(model, input_ids=IDS).logits, expected)
    assert torch.isfinite(capture(model, input_ids=IDS).gradients(readouts.token(-1, 3)).value).all()


class Engine(nn.Module):
    """What DeepSpeed makes of a model, as far as a pass sees it."""

    __module__ = "deepspeed.runtime.engine"

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


@pytest.mark.parametrize(
    "home", ["deepspeed.runtime.engine.DeepSpeedEngine", "deepspeed.inference.engine.InferenceEngine"]
)
def test_an_engine_of_deepspeed_is_taken_off(home):
    place, _, name = home.rpartition(".")
    model = stock_model("mamba")
    wrapped = class_of(place, name, Engine)(model)
    trace = capture(wrapped, input_ids=IDS)
    assert trace.model is model
    assert_equal_to_rounding(trace.logits, capture(model, input_ids=IDS).logits)


def test_weights_that_deepspeed_has_split_are_refused():
    """In stage 3 of ZeRO every weight is empty between two passes, and its part is beside it."""
    model = stock_model("mamba")
    weight = model.backbone.layers[0].mixer.in_proj.weight
    weight.ds_tensor, weight.data = weight.data.flatten(), torch.empty(0)
    with pytest.raises(UnsupportedModelError, match=r"in_proj\.weight .* is split over several processes; save the"):
        capture(class_of("deepspeed.runtime.engine", "DeepSpeedEngine", Engine)(model), input_ids=IDS)


@pytest.fixture
def alone():
    """A group of one process."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("used", [False, True], ids=["new", "after a pass"])
def test_a_fully_sharded_model_is_refused_by_name(alone, used):
    """After a pass of its own the outermost part may hold its weights as a whole."""
    from torch.distributed.fsdp import fully_shard

    model = stock_model("mamba")
    for layer in model.backbone.layers:
        fully_shard(layer, mesh=alone)
    fully_shard(model, mesh=alone)
    if used:
        model(input_ids=IDS, use_cache=False)
    with pytest.raises(
        UnsupportedModelError, match=r"split into shards by fully_shard, so no process has .* one process"
    ):
        capture(model, input_ids=IDS)
