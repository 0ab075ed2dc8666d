"""MambaLRP against one forward pass of our own, and against the stock model's autograd where that finishes.

    python -m benchmarks.lrp [--family mamba] [--length 1024] [--layers 24] [--width 768] [--repeats 3] [--budget 120]

A model of 130M size with random weights. Forward (a capture without self-check) and MambaLRP for one target alternate,
so that a noisy machine affects both alike. Then the stock model's own forward and backward pass of one logit, through
its loop over tokens, at 32, 64, 128, … tokens until one takes longer than the budget in seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

import torch
import transformers

import mambascope
from benchmarks.capture import FAMILIES
from benchmarks.measuring import measured
from mambascope import readouts
from mambascope.methods.mamba_lrp import mamba_lrp


def stock_gradient(model: Any, ids: torch.Tensor) -> None:
    """Run the stock model forward and backward, from the last position's logit to the embeddings."""
    embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()
    logits = model(inputs_embeds=embeddings, use_cache=False).logits
    torch.autograd.grad(logits[0, -1, 7], embeddings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, default="mamba")
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--budget", type=float, default=120.0)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    config = FAMILIES[options.family](options.width, options.layers)
    model = transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    ids = torch.randint(0, config.vocab_size, (1, options.length))
    readout = readouts.token(options.length - 1, 7)

    def forward() -> Any:
        return mambascope.capture(model, input_ids=ids, check=False)

    trace = forward()
    rows = []
    for _ in range(options.repeats):
        _, seconds, _ = measured(forward)
        relevance, lrp_seconds, lrp_peak = measured(lambda: mamba_lrp(trace, readout))
        rows.append(
            {"forward": seconds, "lrp": lrp_seconds, "ratio": lrp_seconds / seconds, "peak_mib": lrp_peak / 2**20}
        )
        print(json.dumps(rows[-1]), flush=True)
    median = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    print(
        f"{options.family} {options.layers}x{options.width}, L={options.length}: forward {median['forward']:.2f} s, "
        f"MambaLRP {median['lrp']:.2f} s (median ratio {median['ratio']:.2f}); conservation error "
        f"{float(relevance.conservation_error[0]):.1e} with biases as they are"
    )
    length = 32
    while length <= options.length:
        _, seconds, peak = measured(lambda length=length: stock_gradient(model, ids[:, :length]))
        print(f"stock autograd, L={length}: {seconds:.1f} s, {peak / 2**20:.0f} MiB", flush=True)
        if seconds > options.budget / 4:  # it grows quadratically: the next would exceed the budget
            break
        length *= 2


if __name__ == "__main__":
    main()
