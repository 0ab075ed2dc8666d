"""Run by itself with the name of a pass: prints what it adds to the process's peak, and what it was said to, in MiB."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from hybrids import hybrid_model
from mambascope import capture
from mambascope.families import find_mixers
from mambascope.models.mambavision import MambaVision, MambaVisionConfig
from mambascope.models.vmamba import VMamba, VMambaConfig
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


#: Many thin layers, of which a capture keeps much more than it holds at once.
MANY = {"vocab_size": 500, "hidden_size": 64, "num_hidden_layers": 12}
#: Kinds of layers in turn, three recurrent ones for each attention.
IN_TURN = {"layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 3, "mlp_only_layers": list(range(12))}
NARROW = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
THIN = {"num_heads": 8, "head_dim": 16, "state_size": 64, "n_groups": 1}
VMAMBA = {"depths": (2, 2, 4, 2), "hidden_sizes": (24, 48, 96, 192), "num_labels": 10}
MAMBAVISION = {"depths": (1, 2, 4, 4), "hidden_size": 20, "num_heads": (1, 2, 4, 8), "num_labels": 10}


def text(texts, length):
    return {"input_ids": torch.ones(texts, length, dtype=torch.long)}


def picture(side):
    return {"pixel_values": torch.zeros(1, 3, side, side), "interpolate_pos_encoding": True}


def seen(side):
    return {"pixel_values": torch.zeros(1, 3, side, side)}


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
    "many mamba": (lambda: stock_model("mamba", **MANY), text(1, 8), text(1, 1000)),
    "many mamba2": (lambda: stock_model("mamba2", **MANY, **THIN), text(1, 8), text(1, 1000)),
    "many llama": (lambda: stock_transformer("llama", **MANY, intermediate_size=128), text(1, 8), text(1, 1000)),
    "many qwen3_next": hybrid("qwen3_next", **MANY, **IN_TURN, intermediate_size=128, **NARROW),
    "many jamba": hybrid("jamba", **MANY, intermediate_size=128, attn_layer_period=4, mamba_d_state=16),
    "vmamba": (lambda: VMamba(VMambaConfig(**VMAMBA)).eval(), seen(32), seen(384)),
    "mambavision": (lambda: MambaVision(MambaVisionConfig(**MAMBAVISION)).eval(), seen(32), seen(448)),
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
            return differentiate(model, lambda outputs: outputs.logits.reshape(1, -1)[:, -1], **inputs)
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
