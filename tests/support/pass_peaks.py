"""Run by itself with the name of a pass: prints what it adds to the process's peak, and what it was said to, in MiB."""

from __future__ import annotations

import json
import resource
import sys

import torch

from mambascope import capture
from mambascope.families import find_mixers
from mambascope.trace.differentiate import differentiate
from mambascope.trace.footprint import bytes_of_pass
from models import stock_model, stock_transformer
from picture_checkpoints import vit

GPT2 = {"n_positions": 2048, "n_embd": 64, "n_head": 8, "n_layer": 2}
MAMBA = {"hidden_size": 256, "num_hidden_layers": 4, "vocab_size": 4000}


def text(texts, length):
    return {"input_ids": torch.ones(texts, length, dtype=torch.long)}


def picture(side):
    return {"pixel_values": torch.zeros(1, 3, side, side), "interpolate_pos_encoding": True}


#: The model, inputs so small that they only load what is loaded when it is first needed, and those that are measured.
PASSES = {
    "attention": (lambda: stock_transformer("gpt2", **GPT2), text(1, 8), text(1, 2000)),
    "texts": (lambda: stock_transformer("gpt2", **GPT2), text(3, 8), text(3, 800)),
    "picture": (lambda: vit(patch_size=4), picture(32), picture(144)),
    "scan": (lambda: stock_model("mamba", **MAMBA), text(1, 8), text(1, 2000)),
    "backward": (lambda: stock_model("mamba", **MAMBA), text(1, 8), text(1, 2000)),
}


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(name: str) -> None:
    make, few, many = PASSES[name]
    model, backward = make(), name == "backward"

    def run(inputs):
        if backward:
            return differentiate(model, lambda outputs: outputs.logits[:, -1, 1], **inputs)
        return capture(model, **inputs)

    run(few)
    before = peak()
    kept = run(many)
    said = bytes_of_pass(model, find_mixers(model), many, backward=backward)
    print(json.dumps([peak() - before, said / 2**20]))
    del kept


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1])
