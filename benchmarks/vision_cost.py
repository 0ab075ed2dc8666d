"""Time per picture of each method on a Vision Mamba of the released small size, against one forward pass.

    python -m benchmarks.vision_cost [--size 224] [--width 384] [--layers 24] [--repeats 2] [--methods A,B]

Random weights, class token in the middle, one picture, one class explained. Forward passes (captures without
self-check) and methods take turns, so that a noisy machine affects both alike. The last line is the hidden attention
of one layer, both directions, as a loop over pairs of tokens with a running product of decays (arXiv 2403.01590, eq.
14), beside ours of the same layer; the loop's matrix is compared with ours.
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
from mambascope.operators.selective_scan import SelectiveScan

METHODS = (
    "latim,latim-alti,alti-rollout,alti-logit,hidden-attention,raw-attention,rollout,mamba-attribution,"
    "implicit-attention,mamba-lrp,gradient-x-input,integrated-gradients,smoothgrad"
)


def looped(scan: SelectiveScan) -> torch.Tensor:
    """Return alpha (D, L, L), a pair of tokens at a time."""
    dt, B, C = scan.dt[0], scan.B[0], scan.C[0]
    length, channels = dt.shape
    decays, written = torch.exp(dt[..., None] * scan.A), dt[..., None] * B[:, None]
    alpha = torch.zeros(channels, length, length)
    for target in range(length):
        product = C[target].expand(channels, -1)
        for source in range(target, -1, -1):
            alpha[:, target, source] = (product * written[source]).sum(dim=-1)
            product = product * decays[source]
    return alpha


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what the work returns, and its seconds."""
    started = time.perf_counter()
    return work(), time.perf_counter() - started


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--patch", type=int, default=16)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--methods", default=METHODS)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    config = mambascope.models.vim.VisionMambaConfig(
        image_size=options.size,
        patch_size=options.patch,
        hidden_size=options.width,
        num_hidden_layers=options.layers,
        num_labels=1000,
    )
    model = mambascope.models.vim.VisionMamba(config).eval().requires_grad_(False)
    inputs = {"pixel_values": torch.randn(1, 3, options.size, options.size)}

    def forward() -> Any:
        return mambascope.capture(model, check=False, **inputs)

    def explained(name: str) -> Any:
        return mambascope.explanation.explain(model, None, inputs, method=[name], target=7)

    trace = forward()
    print(f"{config.grid().tokens} tokens, {torch.get_num_threads()} threads")
    print(f"{'method':22} {'seconds':>8} {'forward passes':>15}")
    for name in options.methods.split(","):
        pairs = [(timed(forward)[1], timed(lambda name=name: explained(name))[1]) for _ in range(options.repeats)]
        ratio = statistics.median(method / passed for passed, method in pairs)
        print(f"{name:22} {min(method for _, method in pairs):8.2f} {ratio:15.1f}", flush=True)
    middle = len(trace.layers) // 2
    ours, our_seconds = timed(lambda: mambascope.methods.hidden_attention(trace, middle))
    parts = trace.operator(middle).scan.parts
    loops, loop_seconds = timed(lambda: [looped(one.mixer) for one in parts])
    total = torch.zeros_like(ours)
    for one, alpha in zip(parts, loops, strict=True):
        steps = one.permutation.steps
        total += one.scale * alpha[None][:, :, steps[:, None], steps]
    error = float((total - ours).norm() / ours.norm())
    print(f"hidden attention of layer {middle}, every channel: ours {our_seconds:.2f} s, a loop over pairs ", end="")
    print(f"{loop_seconds:.1f} s, {loop_seconds / our_seconds:.0f} times as long; they differ by {error:.0e}")


if __name__ == "__main__":
    main()
