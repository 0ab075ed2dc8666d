"""Runs cases: first that they are exact on the device, then their seconds beside others, then their memory."""

from __future__ import annotations

import copy
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
import transformers

from mambascope.bench.cases import CASES, Beside, Case
from mambascope.bench.fresh import Ask, fresh_processes
from mambascope.bench.measuring import alternated
from mambascope.bench.settings import FAMILIES, Setting, Shape, setting, shape_of
from mambascope.errors import ReconstructionError
from mambascope.memory import available_bytes

#: Largest difference from float64, in shares of the largest value, that float32 explains on the texts of the check.
BOUND = 1e-4
#: Tokens, layers and vocabulary of the model that is checked against float64; its width is that of the size.
CHECKED = (24, 2, 64)


@dataclass(frozen=True)
class Row:
    """One thing beside another.

    Attributes:
        case: The name of the case.
        family, size, length: What it was measured on.
        beside: What it is measured beside.
        seconds, other_seconds: Medians of both.
        ratio: Ours over the other's.
        mib, other_mib: How far a fresh process grows; None where it was not measured.
        error: Ours against float64, in shares of the largest value.
    """

    case: str
    family: str
    size: str
    length: int
    beside: str
    seconds: float
    other_seconds: float
    ratio: float
    mib: float | None
    other_mib: float | None
    error: float


@dataclass(frozen=True)
class Machine:
    """Where it was measured."""

    processor: str
    device: str
    threads: int
    torch: str
    transformers: str
    repeats: int


def bench(
    names: Sequence[str],
    sizes: Sequence[str],
    lengths: Sequence[int],
    *,
    device: str = "cpu",
    repeats: int = 3,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Return what every case costs, as plain values: `machine` and `rows`, a row for each thing that it is beside.

    Args:
        names: Names of cases.
        sizes: Names of sizes, `tiny`, `130m`, `370m` or `1.4b`.
        lengths: Numbers of tokens.
        device: Where to measure.
        repeats: How many times; medians are given.
        progress: Called with (cases done, cases to do).

    Raises:
        ReconstructionError: if a case is not exact on the device.
        MapTooLargeError: if a model, or what ours keeps, does not fit in memory.
    """
    asked = [(size, family, name) for size in sizes for family in FAMILIES for name in names]
    errors = {one: exactness(one[2], one[1], one[0], device) for one in asked}
    todo = [(*one, length) for one in asked for length in lengths]
    rows: dict[tuple[Any, ...], Row] = {}
    with fresh_processes() as ask:
        for done, (size, family, name, length) in enumerate(todo):
            if progress is not None:
                progress(done, len(todo))
            case, shape = CASES[name], shape_of(family, size, layers=CASES[name].layers)
            grown = _Grown(name, shape, device, ask)
            whole = setting(shape, min(length, case.longest or length), device)
            for beside in case.beside:
                fitting = _fitting(beside, whole)
                place = (size, family, name, beside.name, fitting.length)
                if place not in rows:
                    rows[place] = _row(place, case, beside, fitting, repeats, grown, errors[size, family, name])
    return {"machine": asdict(_machine(device, repeats)), "rows": [asdict(row) for row in rows.values()]}


def _row(
    place: tuple[str, str, str, str, int],
    case: Case,
    beside: Beside,
    fitting: Setting,
    repeats: int,
    grown: _Grown,
    error: float,
) -> Row:
    size, family, name, other, length = place
    call, times = beside.call(fitting)
    seconds = alternated({"ours": case.ours(fitting), "other": call}, repeats, grown.device)
    taken = seconds["other"] * times
    return Row(
        case=name,
        family=family,
        size=size,
        length=length,
        beside=other,
        seconds=seconds["ours"],
        other_seconds=taken,
        ratio=seconds["ours"] / taken,
        mib=grown(None, length),
        other_mib=grown(other, length) if beside.memory else None,
        error=error,
    )


@dataclass
class _Grown:
    """Memory of one case by length, each measured once in a process of its own."""

    name: str
    shape: Shape
    device: str
    ask: Ask
    known: dict[tuple[str | None, int], float] = field(default_factory=dict)

    def __call__(self, beside: str | None, length: int) -> float:
        """Return the MiB by which a fresh process grows for ours, or for what is beside it."""
        if (beside, length) not in self.known:
            self.known[beside, length] = self.ask(self.name, beside, self.shape, length, self.device)
        return self.known[beside, length]


def _fitting(beside: Beside, whole: Setting) -> Setting:
    """Return the setting with as many tokens as something else takes, and memory has room for."""
    fitting = whole.cut(min(whole.length, beside.longest or whole.length))
    while beside.held is not None and beside.held(fitting) > available_bytes(fitting.ids.device) / 2:
        fitting = fitting.cut(fitting.length // 2)
    return fitting


def exactness(name: str, family: str, size: str, device: str) -> float:
    """Return how far a case in float32 on the device is from float64 on the CPU, in shares of the largest value.

    Maps are compared with plain loops, logits with the stock model's own code, rollout with dense matrices; MambaLRP,
    which has no other form, with itself.

    Raises:
        ReconstructionError: if it is further than rounding explains.
    """
    length, layers, vocabulary = CHECKED
    small = setting(replace(shape_of(family, size, layers=layers), vocabulary=vocabulary), length, device)
    doubled = Setting(copy.deepcopy(small.model).cpu().double(), small.ids.cpu())
    found, expected = CASES[name].answer(small).detach().double().cpu(), CASES[name].expected(doubled).detach().double()
    error = float((found - expected).abs().max() / expected.abs().max())
    if not error <= BOUND:
        raise ReconstructionError(
            f"{name} of a random {family} on {device} differs from float64 by {error:.1e} of its largest value, and "
            f"rounding explains no more than {BOUND:.0e}, so its time is not given"
        )
    return error


def _machine(device: str, repeats: int) -> Machine:
    cuda = torch.device(device).type == "cuda"
    return Machine(
        processor=torch.cuda.get_device_name(device) if cuda else processor(),
        device=device,
        threads=torch.get_num_threads(),
        torch=torch.__version__.split("+")[0],
        transformers=transformers.__version__,
        repeats=repeats,
    )


def processor() -> str:
    """Return the processor's name, or what kind it is if its name is not told."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as told:
            return next(line.partition(":")[2].strip() for line in told if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
