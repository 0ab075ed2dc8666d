"""One reader finds a model's tensors wherever training code left them, and runs nothing of what lies beside them."""

import argparse
import json
import pathlib
from collections import OrderedDict, defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mambascope.loading.load import load
from mambascope.models.vim import VisionMamba, VisionMambaConfig
from models import stock_model, stock_transformer
from refusals import refused
from rounding import assert_same_weights
from small_staged_models import small
from vision_models import vision_mamba

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product


class CfgNode(dict):
    """Like a yacs configuration: a dict with attributes of its own, of a class that a reader lacks."""

    def __init__(self, values=()):
        super().__init__(values)
        self.__dict__["__immutable__"] = True


ARGUMENTS = {"model": "vim_patch16_224_bimambav2_midclstok_div2", "input_size": 32}


@pytest.fixture(scope="module")
def vim():
    return vision_mamba(image_size=32, patch_size=8, num_channels=3)


@pytest.fixture(scope="module")
def tensors(vim):
    return dict(vim.state_dict())


def other(tensors):
    return {key: value + 1 for key, value in tensors.items()}


def wrapped(tensors, prefix):
    return {prefix + key: value for key, value in tensors.items()}


CONTAINERS = {
    "alone": lambda t: t,
    "an ordered dict": OrderedDict,
    "state_dict": lambda t: {"state_dict": t, "epoch": 3},
    "model": lambda t: {"model": t, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}},
    "deep": lambda t: {"checkpoint": {"weights": {"net": t}}, "best": 0.5},
    "module": lambda t: wrapped(t, "module."),
    "compiled and parallel": lambda t: {"model": wrapped(t, "module._orig_mod.")},
    "the other way round": lambda t: {"model": wrapped(t, "_orig_mod.module.")},
    "lightning": lambda t: {
        "state_dict": wrapped(t, "model.") | {"criterion.weight": torch.ones(3)},
        "pytorch-lightning_version": "2.5",
        "callbacks": {"Early{'x': 1}": {"best": torch.ones(1)}},
        "hyper_parameters": SimpleNamespace(lr=1e-3),
    },
    "average preferred": lambda t: {"model": other(t), "model_ema": t},
    "average preferred, nested": lambda t: {"ema": {"state_dict": wrapped(t, "module.")}, "state_dict": other(t)},
    "average in one dict": lambda t: {"state_dict": wrapped(other(t), "model.") | wrapped(t, "ema_model.module.")},
    "teacher": lambda t: {"student": wrapped(other(t), "module."), "teacher": wrapped(t, "backbone.")},
    "yacs": lambda t: {"model": t, "config": CfgNode({"MODEL": CfgNode({"DEPTH": 2})}), "max_accuracy": 82.6},
    "numpy": lambda t: {"model": t, "best": np.float64(0.5), "scores": np.arange(3)},
    "paths and sets": lambda t: {
        "model": t,
        "where": pathlib.PurePosixPath("/x"),
        "seen": {1, 2},
        "f": defaultdict(list),
    },
    "a class": lambda t: {"model": t, "kind": nn.Linear, "sizes": torch.Size([1, 2]), "dtype": torch.float16},
    "parameters": lambda t: {"model": {key: nn.Parameter(value) for key, value in t.items()}},
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("suffix", [".pth", ".ckpt"])
@pytest.mark.filterwarnings("ignore:.*does not say everything")
def test_a_vim_is_found_in_every_container(vim, tensors, tmp_path, container, suffix):
    path = tmp_path / f"file{suffix}"
    held = CONTAINERS[container](tensors)
    torch.save(held, path, _use_new_zipfile_serialization=suffix == ".pth")
    loaded, _ = load(path, image_size=32)
    assert_same_weights(loaded, vim)


@pytest.mark.parametrize("kind", ["vmamba", "mambavision"])
@pytest.mark.parametrize("container", ["compiled and parallel", "lightning", "average preferred", "yacs"])
@pytest.mark.filterwarnings("ignore:.*does not say everything")
def test_so_are_the_other_released_models(tmp_path, kind, container):
    model = small(kind, torch.float32)
    torch.save(CONTAINERS[container](dict(model.state_dict())), tmp_path / "file.pt")
    assert_same_weights(load(tmp_path / "file.pt")[0], model)


def test_the_choice_of_an_average_is_told(tensors, tmp_path):
    torch.save({"model": other(tensors), "model_ema": tensors, "args": ARGUMENTS}, tmp_path / "vim.pth")
    with pytest.warns(UserWarning, match="the moving average of its weights"):
        load(tmp_path / "vim.pth")


@pytest.mark.parametrize("kind", [dict, CfgNode, lambda values: argparse.Namespace(**values)])
def test_the_arguments_are_read_from_whatever_holds_them(vim, tensors, tmp_path, kind):
    torch.save({"model": tensors, "args": kind(ARGUMENTS)}, tmp_path / "vim.pth")
    loaded, _ = load(tmp_path / "vim.pth")
    assert (loaded.config.image_size, loaded.config.stride) == ([32, 32], 8)


FOLDERS = {
    "pytorch_model.bin": lambda t: t,
    "pytorch_model.pt": lambda t: wrapped(t, "module."),
    "pytorch_model.ckpt": lambda t: {"state_dict": wrapped(t, "model.")},
    "checkpoint.pth": lambda t: {"model": wrapped(t, "_orig_mod."), "config": CfgNode({"a": 1})},
    "epoch=3.ckpt": lambda t: {"state_dict": wrapped(t, "model._orig_mod."), "loops": {"a": torch.ones(1)}},
}


@pytest.mark.parametrize("family", ["mamba", "llama", "gpt2", "vim"])
@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_has_its_weights_under_many_names(tmp_path, family, name):
    if family == "vim":
        model = vision_mamba(image_size=16, patch_size=8)
    else:
        model = stock_model(family) if family == "mamba" else stock_transformer(family)
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(FOLDERS[name](dict(model.state_dict())), tmp_path / name)
    torch.save({"state": torch.ones(3)}, tmp_path / "optimizer.pt")
    assert_same_weights(load(tmp_path)[0], model)


def test_two_files_of_weights_are_not_chosen_from(tmp_path):
    stock_model("mamba").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "a.safetensors")
    (tmp_path / "b.ckpt").write_bytes(b"")
    refused(tmp_path, "holds no weights; looked for .* and found 2")


def test_mamba_ssm_folders_use_the_same_reader(tmp_path):
    stock_model("mamba", use_bias=False).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    model = stock_model("mamba", use_bias=False, vocab_size=56, time_step_rank=1)
    tensors = {f"module.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": tensors, "args": CfgNode({"a": 1})}, tmp_path / "checkpoint.pt")
    settings = {"d_model": 12, "n_layer": 2, "vocab_size": 50, "ssm_cfg": {"d_state": 3}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert_same_weights(load(tmp_path)[0], model)


def test_an_adapter_is_named_with_the_remedy(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "state-spaces/mamba-130m-hf"}')
    save_file({"base_model.model.x.lora_A.weight": torch.ones(2, 2)}, tmp_path / "adapter_model.safetensors")
    refused(tmp_path, "holds a peft adapter of 'state-spaces/mamba-130m-hf' .*merge_and_unload")
    stock_model("mamba").config.save_pretrained(tmp_path)
    refused(tmp_path, "holds a peft adapter")


MARKS = {
    "Vim": ("head.weight", lambda: VisionMamba(VisionMambaConfig(image_size=32, hidden_size=16, num_hidden_layers=1))),
    "VMamba": ("classifier.head.weight", lambda: small("vmamba", torch.float32)),
    "MambaVision": ("head.weight", lambda: small("mambavision", torch.float32)),
}


@pytest.mark.parametrize("title", MARKS)
def test_what_is_missing_is_said_in_the_words_of_the_format(tmp_path, title):
    mark, make = MARKS[title]
    tensors = dict(make().state_dict())
    del tensors[mark]
    torch.save({"model": tensors}, tmp_path / "file.pth")
    refused(tmp_path / "file.pth", f"looks like a {title}, but lacks {mark}")


def test_values_stay_as_they_were_when_the_file_changes(tmp_path):
    model = stock_model("mamba")
    model.save_pretrained(tmp_path)
    tensors = dict(model.state_dict())
    (tmp_path / "model.safetensors").unlink()
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    loaded, _ = load(tmp_path)
    with (tmp_path / "pytorch_model.bin").open("r+b") as file:
        file.write(b"\xff" * (tmp_path / "pytorch_model.bin").stat().st_size)
    assert_same_weights(loaded, model)
