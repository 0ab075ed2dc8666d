"""`mambascope info` on a checkpoint that brings its own modelling file, of which no family knows anything."""

import json
import sys
from pathlib import Path

import pytest
import torch

import custom_hybrid
from mambascope.cli import main
from mambascope.loading.load import load

#: What a checkpoint's modelling file has besides its layers: a configuration, and the model around them.
REST = """
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

class TheirConfig(PreTrainedConfig):
    model_type = "their_hybrid"

    def __init__(self, layers=(), vocab_size=50, **options):
        self.layers, self.vocab_size = list(layers), vocab_size
        super().__init__(**options)

MIXERS = {
    "state": CustomStateMixer, "twisted": lambda: CustomStateMixer(True), "attention": CustomAttention,
    "fourier": FourierMixer,
}

class TheirModel(PreTrainedModel):
    config_class = TheirConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, SIZES["width"])
        self.layers = nn.ModuleList(CustomBlock(MIXERS[name]()) for name in config.layers)
        self.norm = nn.RMSNorm(SIZES["width"], eps=1e-5)
        self.lm_head = nn.Linear(SIZES["width"], config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.embed

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, input_ids, **_):
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x)
        return CausalLMOutput(logits=self.lm_head(self.norm(x)))
"""


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """Return a function that writes a checkpoint with layers of these kinds, and its modelling file."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(*layers):
        source = Path(custom_hybrid.__file__).read_text() + REST
        (tmp_path / "theirs.py").write_text(source)
        names: dict = {"__name__": "theirs"}
        exec(compile(source, "theirs.py", "exec"), names)
        model = names["TheirModel"](names["TheirConfig"](layers))
        torch.manual_seed(0)
        with torch.no_grad():
            for name, value in model.named_parameters():
                value.normal_(1 if "norm" in name else 0, 0.4)
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
        code = {"AutoConfig": "theirs.TheirConfig", "AutoModelForCausalLM": "theirs.TheirModel"}
        settings = {"model_type": "their_hybrid", "architectures": ["TheirModel"], "layers": layers, "auto_map": code}
        (tmp_path / "config.json").write_text(json.dumps(settings))
        return tmp_path

    return write


@pytest.fixture
def info(monkeypatch, capsys):
    """Run `mambascope info` on a checkpoint; return its exit code, standard output and standard error."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["mambascope", "info", *map(str, arguments), "--trust-remote-code"])
        with pytest.raises(SystemExit) as stopped:
            main()
        return stopped.value.code or 0, *capsys.readouterr()

    return call


def test_layers_that_are_read_by_their_structure_are_told(checkpoint, info):
    folder = checkpoint("state", "attention", "state")
    code, out, err = info(folder, "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert [entry["layers"] for entry in facts["layer_map"]] == [[0, 2], [1]]
    assert [mixer["kind"] for entry in facts["layer_map"] for mixer in entry["mixers"]] == ["scan", "attention"]
    assert all("as " in mixer["found"] for entry in facts["layer_map"] for mixer in entry["mixers"])
    assert facts["not_read"] == []
    assert facts["head_is_tied"] is False
    assert facts["probe_reconstruction_error"] < 1e-5
    printed = info(folder)[1]
    assert "layers 0, 2   scan        CustomStateMixer, 4 heads of 6, 2 groups, state 5," in printed
    assert "read by its structure: it calls mamba2_chunk_scan" in " ".join(printed.split())
    assert all(len(line) <= 80 for line in printed.partition("layers 0")[2].splitlines())


def test_layers_that_cannot_be_read_are_told_with_the_reason(checkpoint, info):
    code, out, err = info(checkpoint("attention", "twisted", "fourier"), "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert [(part["name"], part["mixer_class"]) for part in facts["not_read"]] == [
        ("layers.1.mixer", "CustomStateMixer"),
        ("layers.2.mixer", "FourierMixer"),
    ]
    assert "the output rebuilt so is another" in facts["not_read"][0]["reason"]


def test_a_model_of_which_nothing_can_be_read_is_refused(checkpoint, info):
    code, out, err = info(checkpoint("fourier"))
    assert (code, out) == (2, "")
    assert "holds no token mixer that mambascope can read" in err


def test_such_a_checkpoint_is_loaded_only_with_its_own_code_allowed(checkpoint):
    with pytest.raises(Exception, match="brings its own Python code"):
        load(checkpoint("state"))
