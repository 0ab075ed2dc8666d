"""A configuration is a few numbers that anyone can write: nothing of their size is built before a look at the file."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from mambascope.errors import UnsupportedModelError
from mambascope.loading.load import load
from mambascope.models.vim import VisionMamba, VisionMambaConfig
from models import stock_model, stock_transformer
from refusals import refused
from vision_models import vision_mamba

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

BILLION = 10**9
FAMILIES = {
    "mamba": lambda: stock_model("mamba"),
    "mamba2": lambda: stock_model("mamba2"),
    "gpt2": lambda: stock_transformer("gpt2"),
    "bert": lambda: stock_transformer("bert"),
    "llama": lambda: stock_transformer("llama"),
    "vim": lambda: vision_mamba(image_size=16, patch_size=8),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One saved model of each family, and what its config.json holds."""
    made = {}
    for name, make in FAMILIES.items():
        folder = tmp_path_factory.mktemp(name)
        make().save_pretrained(folder)
        made[name] = folder, json.loads((folder / "config.json").read_text())
    return made


SIZES = [
    (family, key)
    for family, keys in {
        "mamba": ("num_hidden_layers", "vocab_size", "hidden_size", "state_size", "expand", "intermediate_size"),
        "mamba2": ("num_hidden_layers", "num_heads", "head_dim", "n_groups"),
        "gpt2": ("n_layer", "n_embd", "vocab_size", "n_positions", "n_inner", "num_labels"),
        "bert": ("num_hidden_layers", "num_labels", "max_position_embeddings", "intermediate_size", "type_vocab_size"),
        "llama": ("num_hidden_layers", "num_attention_heads", "head_dim", "intermediate_size"),
        "vim": ("num_hidden_layers", "hidden_size", "num_labels", "image_size", "conv_kernel", "time_step_rank"),
    }.items()
    for key in keys
]


@pytest.mark.parametrize(("family", "key"), SIZES)
def test_a_size_of_a_billion_is_refused_at_once(folders, family, key):
    folder, config = folders[family]
    (folder / "config.json").write_text(json.dumps(config | {key: BILLION}))
    refused(folder, "config|built|shape")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("value", [-1, 10**20, 10**400, 0.5], ids=["negative", "20 digits", "400 digits", "a half"])
def test_no_size_is_negative_or_larger_than_memory_can_be(folders, family, value):
    folder, config = folders[family]
    key = "expand" if family in ("mamba", "mamba2", "vim") else "intermediate_size" if family != "gpt2" else "n_inner"
    (folder / "config.json").write_text(json.dumps(config | {key: value}))
    refused(folder, "config.json|configuration|valid JSON")


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "bert", "vit", "gpt_neox", "mamba", "mamba2", "falcon_mamba"])
def test_the_sizes_that_a_config_leaves_out_are_compared_too(tmp_path, model_type):
    """transformers takes the sizes of a published model, such as Llama's 7B, for those that are not there."""
    save_file({"model.embed_tokens.weight": torch.ones(8, 4)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    refused(tmp_path, "its configuration (asks for|has)")


@pytest.mark.parametrize("layers", [10**6, 5000])
def test_layers_are_counted_in_the_names_of_the_tensors(folders, layers):
    folder, config = folders["mamba"]
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}))
    refused(folder, "num_hidden_layers|5000 layers, but the tensors of its file are numbered for 2")


def test_mamba_ssm_sizes_are_compared_too(tmp_path):
    save_file({"backbone.embedding.weight": torch.ones(8, 4)}, tmp_path / "model.safetensors")
    for settings in ({"n_layer": BILLION}, {"d_model": BILLION}, {"vocab_size": BILLION}):
        config = {"d_model": 4, "n_layer": 1, "vocab_size": 8} | settings
        (tmp_path / "config.json").write_text(json.dumps(config))
        refused(tmp_path, "config")


def test_the_same_model_still_loads(folders):
    for folder, config in folders.values():
        (folder / "config.json").write_text(json.dumps(config))
        load(folder)


def test_a_vim_is_not_as_deep_as_one_of_its_names_says(tmp_path):
    config = VisionMambaConfig(image_size=224, hidden_size=16, num_hidden_layers=1, num_labels=3)
    tensors = VisionMamba(config).state_dict()
    for number in ("999999999", "7"):
        more = {key.replace("layers.0.", f"layers.{number}."): value.clone() for key, value in tensors.items()}
        torch.save({"model": more | tensors}, tmp_path / "vim.pth")
        refused(tmp_path / "vim.pth", f"no layer 1, but one that is numbered {number}")


def test_weights_of_eight_bits_are_quantised(folders, tmp_path):
    folder, config = folders["mamba"]
    tensors = load_file(folder / "model.safetensors")
    tensors["backbone.layers.0.mixer.in_proj.weight"] = tensors["backbone.layers.0.mixer.in_proj.weight"].to(
        torch.float8_e4m3fn
    )
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    refused(tmp_path, "quantised weights .*float8_e4m3fn", UnsupportedModelError)


def test_a_model_larger_than_free_memory_is_refused(folders, monkeypatch):
    folder, config = folders["mamba"]
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("mambascope.loading.sizes.available_bytes", lambda device: 100)
    refused(folder, r"needs [0-9.]+ MiB of memory in float32, but only [0-9.e-]+ MiB are free")
