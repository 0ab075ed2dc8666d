"""Run by itself with a method's name and a length: prints what the method adds to the process's peak, in MiB."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch

from mambascope import methods, readouts, write_maps
from mambascope.operators import affine_map
from mambascope.trace import capture
from models import stock_model
from pass_peaks import held

#: A thin model, so that few of a method's bytes are of its width.
THIN = {"vocab_size": 50, "hidden_size": 8, "num_hidden_layers": 2, "state_size": 4}

METHODS = {
    "alti-logit": lambda trace: methods.alti_logit(trace, readouts.token(-1, 7)),
    "latim": methods.latim,
    "write-maps": lambda trace: written(trace),
}


def written(trace):
    """Write all layers' maps to a file; what the file holds is in memory only where it is looked at."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "maps.safetensors"
        given = {"input_ids": trace.input_ids}
        return write_maps(path, trace.model, None, given, method="hidden-attention", progress=False).row(
            -1 + trace.shape[1]
        )


def main(name: str, length: int) -> None:
    model = stock_model("mamba", **THIN)
    affine_map.TILE_ELEMENTS = 1 << 18
    few, many = (capture(model, input_ids=torch.ones(1, size, dtype=torch.long)) for size in (16, length))
    METHODS[name](few)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = held("VmRSS")
    kept = METHODS[name](many)
    print(json.dumps(held("VmHWM") - before))
    del kept


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], int(sys.argv[2]))
