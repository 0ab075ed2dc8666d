"""The package on a GPU: is everything as exact there, and what does it cost?

    python -m benchmarks.on_device --device cuda --out docs/gpu.md [--parts exact,answers,pictures,cost]

* exact: the table of families (`benchmarks.families`) on the device. "logits" is the difference between the logits of
  the capture and those of the stock model in its own pass there, which may run compiled kernels.
* answers: every method on the bundled models, on the device in float32 against the CPU in float64: the largest
  difference of scores, in shares of the largest score.
* pictures: the same with small random picture models.
* cost: time and memory on the device, of random models of the size of Mamba 130M, beside the stock forward pass and
  the floor of a map: its operations at the rate of a large matrix product, measured in the same run.

A cell that is over its bound, or in which anything is raised, is named at the end, and the command exits with 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import mambascope
from benchmarks import families
from benchmarks.families import BOUNDS, COLUMNS, FAMILIES, LOOSER, made, relative
from mambascope import methods, readouts
from mambascope.errors import MambascopeError, UnsupportedModelError
from mambascope.methods.registry import METHODS
from picture_mixer_models import grid_model, line_model
from vision_models import pictures, vision_mamba

TEXT = "Mr. Bolton was a rich man, and Mrs. Bolton was proud of it. Every day Mr. B"
#: Scores in float32 against float64, in shares of the largest: sums of some thousand terms through all layers.
SCORES = 1e-3
#: Logits of a capture against those of the stock pass, which may run kernels that round products to 11 bits.
LOGITS = {torch.float64: 1e-10, torch.float32: 5e-3, torch.bfloat16: 5e-2}
SEED = 5
SIZE = {"hidden_size": 768, "vocab_size": 50288}
LENGTHS = (512, 2048, 8192)
#: Maps of all pairs are measured up to this many tokens.
LONGEST_MAP = 2048


class Found:
    """What is wrong, to be named at the end."""

    def __init__(self) -> None:
        self.faults: list[str] = []

    def judged(self, where: str, bound: float | Callable[[], float], run: Callable[[], float]) -> Any:
        """Return what a measurement gives: a number, None if it is refused by name, or "failed"."""
        try:
            value = run()
        except UnsupportedModelError:
            return None
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            self.faults.append(f"{where}: {type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})")
            return "failed"
        most = bound() if callable(bound) else bound
        if not value <= most:
            self.faults.append(f"{where}: {value:.1e}, over {most:.0e}")
        return value


def logits(family: str, dtype: torch.dtype, device: str) -> tuple[float, float]:
    """Return how far the logits of a capture are from those of the stock model's own pass, and the bound on it.

    In bfloat16 some of these models magnify rounding until little is left of their logits, so the bound is three times
    what rounding the weights moves, where that is more.
    """
    with made(family, dtype) as model:
        ids = families.padded_batch(families.LENGTH, families.TEXTS, "left")[0].to(device)
        cache = {} if family == "bert" else {"use_cache": False}
        with torch.no_grad():
            own = model.to(device)(input_ids=ids, **cache).logits
        difference, bound = relative(mambascope.capture(model, input_ids=ids).logits, own), LOGITS[dtype]
        if dtype == torch.bfloat16:
            with torch.no_grad():
                bound = max(bound, 3 * relative(own, model.float()(input_ids=ids, **cache).logits))
        return difference, bound


def logits_judged(family: str, dtype: torch.dtype, device: str, found: Found) -> Any:
    """Return the difference of the logits, judged by its bound."""
    bound = LOGITS[dtype]

    def run() -> float:
        nonlocal bound
        difference, bound = logits(family, dtype, device)
        return difference

    return found.judged(f"{family}, {dtype}, logits", lambda: bound, run)


def exact(device: str, found: Found, names: Iterable[str]) -> str:
    """Return the tables of errors of every family on the device."""
    page = []
    for dtype in (torch.float64, torch.float32):
        lines = [f"| {dtype} | " + " | ".join((*COLUMNS, "logits")) + " |", "| --- |" + " ---: |" * (len(COLUMNS) + 1)]
        for family in names:
            where, bound = f"{family}, {dtype}", BOUNDS[dtype]
            try:
                row = families.measure(
                    family,
                    dtype,
                    device,
                    lambda run, bound=bound, where=where: found.judged(where, bound * max(LOOSER.values()), run),
                )
            except (Exception, pytest.skip.Exception) as error:  # a helper skips what a version cannot run
                found.faults.append(f"{where}: {type(error).__name__}: {error}")
                continue
            row["logits"] = logits_judged(family, dtype, device, found)
            lines.append(f"| {family} | " + " | ".join(map(cell, row.values())) + " |")
            print(lines[-1], flush=True)
        page.append("\n".join(lines))
    lines = ["| torch.bfloat16 | output | logits |", "| --- | ---: | ---: |"]
    for family in names:
        if family in families.NOT_HALF:
            continue
        where, bound = f"{family}, bfloat16", BOUNDS[torch.bfloat16]
        row = [
            found.judged(where, bound, lambda f=family: families.in_bfloat16(f, device)),
            logits_judged(family, torch.bfloat16, device, found),
        ]
        lines.append(f"| {family} | " + " | ".join(map(cell, row)) + " |")
        print(lines[-1], flush=True)
    return "\n\n".join([*page, "\n".join(lines)])


def cell(value: Any) -> str:
    if value is None:
        return "—"
    return value if isinstance(value, str) else f"{value:.0e}" if value else "0"


def scores_apart(method: str, ours: tuple[Any, ...], theirs: tuple[Any, ...], **options: Any) -> float:
    """Return the largest difference of two results' scores, in shares of the largest score."""
    a, b = (torch.as_tensor(mambascope.explain(*one, method=method, **options).scores).double().cpu()
            for one in (ours, theirs))  # fmt: skip
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-300))


def answers(device: str, found: Found) -> str:
    """Return a table of how far each method's scores on the device are from those on the CPU in float64."""
    names = [name for name in mambascope.bundled_models() if not name.startswith("zoo:")]
    lines = ["| | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(names)]
    loaded = {name: (mambascope.load(name), mambascope.load(name)) for name in names}
    for (there, _), (here, _) in loaded.values():
        there.to(device)
        here.double()
    for method in METHODS:
        row = []
        for name, (there, here) in loaded.items():

            def apart(there: Any = there, here: Any = here, method: str = method) -> float:
                return scores_apart(method, (*there, TEXT), (*here, TEXT))

            row.append(found.judged(f"{method}, {name}", SCORES, apart) if method != "random" else 0.0)
        lines.append(f"| {method} | " + " | ".join(map(cell, row)) + " |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def seen(device: str, found: Found) -> str:
    """Return a table of the differences for picture models."""
    drawn = torch.Generator().manual_seed(SEED)
    cases: dict[str, tuple[Callable[[], Any], Callable[[Any], dict[str, Tensor]]]] = {
        "Vim": (lambda: vision_mamba(torch.float64), lambda model: {"pixel_values": pictures(model)}),
        "mixers of MambaVision": (
            line_model,
            lambda model: {"tokens": torch.randn(1, 9, 6, dtype=torch.float64, generator=drawn)},
        ),
        "mixers of VMamba": (
            grid_model,
            lambda model: {
                "tokens": torch.randn(
                    1, model.grid[0] * model.grid[1], model.norm.weight.numel(), dtype=torch.float64, generator=drawn
                )
            },
        ),
    }
    lines = ["| | output | LaTIM | rollout |", "| --- | ---: | ---: | ---: |"]
    for name, (maker, inputs_of) in cases.items():
        model = maker()
        lines.append(f"| {name} | " + " | ".join(map(cell, both(name, maker, inputs_of(model), device, found))) + " |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def both(name: str, maker: Callable[[], Any], inputs: dict[str, Tensor], device: str, found: Found) -> list[Any]:
    """Return the error of the outputs of a model on the device, and how far its maps are from those on the CPU."""

    def trace(place: str) -> Any:
        return mambascope.capture(maker().to(place), **{key: value.to(place) for key, value in inputs.items()})

    def apart(call: Callable[[Any], Tensor]) -> float:
        return relative(call(trace(device)).cpu(), call(trace("cpu")))

    bound = BOUNDS[torch.float64]
    return [
        found.judged(f"{name}, output", bound, lambda: families.output(trace(device))),
        found.judged(f"{name}, LaTIM", bound, lambda: apart(lambda t: methods.latim(t, 0))),
        found.judged(f"{name}, rollout", bound, lambda: apart(methods.rollout)),
    ]


def timed(device: str, call: Callable[[], Any], repeats: int = 3) -> tuple[float, float]:
    """Return the median of seconds, and the MiB of the device's memory that a call takes beyond what was held."""
    cuda = torch.device(device).type == "cuda"
    seconds, most = [], 0.0
    for _ in range(repeats + 1):
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        started = time.perf_counter()
        kept = call()
        if cuda:
            torch.cuda.synchronize()
            most = (torch.cuda.max_memory_allocated() - before) / 2**20
        seconds.append(time.perf_counter() - started)
        del kept
    return statistics.median(seconds[1:]), most


def product_rate(device: str) -> float:
    """Return float32 operations per second of a large matrix product."""
    size = 8192 if torch.device(device).type == "cuda" else 2048
    a, b = torch.randn(2, size, size, device=device)
    return 2 * size**3 / timed(device, lambda: a @ b)[0]


def models() -> dict[str, Callable[[], Any]]:
    """Return random models by name."""
    common = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    return {
        "Mamba, 24 layers": lambda: transformers.MambaConfig(**SIZE, num_hidden_layers=24),
        "Mamba-2, 24 layers": lambda: transformers.Mamba2Config(
            **SIZE, **common, num_hidden_layers=24, head_dim=64, num_heads=24, n_groups=1
        ),
        "Qwen3-Next, 12 layers": lambda: transformers.Qwen3NextConfig(
            **SIZE, **common, num_hidden_layers=12, num_attention_heads=8, num_key_value_heads=2, head_dim=96,
            linear_num_key_heads=8, linear_num_value_heads=16, linear_key_head_dim=96, linear_value_head_dim=96,
            intermediate_size=2048, num_experts=0, mlp_only_layers=list(range(12)), decoder_sparse_step=1,
        ),
    }  # fmt: skip


def cost(device: str, found: Found, lengths: Iterable[int]) -> str:
    """Return a table of seconds and memory of every step, per model and length."""
    rate = product_rate(device)
    lines = [f"A float32 product of large matrices ran at {rate / 1e12:.1f} TFLOP/s.", ""]
    lines += ["| model | tokens | step | seconds | of a stock pass | MiB | times the floor |"]
    lines += ["| --- | ---: | --- | ---: | ---: | ---: | ---: |"]
    for name, config in models().items():
        torch.manual_seed(SEED)
        model = transformers.AutoModelForCausalLM.from_config(config()).eval().to(device)
        for length in lengths:
            try:
                _cost_of(name, model, length, device, rate, lines)
            except (MambascopeError, torch.cuda.OutOfMemoryError) as error:
                found.faults.append(f"{name}, {length} tokens: {type(error).__name__}: {error}")
        del model
    return "\n".join(lines)


def _cost_of(name: str, model: Any, length: int, device: str, rate: float, lines: list[str]) -> None:
    ids = torch.randint(0, 1000, (1, length), device=device, generator=torch.Generator(device).manual_seed(SEED))
    readout = readouts.token(length - 1, 7)

    @torch.no_grad()
    def stock() -> Any:
        return model(input_ids=ids, use_cache=False)

    trace = mambascope.capture(model, input_ids=ids, check=False)
    operator = trace.operator(0)
    width, out = operator.inner_width, operator.x.shape[-1]
    pairs = length * (length + 1) / 2
    steps: dict[str, tuple[Callable[[], Any], float | None]] = {
        "stock forward pass": (stock, None),
        "capture": (lambda: mambascope.capture(model, input_ids=ids), None),
        "capture without its check": (lambda: mambascope.capture(model, input_ids=ids, check=False), None),
        "rollout, one target": (lambda: methods.rollout_row(trace, length - 1), None),
        "MambaLRP, one target": (lambda: methods.mamba_lrp(trace, readout), None),
        "LaTIM of one layer, one target": (lambda: METHODS["latim"].row(trace, 0, length - 1), None),
    }
    if length <= LONGEST_MAP:
        inner = operator.scan.state_size * operator.scan.maps
        hidden = METHODS["hidden-attention"]
        steps["hidden attention of one layer, all pairs"] = (lambda: hidden.map(trace, 0), 2 * pairs * inner)
        steps["LaTIM of one layer, all pairs"] = (lambda: METHODS["latim"].map(trace, 0), 2 * pairs * width * out)
    once = None
    for step, (call, operations) in steps.items():
        seconds, mib = timed(device, call)
        once = seconds if once is None else once
        floor = "" if operations is None else f"{seconds * rate / operations:.1f}"
        lines.append(f"| {name} | {length:,} | {step} | {seconds:.4f} | {seconds / once:.2f} | {mib:,.0f} | {floor} |")
        print(lines[-1], flush=True)


PAGE = """# On a GPU

Made by `python -m benchmarks.on_device --device {device}`; do not edit. {hardware}, torch {torch}, transformers
{transformers}; compiled kernels: {kernels}.

{parts}
"""
TITLES = {
    "exact": """Exactness

Relative errors as in [the table of families](families.md), on the device.""",
    "answers": """The same answers

Scores in float32 on the device against float64 on the CPU: the largest difference, in shares of the largest score.""",
    "pictures": """Picture models

Small random models in float64, on the device against the CPU.""",
    "cost": """Time and memory

Random models, float32, one text; medians of three runs. The floor of a map is its operations at the rate above.""",
}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--parts", default="exact,answers,pictures,cost")
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--lengths", default=",".join(map(str, LENGTHS)))
    asked = parser.parse_args()
    transformers.logging.set_verbosity_error()
    found = Found()
    parts = {
        "exact": lambda: exact(asked.device, found, asked.families.split(",")),
        "answers": lambda: answers(asked.device, found),
        "pictures": lambda: seen(asked.device, found),
        "cost": lambda: cost(asked.device, found, [int(length) for length in asked.lengths.split(",")]),
    }
    written = [f"## {TITLES[part]}\n\n{parts[part]()}" for part in asked.parts.split(",")]
    installed = [name for name in ("mamba_ssm", "causal_conv1d", "fla") if importlib.util.find_spec(name)]
    cuda = torch.device(asked.device).type == "cuda"
    page = PAGE.format(
        device=asked.device,
        hardware=torch.cuda.get_device_name() if cuda else "A CPU",
        torch=torch.__version__.split("+")[0],
        transformers=transformers.__version__,
        kernels=", ".join(installed) or "none",
        parts="\n\n".join(written),
    )
    if asked.out:
        asked.out.write_text(page, encoding="utf-8")
    print("\n".join(["", *found.faults, f"{len(found.faults)} faults"]))
    sys.exit(bool(found.faults))


if __name__ == "__main__":
    main()
