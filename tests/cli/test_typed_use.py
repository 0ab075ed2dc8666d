"""The types that users see: code that uses the library passes `mypy --strict`, and reveals what it should."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"

CODE = """
from pathlib import Path

import torch

import mambascope
from mambascope import Attribution, methods, readouts

model, tokenizer = mambascope.load("tiny-mamba")
one = mambascope.explain(model, tokenizer, "some words", method="latim", verify=2)
several = mambascope.explain(model, tokenizer, "some words", method=["latim", "rollout"])
texts = mambascope.explain(model, tokenizer, ["some words", "other words"])
page = mambascope.explain(model, tokenizer, "some words", views=True)
reveal_type(one)
reveal_type(several)
reveal_type(texts)
reveal_type(page)
reveal_type(one.words())
reveal_type(one.top(3)[0].score)
reveal_type(one.to_html(*page))
reveal_type(Attribution.load(Path("file.safetensors")))

trace = mambascope.capture(model, input_ids=torch.tensor([[1, 2, 3]]))
readout = readouts.token(-1, 5)
reveal_type(trace)
reveal_type(methods.latim(trace, 0))
reveal_type(methods.alti_logit(trace, readout).conservation_error)
reveal_type(methods.knockout(trace, readout, sources=[0]).scores)
reveal_type(methods.logit_lens(trace).error)


def largest(result: Attribution) -> float:
    return float(result.row().abs().max())


largest(one)
"""

REVEALED = [
    "Attribution", "list[Attribution]", "list[Attribution]", "list[Attribution]", "Attribution", "float", "str",
    "Attribution", "Trace", "Tensor", "Tensor", "Tensor", "float",
]  # fmt: skip


@pytest.mark.slow
def test_code_that_uses_the_library_is_typed(tmp_path):
    file = tmp_path / "use.py"
    file.write_text(CODE, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", str(file)]
    environment = os.environ | {"MYPYPATH": str(SOURCE)}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    notes = [
        line.partition("Revealed type is ")[2].strip('"') for line in ran.stdout.splitlines() if "Revealed" in line
    ]
    short = [note.replace("mambascope.attribution.", "").replace("mambascope.trace.trace.", "") for note in notes]
    plain = [one.replace("builtins.", "").replace("torch._tensor.", "").rstrip("?") for one in short]
    assert "error" not in ran.stdout, ran.stdout
    assert plain == REVEALED
