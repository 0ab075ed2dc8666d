"""Run by itself with the name of a method: prints what it adds to the process's peak, in bytes per token."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from mambascope import capture, readouts
from mambascope.methods.latim import latim_row
from mambascope.methods.mamba_lrp import mamba_lrp
from mambascope.methods.rollout import rollout_row
from models import stock_model
from pass_peaks import held

#: Layers, and a vocabulary that would take twice as much as everything else.
MODEL = {"hidden_size": 128, "num_hidden_layers": 6, "vocab_size": 8000, "state_size": 8}
LENGTH = 6000

METHODS = {
    "capture": lambda trace: trace,
    "rollout": lambda trace: rollout_row(trace, -1),
    "latim": lambda trace: latim_row(trace, 0, -1),
    "mamba-lrp": lambda trace: mamba_lrp(trace, readouts.token(-1, 7)),
}


def main(name: str) -> None:
    model = stock_model("mamba", **MODEL)

    def run(length: int) -> object:
        return METHODS[name](capture(model, input_ids=torch.ones(1, length, dtype=torch.long), keep="inputs"))

    run(64)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = held("VmRSS")
    run(LENGTH)
    print(int((held("VmHWM") - before) * 2**20 / LENGTH))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1])
