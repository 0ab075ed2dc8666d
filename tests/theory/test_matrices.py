"""How many matrices: what modules and configurations say is what the operators have."""

import pytest
import torch
import transformers
from torch import nn

import mambascope
from hybrids import HYBRIDS, hybrid_model
from mambascope.errors import InputError, UnsupportedModelError
from mambascope.models.vim.configuration import VisionMambaConfig
from mambascope.models.vim.model import VisionMamba
from mambascope.models.vmamba.model import VMamba, VMambaConfig
from mambascope.theory.matrices import KNOWN, MixerMatrices, comparisons, count_matrices
from models import CONFIGS, TRANSFORMERS, stock_model, stock_transformer, transformer_inputs

IDS = {"input_ids": torch.arange(1, 8)[None]}


@pytest.mark.parametrize("family", [*CONFIGS, *TRANSFORMERS, *HYBRIDS])
def test_modules_and_configurations_say_what_the_operators_have(family):
    if family in CONFIGS:
        model, inputs = stock_model(family), IDS
    elif family in TRANSFORMERS:
        model, inputs = stock_transformer(family), transformer_inputs(family, side="none")
    else:
        model, inputs = hybrid_model(family), IDS
    ran = count_matrices(mambascope.capture(model, **inputs))
    assert count_matrices(model) == ran
    if model.config.model_type not in ("qwen3_5", "qwen3_5_moe", "bert", "zamba"):
        assert count_matrices(model.config) == ran


@pytest.mark.parametrize(
    ("make", "config"),
    [
        (VisionMamba, VisionMambaConfig(image_size=8, patch_size=2, hidden_size=12, num_hidden_layers=2, state_size=3)),
        (VMamba, VMambaConfig(image_size=32, depths=(1, 2), hidden_sizes=(8, 12), mlp_ratio=2.0)),
    ],
    ids=["vim", "vmamba"],
)
def test_models_of_the_package(make, config):
    model = make(config).eval()
    side = config.image_size if isinstance(config.image_size, int) else config.image_size[0]
    trace = mambascope.capture(model, pixel_values=torch.randn(1, 3, side, side))
    assert count_matrices(config) == count_matrices(model) == count_matrices(trace)


def test_the_comparison():
    found = {one.name: one for one in comparisons()}
    assert len(found) == len(KNOWN)
    assert found["GPT-2"].mixers == (MixerMatrices("attention", 12, 12),)
    assert found["GPT-2"].times == ()
    assert found["Mamba 130M"].mixers == (MixerMatrices("scan", 24, 1536),)
    assert found["Mamba 130M"].times == (128.0,)  # 2 P for heads of 64
    assert found["Falcon-Mamba 7B"].times == (256.0,)  # of 128
    assert found["Mamba-2 130M"].times == (2.0,)
    assert found["Codestral Mamba 7B"].times == (4.0,)
    assert found["Qwen3-Next 80B"].mixers == (MixerMatrices("delta", 36, 32), MixerMatrices("attention", 12, 16))


def test_mixers_of_a_shift_are_left_out():
    trace = mambascope.capture(hybrid_model("rwkv"), **IDS)
    assert trace.kinds == {"recurrence", "shift"}
    assert [each.kind for each in count_matrices(trace)] == ["recurrence"]


def test_other_things_are_refused():
    with pytest.raises(InputError, match="a trace, a model or a configuration"):
        count_matrices("gpt2")


def test_a_mixer_that_says_nothing_is_refused_by_name():
    model = stock_transformer("gpt2")
    for block in model.transformer.h:
        block.attn.num_heads = None
        block.attn.config = None
        assert isinstance(block.attn, nn.Module)
    with pytest.raises(
        UnsupportedModelError, match=r"h\.0\.attn is a GPT2Attention, which does not say how many heads"
    ):
        count_matrices(model)


def test_widths_are_those_of_the_class_by_default():
    default = transformers.MambaConfig()
    (scans,) = count_matrices(default)
    assert (scans.mixers, scans.matrices) == (default.num_hidden_layers, default.intermediate_size)
