"""What a settings file holds is checked as it is read: kinds, names, nesting; choices of code are left out."""

import json

import pytest
import torch
from safetensors.torch import save_file

from mambascope.errors import CheckpointError, UnsupportedModelError
from mambascope.inputs.preparation import preparation
from mambascope.loading.load import load
from models import stock_model, stock_transformer
from refusals import refused
from small_staged_models import small
from vision_models import vision_mamba

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for name, model in {
        "mamba": stock_model("mamba"),
        "bert": stock_transformer("bert"),
        "vim": vision_mamba(image_size=16, patch_size=8),
        "vmamba": small("vmamba", torch.float32),
        "mambavision": small("mambavision", torch.float32),
    }.items():
        folder = tmp_path_factory.mktemp(name)
        model.save_pretrained(folder)
        made[name] = folder, json.loads((folder / "config.json").read_text())
    return made


def write(folders, family, text):
    folder, config = folders[family]
    (folder / "config.json").write_bytes(text if isinstance(text, bytes) else json.dumps(config | text).encode())
    return folder


WRONG_KINDS = [
    ("mamba", {"architectures": 5}, "architectures"),
    ("mamba", {"architectures": [["MambaModel"]]}, r"architectures\.0"),
    ("mamba", {"model_type": ["mamba"]}, "model_type"),
    ("mamba", {"model_type": {"a": 1}}, "model_type"),
    ("mamba", {"hidden_act": "evil"}, "the activation 'evil'"),
    ("mamba", {"hidden_act": 3}, "hidden_act"),
    ("bert", {"id2label": [1, 2]}, "id2label"),
    ("mamba", {"auto_map": "theirs.py"}, "auto_map"),
    ("mamba", {"quantization_config": 4}, "quantization_config"),
    ("mamba", {"to_dict": 5}, "'to_dict' is not the name of a setting"),
    ("mamba", {"__class__": 5}, "'__class__' is not the name of a setting"),
    ("mamba", {"layer_norm_epsilon": float("nan")}, "'layer_norm_epsilon' must be a finite number"),
    ("mamba", {"time_step_max": float("inf")}, "'time_step_max' must be a finite number"),
    ("mamba", {"initializer_range": {"__float__": "NaN"}}, "'initializer_range' must be a finite number"),
    ("mamba", {"ssm_out_multiplier": None}, "ssm_out_multiplier must be a number, found None"),
    ("mamba", {"text_config": {"residual_multiplier": [1.0]}}, "residual_multiplier must be a number"),
    ("mamba", {"full_attn_beta_factor": True}, "full_attn_beta_factor must be a number"),
    ("vim", {"norm_epsilon": "small"}, "norm_epsilon"),
    ("vim", {"patch_size": 0}, "patch_size"),
    ("vim", {"image_size": [16, "16"]}, "image_size"),
    ("vim", {"class_token": "nowhere"}, "class_token is 'nowhere'"),
    ("vim", {"divide_output": "yes"}, "divide_output"),
    ("vmamba", {"depths": "abcd"}, "depths"),
    ("vmamba", {"depths": [1] * 1000}, "depths"),
    ("vmamba", {"norm_epsilon": -1.0}, "norm_epsilon"),
    ("mambavision", {"windows": [1, 2, "3", 4]}, r"windows\.2"),
    ("mambavision", {"num_heads": [0, 0, 0, 0]}, "num_heads"),
]


@pytest.mark.parametrize(("family", "settings", "named"), WRONG_KINDS, ids=[str(case[1])[:40] for case in WRONG_KINDS])
def test_a_setting_of_the_wrong_kind_is_named(folders, family, settings, named):
    refused(write(folders, family, settings), f"config.json cannot be used.*{named}|{named}.*config.json")


TEXTS = {
    "deep": b'{"a": ' * 3000 + b"1" + b"}" * 3000,
    "deeper than a parser": b"[" * 10**6,
    "deeper than settings": b'{"a": ' * 40 + b"1" + b"}" * 40,
    "twice": b'{"model_type": "mamba", "hidden_size": 8, "hidden_size": 9}',
    "mark of the order of bytes": b'\xef\xbb\xbf{"model_type": "mamba"}',
    "not UTF-8": b'{"model_type": "\xff\xfe"}',
    "two bytes a letter": '{"model_type": "mamba"}'.encode("utf-16"),
    "zeros": b"\0" * 100,
    "one byte": b"{",
    "nothing": b"",
    "digits": b'{"hidden_size": ' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_that_no_settings_file_has(folders, text):
    refused(
        write(folders, "mamba", TEXTS[text]),
        "config.json cannot be used: it (is not valid|has more than 32)",
    )


def test_names_with_control_letters_do_not_reach_the_terminal(folders):
    for settings in ({"model_type": "\x1b[31m\n\0"}, {"architectures": ["\x1b]0;title\x07\n"]}):
        refused(write(folders, "bert", settings), "is a ", UnsupportedModelError)


def test_choices_of_code_are_left_out(folders, monkeypatch):
    """transformers would fetch a kernel from a hub for a name with a slash."""
    monkeypatch.setattr(
        "transformers.integrations.hub_kernels.load_and_register_attn_kernel",
        lambda *args, **kwargs: pytest.fail("a kernel was asked for"),
    )
    implementations = ("_attn_implementation", "attn_implementation", "_attn_implementation_internal")
    kernels = ("experts_implementation", "chunkwise_kernel", "sequence_kernel", "step_kernel")
    chosen = dict.fromkeys((*implementations, *kernels), "name/repository")
    model, _ = load(write(folders, "bert", chosen | {"torch_dtype": "load", "dtype": 3, "attribute_map": 5}))
    assert model.dtype == torch.float32
    assert "name/repository" not in json.dumps(model.config.to_dict())


@pytest.mark.parametrize("infinity", [float("inf"), {"__float__": "Infinity"}])
def test_an_open_range_of_steps_is_no_mistake(tmp_path, infinity):
    stock_model("mamba2").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"time_step_limit": [0.0, infinity]}))
    assert load(tmp_path)[0].config.time_step_limit[1] == float("inf")


@pytest.mark.parametrize(
    "content",
    [
        {"weight_map": {"a": 5}},
        {"weight_map": [1]},
        {"weight_map": {"a": "x\0y"}},
        {"weight_map": {"a": "b" * 300}},
        {"weight_map": {"a": "/dev/zero"}},
    ],
)
def test_an_index_of_shards(tmp_path, content):
    stock_model("mamba").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(content))
    refused(tmp_path, "no usable weight_map|which is missing|outside its folder")


@pytest.mark.parametrize(
    "settings",
    [
        {"size": "large"},
        {"size": {"height": -1, "width": 16}},
        {"size": 10**12},
        {"image_mean": "grey"},
        {"image_std": [float("nan")] * 3},
        {"do_resize": "perhaps"},
        {"resample": [3]},
        {"rescale_factor": "half"},
    ],
)
def test_settings_of_pictures(tmp_path, settings):
    model = vision_mamba(image_size=16, patch_size=8, num_channels=3)
    model.save_pretrained(tmp_path)
    usual = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(usual | settings))
    model.name_or_path = str(tmp_path)
    with pytest.raises(CheckpointError, match=r"preprocessor_config.json cannot be used"):
        preparation(model)


def test_mamba_ssm_settings(tmp_path):
    save_file({"backbone.embedding.weight": torch.ones(8, 4)}, tmp_path / "model.safetensors")
    for settings in ({"ssm_cfg": 3}, {"ssm_cfg": {"d_state": -1}}, {"ssm_cfg": {"expand": 1e20}}, {"n_layer": "two"}):
        (tmp_path / "config.json").write_text(json.dumps({"d_model": 4, "n_layer": 1, "vocab_size": 8} | settings))
        refused(tmp_path, "config|built")
