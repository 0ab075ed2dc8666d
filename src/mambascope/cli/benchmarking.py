"""`mambascope bench`: what things cost on this machine, beside what else the same work could be done with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from mambascope.bench.cases import CASES
from mambascope.bench.fresh import WARM
from mambascope.bench.measuring import SLOW
from mambascope.bench.page import NAMES, lines_of, page, sorted_by_case
from mambascope.bench.run import bench
from mambascope.bench.settings import SIZES
from mambascope.cli.delivering import check_out, command_line, write_and_print
from mambascope.errors import InputError
from mambascope.files import write_whole
from mambascope.notices import KERNELS, kept_off
from mambascope.progress import told

#: Fewest tokens: MambaLRP and rollout explain the last by the others.
SHORTEST = 2


def print_bench(
    name: str | None, *, sizes: str, lengths: str, device: str, repeats: int, as_json: bool, out: Path | None
) -> None:
    """Measure and print; write the page or the figures if a file is asked for."""
    check_out(out, (".md", ".json"))
    names = list(CASES) if name is None else [_known(name, CASES, "NAME")]
    chosen = [_known(size, SIZES, "--size") for size in sizes.split(",")]
    tokens = [_length(one) for one in lengths.split(",")]
    if repeats < 1:
        raise InputError(f"--repeats must be 1 or more, found {repeats}")
    _check_device(device)
    with kept_off(KERNELS), told(None, "measuring") as steps:
        found = bench(names, chosen, tokens, device=device, repeats=repeats, progress=steps)
    written = json.dumps(found)

    def write(path: Path) -> None:
        text = written if path.suffix == ".json" else page(found, command_line(), slow=SLOW, warm=WARM)
        write_whole(path, text)

    write_and_print(out, write, lambda: print(written) if as_json else _show(found), as_json=as_json)


def _known(value: str, known: Mapping[str, Any], name: str) -> str:
    if value.strip() not in known:
        raise InputError(f"unknown {name} {value!r}; choose one of {', '.join(known)}")
    return value.strip()


def _length(value: str) -> int:
    try:
        length = int(value)
    except ValueError:
        length = 0
    if length < SHORTEST:
        raise InputError(f"--length must be a whole number of at least {SHORTEST} tokens, found {value!r}")
    return length


def _check_device(device: str) -> None:
    """Refuse a device that nothing can be measured on."""
    try:
        kind = torch.device(device).type
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"--device {device} cannot be used here: {str(error).splitlines()[0]}") from error
    if kind not in ("cpu", "cuda"):
        raise InputError(f"--device {device}: time and memory are measured on cpu and cuda only")


def _show(found: dict[str, Any]) -> None:
    """Print every case: its ratios to what it is beside, measured in turns."""
    machine, rows = found["machine"], found["rows"]
    where = f"{machine['processor']}, {machine['device']}, {machine['threads']} thread(s), torch {machine['torch']}"
    text = Text(f"{where}; ours over each other, in seconds of one run\n")
    for size, family in dict.fromkeys((row["size"], row["family"]) for row in rows):
        layers, width = SIZES[size]
        text.append(f"\n{NAMES[family]}, {size} ({layers} layers, {width} wide)\n", style="underline")
        here = [row for row in rows if (row["size"], row["family"]) == (size, family)]
        for line, style in lines_of(sorted_by_case(here)):
            text.append(f"{line}\n", style=style)
    Console().print(text, highlight=False, end="")
