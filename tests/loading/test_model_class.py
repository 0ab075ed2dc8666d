"""Which class a config.json means: code that transformers has under the same names is not run, whatever is allowed."""

import json
import warnings

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from mambascope.errors import CheckpointError, UnsupportedModelError
from mambascope.loading.load import load
from published import PUBLISHED, published
from rounding import assert_same_weights

NAME = "nvidia/NVIDIA-Nemotron-Nano-9B-v2"
CODE = PUBLISHED[NAME]["auto_map"]
THEIRS = "modeling_nemotron_h.NemotronHForCausalLM"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nemotron")
    model = published(NAME, folder)
    for file in ("configuration_nemotron_h.py", "modeling_nemotron_h.py"):
        (folder / file).write_text("raise SystemExit('this ran')")
    return folder, model, json.loads((folder / "config.json").read_text())


@pytest.fixture
def edited(saved):
    """Change the settings of the checkpoint, and return its folder."""
    folder, _, settings = saved

    def change(**changes):
        (folder / "config.json").write_text(json.dumps(settings | changes))
        return folder

    yield change
    change()


@pytest.mark.parametrize("allowed", [False, True])
def test_code_that_transformers_has_is_not_run(saved, edited, allowed):
    with pytest.warns(UserWarning, match="was not run") as told:
        loaded, tokenizer = load(edited(), trust_remote_code=allowed)
    assert [str(one.message) for one in told] == [
        f"{saved[0]} brings its own Python code, which was not run: transformers' own NemotronHForCausalLM was loaded"
    ]
    assert type(loaded).__module__.startswith("transformers.")
    assert tokenizer is None
    assert_same_weights(loaded, saved[1])


def test_a_tokenizer_beside_that_code_is_read(edited):
    folder = edited()
    inner = Tokenizer(WordLevel({"<unk>": 0, "mamba": 1, "looked": 2}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>").save_pretrained(folder)
    with pytest.warns(UserWarning, match="was not run"):
        _, tokenizer = load(folder)
    assert tokenizer.get_vocab()["looked"] == 2
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink()


@pytest.mark.parametrize(
    "changes",
    [
        {"auto_map": CODE | {"AutoConfig": "configuration_nemotron_h.TheirConfig"}},
        {"auto_map": CODE | {"AutoModelForCausalLM": "modeling_nemotron_h.TheirModel"}},
        {"auto_map": {"AutoModelForCausalLM": THEIRS}},
        {"auto_map": CODE | {"AutoModelForCausalLM": [THEIRS]}},
        {"architectures": ["TheirModel"]},
        {"architectures": None},
        {"architectures": ["TheirModel"], "auto_map": CODE | {"AutoModelForCausalLM": "modeling.TheirModel"}},
        {"model_type": "their_hybrid"},
    ],
)
def test_other_code_is_needed(edited, changes):
    with pytest.raises(CheckpointError, match=r"brings its own Python code .*pass trust_remote_code=True"):
        load(edited(**changes))


def test_a_type_that_is_not_read_is_no_reason_to_leave_code_out(edited):
    code = {"AutoConfig": "configuration.MambaConfig", "AutoModel": "modeling.OPTForCausalLM"}
    with pytest.raises((CheckpointError, UnsupportedModelError), match="brings its own Python code"):
        load(edited(model_type="opt", architectures=["OPTForCausalLM"], auto_map=code))


def test_without_code_nothing_is_told(edited):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(edited(auto_map=None))
