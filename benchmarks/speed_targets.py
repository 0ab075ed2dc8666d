"""The speed that we hold ourselves to, measured: each target as a ratio of one run, and whether it is met.

    OMP_NUM_THREADS=1 python -m benchmarks.speed_targets [NAME …] [--page FILE.md]

Layers have the sizes of the released ones, with random weights: Vision Mamba small (D = 768, N = 16, 197 tokens) and
the 130M models (E = 768, D = 1,536; N = 16 for Mamba, 128 for Mamba-2; 1,024 tokens unless said). What is compared
takes turns, and medians count; a call of more than five seconds runs once (`mambascope.bench.measuring`). A floor is
the time of one large float32 matrix product with as many operations. Run it on a quiet machine: all of it takes about
twenty minutes on one core, half of which are `autograd` and `memory`.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

import mambascope
from mambascope import readouts
from mambascope.bench import forms
from mambascope.bench.cases import CASES, Beside, own_forward, stock_forward, stock_gradient
from mambascope.bench.measuring import alternated, measured, timed
from mambascope.bench.run import processor
from mambascope.bench.settings import Setting, Shape, setting
from mambascope.files import write_whole
from mambascope.methods.alti_logit import alti_logit
from mambascope.methods.hidden_attention import hidden_attention, hidden_attention_row
from mambascope.methods.latim import latim, latim_error
from mambascope.methods.mamba_attribution import mamba_attribution
from mambascope.methods.mamba_lrp import mamba_lrp
from mambascope.operators.products import multiplies

REPEATS, LENGTH, RELEASED = 5, 1024, 50280
FAMILIES = {"mamba": "Mamba", "mamba2": "Mamba-2"}

SAID = {True: "met", False: "missed", None: "open"}


@dataclass(frozen=True)
class Target:
    """One figure beside what it should be.

    Attributes:
        what: What is measured.
        asked: What it should be, in words.
        found: What it is, in words.
        met: Whether it is met; None where this processor cannot say.
    """

    what: str
    asked: str
    found: str
    met: bool | None


def at_least(what: str, asked: float, ours: float, other: float, note: str = "") -> Target:
    """Return how many times faster ours is, beside how many times it should be."""
    found = f"{other / ours:.1f} times faster ({ours:.3g} s and {other:.3g} s{note})"
    return Target(what, f"{asked:g} times faster", found, other / ours >= asked)


def at_most(what: str, asked: float, ours: float, other: float, unit: str) -> Target:
    """Return ours over another, beside the most that it should be."""
    found = f"{ours / other:.2f} ({ours:.3g} s and {other:.3g} s)"
    return Target(what, f"at most {asked:g} {unit}", found, ours / other <= asked)


def of_layer(family: str, length: int = LENGTH, width: int = 768) -> Setting:
    """Return one layer, with a small vocabulary."""
    return setting(Shape(family, 1, width, 1024), length, "cpu")


def beside(case: str, other: Beside, given: Setting) -> tuple[float, float]:
    """Return the seconds of a case, and those of what it is beside."""
    call, times = other.call(given)
    seconds = alternated({"ours": CASES[case].ours(given), "other": call}, REPEATS)
    return seconds["ours"], seconds["other"] * times


def capture() -> Iterator[Target]:
    """A capture with its check beside the stock forward pass: 24 layers, the vocabulary of the released models."""
    for family, name in FAMILIES.items():
        whole = setting(Shape(family, 24, 768, RELEASED), LENGTH, "cpu")
        calls = {"ours": lambda: mambascope.capture(whole.model, input_ids=whole.ids), "stock": stock_forward(whole)}  # noqa: B023
        seconds = alternated(calls, REPEATS)
        yield at_most(f"Capture with its check, {name}", 0.55, seconds["ours"], seconds["stock"], "of the stock pass")


def vision() -> Iterator[Target]:
    """The maps of a layer of Vision Mamba beside the loop as it is published."""
    layer = of_layer("mamba", 197, 384)
    scan, last = layer.operator.scan, layer.length - 1
    pairs: list[tuple[str, float, Callable[[], Any], Callable[[], Any]]] = [
        ("all channels", 20, lambda: hidden_attention(layer.trace, 0), lambda: forms.published(scan)),
        (
            "mean over channels",
            200,
            lambda: hidden_attention(layer.trace, 0, channels="mean"),
            lambda: forms.published(scan).mean(dim=0),
        ),
        (
            "one target",
            20,
            lambda: hidden_attention_row(layer.trace, 0, last),
            lambda: forms.published_row(scan, last).mean(dim=0),
        ),
    ]
    for what, asked, ours, theirs in pairs:
        seconds = alternated({"ours": ours, "theirs": theirs}, REPEATS)
        yield at_least(f"Vision layer, {what}, than the published loop", asked, seconds["ours"], seconds["theirs"])


def maps() -> Iterator[Target]:
    """Mean maps beside their floor."""
    for family, name in FAMILIES.items():
        layer = of_layer(family)
        for case, asked in (("hidden-attention", 4), ("implicit-attention", 6)):
            ours, floor = beside(case, CASES[case].beside[0], layer)
            yield at_most(f"Mean {case.replace('-', ' ')}, {name}", asked, ours, floor, "times the floor")


def contributions() -> Iterator[Target]:
    """LaTIM of one layer beside its floor, and with products in bfloat16."""
    for family, name in FAMILIES.items():
        layer = of_layer(family)
        ours, floor = beside("latim", CASES["latim"].beside[0], layer)
        found = f"{100 * floor / ours:.0f} % ({ours:.3g} s and {floor:.3g} s)"
        yield Target(f"LaTIM ℓ2, {name}", "at least 85 % of the product's rate", found, floor / ours >= 0.85)
        what = f"LaTIM with bfloat16, {name}, than in float32"
        if not multiplies(torch.bfloat16, torch.device("cpu")):
            yield Target(what, "2.5 times faster", "this processor has no products in bfloat16", None)
            continue
        rounded = latim(layer.trace, 0, precision="bfloat16")
        error = float(latim_error(layer.trace, rounded, 0))
        seconds = alternated(
            {"bf16": lambda: latim(layer.trace, 0, precision="bfloat16"), "own": lambda: latim(layer.trace, 0)},  # noqa: B023
            REPEATS,
        )
        note = f"; relative error {error:.1e}"
        yield at_least(what, 2.5, seconds["bf16"], seconds["own"], note)


def relevance() -> Iterator[Target]:
    """MambaLRP beside our own forward passes."""
    for family, name in FAMILIES.items():
        whole = setting(Shape(family, 24, 768, RELEASED), 256, "cpu")
        readout = readouts.token(whole.length - 1, 7)
        calls = {"ours": lambda: mamba_lrp(whole.trace, readout), "pass": own_forward(whole)}  # noqa: B023
        seconds = alternated(calls, REPEATS)
        yield at_most(f"MambaLRP, {name}, 256 tokens", 2, seconds["ours"], seconds["pass"], "own passes")


def autograd() -> Iterator[Target]:
    """A forward and frozen backward pass of ours beside the stock model's own: 256 tokens."""
    whole = setting(Shape("mamba", 24, 768, RELEASED), 256, "cpu")
    readout = readouts.token(whole.length - 1, 7)
    calls = {"ours": lambda: mamba_lrp(whole.trace, readout), "stock": stock_gradient(whole)}
    seconds = alternated(calls, 1)
    what = "Forward and frozen backward (MambaLRP), Mamba, 256 tokens, than stock autograd"
    yield at_least(what, 20, seconds["ours"], seconds["stock"])


def quadratic() -> Iterator[Target]:
    """One target of a long text with methods that are quadratic by nature: 4 layers of width 256."""
    model = setting(Shape("mamba", 4, 256, 1024), 4096, "cpu")
    readout = readouts.token(model.length - 1, 7)
    share, seconds = timed(lambda: alti_logit(model.trace, readout, traced_share=0.9))
    bound = float(share.untraced / share.scores.abs().sum())
    found = f"{seconds:.0f} s with a traced share of 0.9, which moves the scores by at most {bound:.0%} together"
    yield Target("ALTI-Logit, 4,096 tokens", "at most 15 s", found, seconds <= 15)
    longer = setting(Shape("mamba", 4, 256, 1024), 16384, "cpu")
    _ = longer.trace
    _, seconds = timed(lambda: mamba_attribution(longer.trace, readouts.token(longer.length - 1, 7)))
    yield Target("Mamba-Attribution, 16,384 tokens", "at most 40 s", f"{seconds:.0f} s", seconds <= 40)


def memory() -> Iterator[Target]:
    """LaTIM of 2,048 tokens: what one layer takes beyond its map, which 24 layers take once."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # where nothing that ran before has left memory
        extra = pool.apply(_beyond_answer, (2048, torch.get_num_threads()))
    found = f"{extra / 2**20:.0f} MiB"
    yield Target("LaTIM, 2,048 tokens, beyond its answer", "at most 300 MB", found, extra <= 3e8)


def _beyond_answer(length: int, threads: int) -> int:
    """Return the bytes by which this process grows for LaTIM of a layer, without the answer's own."""
    torch.set_num_threads(threads)
    latim(of_layer("mamba", 64).trace, 0)
    layer = of_layer("mamba", length)
    _ = layer.operator
    answer, _, grown = measured(lambda: latim(layer.trace, 0))
    return grown - answer.numel() * answer.element_size()


TARGETS: dict[str, Callable[[], Iterator[Target]]] = {
    one.__name__: one
    for one in (capture, vision, maps, contributions, relevance, autograd, quadratic, memory)
}  # fmt: skip

PAGE = """# The speed that we aim at

Made by `OMP_NUM_THREADS={threads} python -m benchmarks.speed_targets`; do not edit. Measured on {processor}, {threads}
thread(s), torch {torch}, transformers {transformers}: layers of the released sizes with random weights, 1,024 tokens
and float32 unless said. What a loop, a floor and the stock pass are: [Speed](speed.md). LaTIM multiplies only channels
that are not zero, so that it can be faster than a product of all.

| what | aim | found | |
| --- | --- | --- | --- |
{rows}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(TARGETS)} (default: all)")
    parser.add_argument("--page", type=Path, help="file for the table, as markdown")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in TARGETS]:
        parser.error(f"unknown {', '.join(unknown)}; choose from {', '.join(TARGETS)}")
    transformers.logging.set_verbosity_error()
    rows = []
    for name in given.names or TARGETS:
        for one in TARGETS[name]():
            rows.append(one)
            print(f"{SAID[one.met]:6} {one.what}: {one.found}; asked: {one.asked}", flush=True)
    if given.page is not None:
        lines = "\n".join(f"| {one.what} | {one.asked} | {one.found} | {SAID[one.met]} |" for one in rows)
        page = PAGE.format(
            threads=torch.get_num_threads(), processor=processor(), torch=torch.__version__.partition("+")[0],
            transformers=transformers.__version__, rows=lines,
        )  # fmt: skip
        write_whole(given.page, page)


if __name__ == "__main__":
    main()
