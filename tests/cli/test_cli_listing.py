"""What only lists answers at once: neither torch nor transformers is imported for it."""

import json
import struct
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import mambascope
from mambascope.cli import main
from mambascope.cli.app import app
from mambascope.cli.listing_models import parameters
from mambascope.errors import CheckpointError
from mambascope.loading.bundled import bundled_models

VERBS = [command.callback.__name__ for command in app.registered_commands]
LISTS = [["models"], ["methods"], ["methods", "--markdown"], ["--version"], ["--help"], *([v, "--help"] for v in VERBS)]

#: Runs commands one after another; prints, for each, its exit code and which of the heavy libraries are there after it.
SCRIPT = """
import contextlib, io, json, sys
from mambascope.cli import main
found = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["mambascope", *arguments]
    code = 0
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            main()
        except SystemExit as stopped:
            code = stopped.code or 0
    heavy = sorted({"torch", "transformers", "numpy", "matplotlib"} & sys.modules.keys())
    found.append([arguments, code, bool(out.getvalue().strip()), heavy])
print(json.dumps(found))
"""


def test_nothing_that_only_lists_imports_torch():
    assert {"explain", "models", "methods", "evaluate"} <= set(VERBS)
    done = subprocess.run([sys.executable, "-c", SCRIPT, json.dumps(LISTS)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[arguments, 0, True, []] for arguments in LISTS]


def test_the_version_is_printed(monkeypatch, capsys):
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    monkeypatch.setattr(sys, "argv", ["mambascope", "--version"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    assert capsys.readouterr().out == f"mambascope {mambascope.__version__}\n" == f"mambascope {project['version']}\n"


def test_parameters_are_counted_from_the_header(tmp_path):
    tensors = {"a": torch.zeros(3, 5), "b": torch.zeros(7, dtype=torch.float16), "c": torch.tensor(1.0)}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert parameters(tmp_path / "model.safetensors") == 3 * 5 + 7 + 1


def test_the_bundled_models_have_the_parameters_that_torch_counts():
    model, _ = mambascope.load("tiny-mamba2")
    own = {id(parameter): parameter.numel() for parameter in model.parameters()}  # tied weights are stored once
    assert parameters(bundled_models()["tiny-mamba2"] / "model.safetensors") == sum(own.values())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"version https://git-lfs.github.com/spec/v1\n",
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 4) + b"[1] ",
        struct.pack("<Q", 10) + b'{"a": [1]}',
    ],
    ids=["empty", "pointer", "endless", "list", "strange"],
)
def test_a_file_that_is_damaged_is_refused(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a complete safetensors file; copy"):
        parameters(tmp_path / "model.safetensors")
