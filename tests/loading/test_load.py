"""Loading by name: every layout that is accepted gives the same model, and every bad one exactly its error."""

import json
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.errors import GatedRepoError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    FalconMambaConfig,
    FalconMambaForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MambaModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from mambascope.errors import CheckpointError, InputError, UnsupportedModelError
from mambascope.loading import hub
from mambascope.loading.bundled import bundled_models
from mambascope.loading.load import load
from rounding import assert_equal_to_rounding, assert_same_weights

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
SMALL = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}
KINDS = {
    "mamba": (MambaForCausalLM, MambaConfig(**SMALL)),
    "mamba2": (Mamba2ForCausalLM, Mamba2Config(**SMALL, num_heads=4, head_dim=8, n_groups=2)),
    "falcon_mamba": (FalconMambaForCausalLM, FalconMambaConfig(**SMALL)),
    "mamba-base": (MambaModel, MambaConfig(**SMALL)),
}


def make_model(kind="mamba"):
    model_class, config = KINDS[kind]
    model = model_class(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def output(model):
    return model(IDS, use_cache=False)[0]


def assert_same(loaded, model):
    """Hold a loaded model against the one it came from: its tensors to the bit, what it computes to rounding."""
    assert_same_weights(loaded, model)
    assert_equal_to_rounding(output(loaded), output(model))


def edit_config(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def edit_tensors(folder, edit):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


def to_bin(folder, tensors, name="pytorch_model.bin"):
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / name)


def refused(error, match, *args, **kwargs):
    with pytest.raises(error, match=match) as raised:
        load(*args, **kwargs)
    assert type(raised.value) is error
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_comes_back(kind, tmp_path):
    model = make_model(kind)
    model.save_pretrained(tmp_path)
    loaded, tokenizer = load(tmp_path)
    assert type(loaded) is type(model)
    assert tokenizer is None
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert_same(loaded, model)
    assert loaded.name_or_path == str(tmp_path)


def test_shards(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="5KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert_same(load(tmp_path)[0], model)


def test_pickled_tensors(model, folder):
    to_bin(folder, model.state_dict())
    assert_same(load(str(folder))[0], model)


def test_shards_of_pickled_tensors(model, folder):
    tensors = model.state_dict()
    names = sorted(tensors)
    weight_map = {name: f"pytorch_model-{1 + k % 2}-of-2.bin" for k, name in enumerate(names)}
    for file in set(weight_map.values()):
        torch.save({name: tensors[name] for name in names if weight_map[name] == file}, folder / file)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_same(load(folder)[0], model)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_halves_are_widened(half, tmp_path):
    model = make_model().to(half)
    model.save_pretrained(tmp_path)
    loaded, _ = load(tmp_path)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert_same(loaded, model.float())


def test_asked_for_precision(folder):
    loaded, _ = load(folder, dtype=torch.float64)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float64}


def test_bad_precision(folder):
    refused(InputError, "floating-point", folder, dtype=torch.int8)


def test_bad_device(folder):
    refused(InputError, "device nonsense cannot be used", folder, device="nonsense")


def test_an_old_name_of_the_embedding_is_understood(model, folder):
    edit_tensors(folder, lambda t: t.update({"backbone.embedding.weight": t.pop("backbone.embeddings.weight")}))
    assert_same(load(folder)[0], model)


@pytest.fixture
def talkative():
    """transformers as a user may have set it: with reports and with bars."""
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_info()
    logging.enable_progress_bar()
    yield
    logging.set_verbosity(verbosity)
    if not bar:
        logging.disable_progress_bar()


@pytest.mark.usefixtures("talkative")
def test_nothing_is_printed_and_settings_come_back(folder, capfd):
    before = logging.INFO, True, list(warnings.filters)
    capfd.readouterr()
    load(folder)
    edit_tensors(folder, lambda t: t.pop("backbone.layers.1.mixer.D"))
    refused(CheckpointError, "lacks", folder)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled(), list(warnings.filters)) == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["tiny-mamba", "tiny-mamba2"])
def test_bundled(name):
    if name not in bundled_models():
        pytest.skip("the weights are not made yet")
    loaded, tokenizer = load(name)
    assert tokenizer is not None
    assert loaded.name_or_path == name
    assert torch.isfinite(output(loaded)).all()


# --- what is refused: the folder and its config ---


def test_no_such_name():
    message = refused(CheckpointError, "no folder tiny-mambo and no bundled model", "tiny-mambo")
    assert "organisation/name" in message


def test_no_such_path(tmp_path):
    refused(CheckpointError, "there is no folder", tmp_path / "absent")
    refused(CheckpointError, "there is no folder", str(tmp_path / "absent"))


def test_a_file_instead_of_a_folder(folder):
    refused(CheckpointError, "is a file; pass the folder", folder / "model.safetensors")


def test_no_config(folder):
    (folder / "config.json").unlink()
    refused(CheckpointError, "holds no config.json", folder)


@pytest.mark.parametrize("content", [b'{"model_type": "mamba", "hid', b"", b"\xff\xfe\x00", b"model: mamba"])
def test_config_half_written(folder, content):
    (folder / "config.json").write_bytes(content)
    refused(CheckpointError, "is not valid JSON", folder)


def test_config_not_an_object(folder):
    (folder / "config.json").write_text("[1, 2]")
    refused(CheckpointError, "holds a JSON list", folder)


def test_config_with_a_wrong_type(folder):
    edit_config(folder, hidden_size="wide")
    refused(CheckpointError, "its config.json cannot be used: .*hidden_size", folder)


def test_unsupported_family(folder):
    edit_config(folder, model_type="t5")
    message = refused(UnsupportedModelError, "is a model of type t5", folder)
    assert "falcon_mamba, mamba2, vision-mamba, mambavision, vmamba, gpt2, gpt_neox, bert, vit, llama" in message
    assert "mamba_ssm" in message


def test_config_without_a_type(folder):
    (folder / "config.json").write_text("{}")
    refused(UnsupportedModelError, "type that its config.json does not name", folder)


def test_quantized(folder):
    edit_config(folder, quantization_config={"quant_method": "bitsandbytes"})
    refused(UnsupportedModelError, "quantised", folder)


def test_an_architecture_that_is_no_model_is_not_used(model, folder):
    edit_config(folder, architectures=["pipeline", "BertModel", "MambaConfig", ""])
    assert_same(load(folder)[0], model)


# --- what is refused: the weights ---


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    refused(CheckpointError, "holds no weights; looked for model.safetensors", folder)


@pytest.mark.parametrize("kept", [0, 5, 200, -7])
def test_truncated_safetensors(folder, kept):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    refused(CheckpointError, "model.safetensors is not a complete safetensors file", folder)


@pytest.mark.parametrize("kept", [0, 5, 200, -7])
def test_truncated_pickle(model, folder, kept):
    to_bin(folder, model.state_dict())
    path = folder / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:kept])
    refused(CheckpointError, "pytorch_model.bin is damaged", folder)


def test_lfs_pointer(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    refused(CheckpointError, "git lfs pull", folder)


def test_missing_shard(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="5KB")
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    shard.unlink()
    refused(CheckpointError, f"names {shard.name}, which is missing", tmp_path)


def test_bad_index(model, tmp_path):
    model.save_pretrained(tmp_path / "model", max_shard_size="5KB")
    index = tmp_path / "model" / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "../secret.safetensors"}}')
    (tmp_path / "secret.safetensors").write_bytes(b"")
    refused(CheckpointError, "outside its folder", index.parent)
    index.write_text('{"weight_map": {}}')
    refused(CheckpointError, "no usable weight_map", index.parent)
    index.write_text('{"weight')
    refused(CheckpointError, "is not valid JSON", index.parent)


def test_missing_tensors(folder):
    def drop(tensors):
        for name in [name for name in tensors if name.endswith(("mixer.D", "A_log", "conv1d.bias"))]:
            del tensors[name]

    edit_tensors(folder, drop)
    message = refused(CheckpointError, "lacks 6 tensors that a MambaForCausalLM needs", folder)
    assert message.endswith(
        "backbone.layers.0.mixer.A_log, backbone.layers.0.mixer.D, backbone.layers.0.mixer.conv1d.bias and 3 more"
    )


def test_missing_embedding(folder):
    edit_tensors(folder, lambda t: t.pop("backbone.embeddings.weight"))
    refused(CheckpointError, "lacks .*backbone.embeddings.weight", folder)


def test_wrong_shape(folder):
    edit_tensors(folder, lambda t: t.update({"backbone.layers.1.mixer.D": torch.ones(7)}))
    refused(
        CheckpointError, r"backbone.layers.1.mixer.D has shape \(7,\) but its config.json asks for \(32,\)$", folder
    )


def test_wrong_shapes_of_many(folder):
    edit_config(folder, state_size=5)
    refused(CheckpointError, r"A_log has shape \(32, 4\) .* \(32, 5\) \(and 3 more do not fit\)$", folder)


def test_wrong_shape_of_tied_tensors(folder):
    edit_config(folder, vocab_size=41)
    refused(CheckpointError, r"backbone.embeddings.weight has shape \(40, 16\) .* \(41, 16\)$", folder)
    edit_tensors(folder, lambda t: t.update({"lm_head.weight": t["backbone.embeddings.weight"].clone()}))
    refused(CheckpointError, r"backbone.embeddings.weight has shape \(40, 16\) .* \(41, 16\) \(and 1 more", folder)


def test_left_over_tensors(folder):
    edit_config(folder, num_hidden_layers=1)
    refused(CheckpointError, "holds 10 tensors for which a MambaForCausalLM has no place", folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_no_numbers(folder, value):
    edit_tensors(folder, lambda t: t["backbone.layers.1.mixer.x_proj.weight"][2, 3].fill_(value))
    refused(CheckpointError, "backbone.layers.1.mixer.x_proj.weight holds values that are NaN or infinite", folder)


def test_values_too_large_for_the_precision_asked_for(folder):
    edit_tensors(folder, lambda t: t["backbone.norm_f.weight"][0].fill_(1e6))
    load(folder)
    refused(CheckpointError, r"norm_f.weight .* infinite \(as float16\)", folder, dtype=torch.float16)


def test_integer_weights(folder):
    edit_tensors(folder, lambda t: t.update({"backbone.norm_f.weight": torch.ones(16, dtype=torch.int8)}))
    refused(CheckpointError, "backbone.norm_f.weight holds int8 values", folder)


def test_tied_by_the_config_but_different(folder):
    edit_tensors(folder, lambda t: t.update({"lm_head.weight": t["backbone.embeddings.weight"] + 1}))
    refused(CheckpointError, "ties the output weights", folder)
    edit_config(folder, tie_word_embeddings=False)
    load(folder)


# --- code that comes with a checkpoint ---


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_cannot_run_code(model, folder, tmp_path, zipped):
    mark = tmp_path / "was-here"
    (folder / "model.safetensors").unlink()
    tensors = dict(model.state_dict()) | {"extra": Payload(mark)}
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    refused(CheckpointError, "never unpickles", folder)
    assert not mark.exists()


@pytest.mark.parametrize("content", [[1, 2], {"step": 3}, {"optimizer": {"a": torch.ones(1)}}, {3: torch.ones(1)}])
def test_a_pickle_of_something_else(folder, content):
    to_bin(folder, content)
    refused(CheckpointError, "save the model's state_dict", folder)


REMOTE = """
from transformers import MambaConfig, MambaForCausalLM

class TheirConfig(MambaConfig):
    pass

class TheirModel(MambaForCausalLM):
    config_class = TheirConfig
"""


@pytest.fixture
def remote(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    (folder / "theirs.py").write_text(REMOTE)
    edit_config(folder, auto_map={"AutoConfig": "theirs.TheirConfig", "AutoModelForCausalLM": "theirs.TheirModel"})
    return folder


def test_remote_code_is_refused(remote):
    (remote / "theirs.py").write_text("raise SystemExit('this ran')")
    message = refused(CheckpointError, "brings its own Python code", remote)
    assert message.endswith("pass trust_remote_code=True")


def test_remote_code_runs_when_allowed(model, remote):
    loaded, _ = load(remote, trust_remote_code=True)
    assert type(loaded).__name__ == "TheirModel"
    assert_same(loaded, model)


def test_remote_code_that_fails(remote):
    (remote / "theirs.py").write_text("raise ValueError('two\\nlines')")
    refused(CheckpointError, "its config.json cannot be used: two lines", remote, trust_remote_code=True)


# --- tokenizers ---


def save_tokenizer(folder):
    words = {word: k for k, word in enumerate(["<unk>", "a", "mamba", "looked"])}
    inner = Tokenizer(WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>").save_pretrained(folder)
    return folder


def test_tokenizer_of_the_folder(folder):
    _, tokenizer = load(save_tokenizer(folder))
    assert tokenizer("a mamba looked")["input_ids"] == [1, 2, 3]


def test_tokenizer_of_the_folder_alone_in_one_file(folder):
    save_tokenizer(folder)
    (folder / "tokenizer_config.json").unlink()
    _, tokenizer = load(folder)
    assert tokenizer("a mamba looked")["input_ids"] == [1, 2, 3]


def test_tokenizer_of_another_folder(folder, tmp_path):
    _, tokenizer = load(folder, tokenizer=save_tokenizer(tmp_path / "other"))
    assert tokenizer("a mamba looked")["input_ids"] == [1, 2, 3]


def test_no_tokenizer_in_the_folder_named(folder, tmp_path):
    refused(CheckpointError, "holds no tokenizer", folder, tokenizer=tmp_path)
    refused(CheckpointError, "holds no tokenizer", folder, tokenizer=tmp_path / "absent")


def test_damaged_tokenizer(folder):
    save_tokenizer(folder)
    (folder / "tokenizer.json").write_text('{"version"')
    refused(CheckpointError, "the tokenizer in .* cannot be read", folder)


# --- the hub ---


def test_from_the_hub(model, folder, monkeypatch):
    asked = []

    def download(repository, *, allow_patterns):
        asked.append((repository, allow_patterns))
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", download)
    save_tokenizer(folder)
    loaded, tokenizer = load("org/name")
    assert_same(loaded, model)
    assert loaded.name_or_path == "org/name"
    assert tokenizer is not None
    assert {repository for repository, _ in asked} == {"org/name"}
    assert not any("*.py" in patterns or "pytorch_model*.bin" in patterns for _, patterns in asked)
    to_bin(folder, model.state_dict())
    load("org/name", tokenizer="other/tokenizer")
    assert ("org/name", ["pytorch_model*.bin", "pytorch_model.bin.index.json"]) in asked
    assert "other/tokenizer" in {repository for repository, _ in asked}


def test_weights_of_an_unsupported_model_are_not_fetched(folder, monkeypatch):
    edit_config(folder, model_type="t5")
    monkeypatch.setattr(hub, "snapshot_download", lambda repository, *, allow_patterns: str(folder))
    monkeypatch.setattr(hub, "fetch_weights", lambda repository: pytest.fail("fetched"))
    refused(UnsupportedModelError, "org/name is a model of type t5", "org/name")


REPLY = SimpleNamespace(status_code=404, headers={}, request=None)
HUB_ERRORS = [
    (RepositoryNotFoundError("404\nnot found", response=REPLY), "there is no such repository"),
    (GatedRepoError("403", response=REPLY), "terms must be accepted"),
    (LocalEntryNotFoundError("no\nnetwork"), "the hub cannot be reached from here"),
    (HFValidationError("bad"), "not a possible name"),
    (OSError(28, "No space left on device"), "No space left on device"),
    (RuntimeError("first line\nsecond line"), "first line second line"),
]


@pytest.mark.parametrize(("error", "reason"), HUB_ERRORS, ids=[type(e).__name__ for e, _ in HUB_ERRORS])
def test_the_hub_fails(error, reason, monkeypatch):
    def download(repository, *, allow_patterns):
        raise error

    monkeypatch.setattr(hub, "snapshot_download", download)
    monkeypatch.setattr(hub, "bundled_names", lambda: "tiny-mamba, tiny-mamba2")
    message = refused(CheckpointError, reason, "org/name")
    assert message.startswith("org/name is neither a folder nor a bundled model (tiny-mamba, tiny-mamba2)")
