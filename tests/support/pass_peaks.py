"""Run by itself with the name of a pass: prints what it adds to the process's peak, and what it was said to, in MiB."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from hybrids import hybrid_model
from mambascope import capture
from mambascope.families import find_mixers
from mambascope.trace.differentiate import differentiate
from mambascope.trace.footprint import bytes_of_pass
from models import stock_model, stock_transformer
from picture_checkpoints import vit

GPT2 = {"n_positions": 2048, "n_embd": 64, "n_head": 8, "n_layer": 2}
MAMBA = {"hidden_size": 256, "num_hidden_layers": 4, "vocab_size": 4000}
MAMBA2 = {"hidden_size": 128, "num_heads": 8, "head_dim": 32, "state_size": 64, "n_groups": 1}
#: Hybrids whose scans outweigh the rest: many heads with wide keys in a narrow stream.
SMALL = {"vocab_size": 500, "hidden_size": 64}
DELTA = SMALL | {
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 8,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 32,
}
EXPERTS = DELTA | {"num_experts": 8, "num_experts_per_tok": 4, "moe_intermediate_size": 512, "mlp_only_layers": []}
KIMI = SMALL | {"linear_head_dim": 64, "linear_num_heads": 8}
MINIMAX = SMALL | {"head_dim": 64, "num_attention_heads": 8, "block_size": 256}
XLSTM = SMALL | {"hidden_size": 256, "num_heads": 4, "chunk_size": 64}
RWKV = SMALL | {"hidden_size": 256, "attention_hidden_size": 256}


def text(texts, length):
    return {"input_ids": torch.ones(texts, length, dtype=torch.long)}


def picture(side):
    return {"pixel_values": torch.zeros(1, 3, side, side), "interpolate_pos_encoding": True}


def hybrid(family, **options):
    return (lambda: hybrid_model(family, **options)), text(1, 8), text(1, 1000)


#: The model, inputs so small that they only load what is loaded when it is first needed, and those that are measured.
PASSES = {
    "attention": (lambda: stock_transformer("gpt2", **GPT2), text(1, 8), text(1, 2000)),
    "texts": (lambda: stock_transformer("gpt2", **GPT2), text(3, 8), text(3, 800)),
    "picture": (lambda: vit(patch_size=4), picture(32), picture(144)),
    "mamba": (lambda: stock_model("mamba", **MAMBA), text(1, 8), text(1, 2000)),
    "mamba2": (lambda: stock_model("mamba2", **MAMBA2), text(1, 8), text(1, 1000)),
    "qwen3_next": hybrid("qwen3_next", **DELTA),
    "experts": hybrid("qwen3_next", **EXPERTS),
    "kimi_linear": hybrid("kimi_linear", **KIMI),
    "minimax": hybrid("minimax", **MINIMAX),
    "xlstm": hybrid("xlstm", **XLSTM),
    "rwkv": hybrid("rwkv", **RWKV),
}


def held(kind: str) -> float:
    """Return this process's memory in MiB: now (`VmRSS`) or its peak (`VmHWM`), which no parent adds to."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind)) / 1024


def main(name: str) -> None:
    make, few, many = PASSES[name.removesuffix(" backward")]
    model, backward = make(), name.endswith(" backward")

    def run(inputs):
        if backward:
            return differentiate(model, lambda outputs: outputs.logits[:, -1, 1], **inputs)
        return capture(model, **inputs)

    run(few)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = held("VmRSS")
    kept = run(many)
    said = bytes_of_pass(model, find_mixers(model), many, backward=backward)
    print(json.dumps([held("VmHWM") - before, said / 2**20]))
    del kept


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1])
