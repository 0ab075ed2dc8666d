"""Capture against the stock forward pass: a Mamba of 130M size with random weights, on this machine.

    python -m benchmarks.capture [--length 1024] [--layers 24] [--width 768] [--family mamba] [--repeats 3]

Prints one line per measurement and the ratio of medians from this one run; stock and capture alternate, so that a noisy
machine affects both alike. `kept` is what the trace holds beyond the model and its outputs; `peak` is what the process
needed above its size before the call.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

import torch
import transformers

import mambascope
from benchmarks.measuring import measured

FAMILIES = {
    "mamba": lambda width, layers: transformers.MambaConfig(hidden_size=width, num_hidden_layers=layers),
    "mamba2": lambda width, layers: transformers.Mamba2Config(
        hidden_size=width,
        num_hidden_layers=layers,
        head_dim=64,
        num_heads=width * 2 // 64,
        n_groups=1,
        vocab_size=50288,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--family", choices=FAMILIES, default="mamba")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    config = FAMILIES[options.family](options.width, options.layers)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    ids = torch.randint(0, config.vocab_size, (1, options.length))

    def stock() -> Any:
        with torch.no_grad():
            return model(input_ids=ids, use_cache=False)

    measured(stock)
    mambascope.capture(model, input_ids=ids)
    rows: list[dict[str, float]] = []
    for _ in range(options.repeats):
        _, stock_seconds, stock_peak = measured(stock)
        trace, seconds, peak = measured(lambda: mambascope.capture(model, input_ids=ids))
        _, unchecked, _ = measured(lambda: mambascope.capture(model, input_ids=ids, check=False))
        tensors = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for r in trace.layers
                   for t in (r.captured.x, r.captured.y, *r.captured.scan.values())}  # fmt: skip
        rows.append({"stock": stock_seconds, "capture": seconds, "unchecked": unchecked, "kept": sum(tensors.values()),
                     "peak": peak, "stock_peak": stock_peak, "error": max(trace.reconstruction_error)})  # fmt: skip
        print(json.dumps(rows[-1]))
    median = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    print(
        f"{options.family} {options.layers}x{options.width}, L={options.length}: stock {median['stock']:.2f} s, "
        f"capture {median['capture']:.2f} s (ratio {median['capture'] / median['stock']:.2f}), without self-check "
        f"{median['unchecked']:.2f} s; the trace keeps {median['kept'] / 2**20:.0f} MiB; peak growth "
        f"{median['peak'] / 2**20:.0f} MiB (stock {median['stock_peak'] / 2**20:.0f} MiB); "
        f"worst reconstruction error {median['error']:.1e}"
    )


if __name__ == "__main__":
    main()
