"""The cost of each map of one layer against its floor, the matrix multiply rate of this machine.

    python -m benchmarks.maps [--length 1024] [--width 768] [--family mamba|mamba2] [--threads N] [--repeats 3]

One layer with random weights. For every map it prints the time, the least operations that the map needs (hidden
attention: L²/2 products of inner size D·N, or N per head; LaTIM: L²/2 products with W_o), what those would take at the
rate of a large float32 matrix product measured in the same run, and the ratio. Memory is the growth of the process.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers

import mambascope
from benchmarks.capture import FAMILIES
from benchmarks.measuring import measured
from mambascope.methods.method import SCAN
from mambascope.methods.registry import METHODS


def multiply_rate() -> float:
    """Return float32 operations per second of a large matrix product."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    out = torch.empty(2048, 2048)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        torch.matmul(a, b, out=out)
        seconds.append(time.perf_counter() - started)
    return 2 * 2048**3 / min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--family", choices=FAMILIES, default="mamba")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    config = FAMILIES[options.family](options.width, 1)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    trace = mambascope.capture(model, input_ids=torch.randint(0, config.vocab_size, (1, options.length)))
    operator = trace.operator(0)
    L, D, E = options.length, operator.inner_width, options.width
    inner = operator.scan.state_size * operator.scan.maps
    pairs = L * (L + 1) / 2
    floors = {"hidden-attention": 2 * pairs * inner, "implicit-attention": 2 * pairs * inner,
              "latim": 2 * pairs * D * E, "latim-l1": 2 * pairs * D * E}  # fmt: skip

    def forward() -> Any:
        return mambascope.capture(model, inputs_embeds=model.get_input_embeddings()(trace.input_ids), check=False)

    def report(name: str, call: Callable[[], Any], operations: float | None) -> None:
        call()
        runs = [measured(call)[1:] for _ in range(options.repeats)]
        seconds, growth = statistics.median(s for s, _ in runs), max(g for _, g in runs)
        rate = multiply_rate()
        floor = "" if operations is None else f"{operations / 1e9:8.1f} GFLOP, floor {operations / rate:6.2f} s, "
        ratio = "" if operations is None else f"{seconds * rate / operations:5.1f}×"
        print(f"{name:28} {seconds:7.3f} s   {floor}{ratio}   growth {growth / 2**20:5.0f} MiB", flush=True)

    print(
        f"{options.family}, one layer, L={L}, D={D}, E={E}: matrix products run at {multiply_rate() / 1e9:.0f} GFLOP/s"
    )
    report("one forward pass (captured)", forward, None)
    for name, method in ((n, m) for n, m in METHODS.items() if m.map and m.reads(SCAN)):
        report(f"{name}, one row", lambda method=method: method.row(trace, 0, L - 1), None)
        report(f"{name}, all rows", lambda method=method: method.map(trace, 0), floors.get(name))


if __name__ == "__main__":
    main()
