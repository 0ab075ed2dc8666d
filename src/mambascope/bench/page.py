"""The documentation's page on speed, and what the terminal shows, from measured rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from mambascope.bench.cases import CASES
from mambascope.bench.settings import SIZES

NAMES = {"mamba": "Mamba", "mamba2": "Mamba-2"}
HEAD = ("", "tokens", "beside", "ours, s", "other, s", "ratio", "ours, MiB", "other, MiB")

PAGE = """# Speed

Made by `{command}`; do not edit.

Everything here is a ratio of two things that took turns in one run, ours over the other's: 0.1 is ten times faster, and
beside a floor 2 is twice the least that the work could cost. Seconds are medians of {repeats} runs after one that does
not count, or of a single run where one takes longer than {slow:.0f} s; memory is how far a fresh process grows while it
runs the case for the first time after a text of {warm} tokens. Models have random weights and the sizes of the released
checkpoints (`tiny`: 4 layers of width 256), and read random tokens, in float32.

Measured on {processor}, {device}, {threads} thread(s); torch {torch}, transformers {transformers}. Before anything was
timed, every case was compared with float64 on a text of 24 tokens: the largest difference is {error:.0e} of the largest
value.

* A floor is the time that a large float32 matrix product takes for as many operations, or writing a large tensor for as
  many bytes, or one forward pass of ours (a capture without its self-check).
* The loops and the dense tensors follow the papers' formulas (`bench/forms.py`): the published loop multiplies the
  decays of every pair of tokens anew, the plain loop keeps a running product. They are run on as many tokens as they
  finish in, or as fit in half of the free memory, and ours on as many.

{tables}
"""


def table(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return the cells of a table, a line for every row; a case is named once."""
    lines = []
    for case, group in groupby(rows, key=lambda row: row["case"]):
        for number, row in enumerate(group):
            title = "" if number else f"{case}: {CASES[case].title}"
            lines.append((title, f"{row['length']:,}", row["beside"], *_figures(row)))
    return lines


def page(found: Mapping[str, Any], command: str, *, slow: float, warm: int) -> str:
    """Return the page.

    Args:
        found: What `bench` returned.
        command: The command that measured it.
        slow: Seconds beyond which a call is run once.
        warm: Tokens of the text that warms up.
    """
    tables = []
    for (size, family), group in groupby(found["rows"], key=lambda row: (row["size"], row["family"])):
        layers, width = SIZES[size]
        lines: Sequence[tuple[str, ...]] = [HEAD, ("---", "---:", "---", *["---:"] * 5), *table(sorted_by_case(group))]
        written = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        tables.append(f"## {NAMES[family]}, {size} ({layers} layers, {width} wide)\n\n{written}")
    error = max(row["error"] for row in found["rows"])
    return PAGE.format(
        command=command, tables="\n\n".join(tables), error=error, slow=slow, warm=warm, **found["machine"]
    )


def lines_of(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return the lines of the terminal, each with its style: a case's title, then what it is beside."""
    lines = []
    for case, group in groupby(rows, key=lambda row: row["case"]):
        lines.append((f"{case}: {CASES[case].title}", "bold"))
        for row in group:
            ours, other, ratio, mib, other_mib = _figures(row)
            more = f", {other_mib} MiB" if other_mib else ""
            lines.append((f"  {ratio:>7} x {row['beside']} ({other} s{more})", ""))
            lines.append((f"{'':12}{ours} s, {mib} MiB, {row['length']:,} tokens", "dim"))
    return lines


def sorted_by_case(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return rows case by case, in the order of `CASES`, shorter texts first."""
    order = list(CASES)
    return sorted(rows, key=lambda row: (order.index(row["case"]), row["length"]))


def _figures(row: Mapping[str, Any]) -> tuple[str, ...]:
    figures = (_short(row[name]) for name in ("seconds", "other_seconds", "ratio"))
    memory = ("" if row[name] is None else f"{row[name]:,.0f}" for name in ("mib", "other_mib"))
    return (*figures, *memory)


def _short(value: float) -> str:
    """Return a number with two digits, or as a whole one."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
