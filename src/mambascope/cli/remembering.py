"""`mambascope info MODEL --stats TEXT`: what each layer remembers, on one screen, as values or as a figure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mambascope.cli.asked import short, text_asked
from mambascope.cli.delivering import FIGURES
from mambascope.errors import InputError
from mambascope.explanation.subject import Subject, read_subject
from mambascope.files import check_place
from mambascope.grid import Grid
from mambascope.inputs.preparation import reads_pictures
from mambascope.theory.memory import WITHIN, LayerMemory, memory
from mambascope.trace import Trace, capture

#: Quantiles over a layer's maps that are printed.
QUANTILES = (0.05, 0.5, 0.95)
FEWEST = 4


def print_stats(text: str, model: Any, tokenizer: Any, *, as_json: bool, out: Path | None) -> None:
    """Print what each layer of a model remembers of a text, and write the figure if a file is named."""
    if out is not None:
        if out.suffix.lower() not in FIGURES:
            raise InputError(f"--out {out} must end in {', '.join(FIGURES)}: the figure of --stats")
        check_place(out)
    subject = read_subject(model, tokenizer, Path(text) if reads_pictures(model) else text_asked(text))
    trace = capture(model, partial=True, **subject.inputs)
    shortest = min(stage.shape[1] for stage in trace.stages)
    if shortest < FEWEST:
        raise InputError(f"{short(text)} is {shortest} tokens; --stats needs {FEWEST} or more")
    found = list(_found(subject, trace))
    patches = any(grid for _, grid in _stages(subject, trace))
    if out is not None:
        from mambascope.show.memory_figure import save_memory_figure

        save_memory_figure(found, out, patches=patches)
    if as_json:
        print(json.dumps([_values(one) for one in found]))
        return
    console = Console()
    console.print(_table(found))
    print()
    print(_legend(trace.stages[0].shape[1], patches=patches))


def _stages(subject: Subject, trace: Trace) -> Iterator[tuple[Trace, Grid | None]]:
    """Yield the trace of each stage, and where its patches are."""
    several = len(trace.stages) > 1
    for number, stage in enumerate(trace.stages):
        yield stage, subject.grid(number if several else None)


def _found(subject: Subject, trace: Trace) -> Iterator[LayerMemory]:
    """Yield what every mixer remembers; layers are numbered through all stages."""
    before = 0
    for stage, grid in _stages(subject, trace):
        for layer in range(len(stage.layers)):
            for one in memory(stage, layer, grid=grid):
                yield replace(one, layer=before + layer)
        before += len(stage.layers)


def _table(found: list[LayerMemory]) -> Table:
    """Return a line for every mixer."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for name in ("layer", "kind", "maps", "distance", "reach", "entropy", "decay", "state", "likeness"):
        table.add_column(name, justify="left" if name == "kind" else "right", no_wrap=True)
    for one in found:
        distance, reach, entropy, decay = map(quantiles, (one.distance, one.reach, one.entropy, one.decay))
        table.add_row(
            str(one.layer),
            one.kind,
            str(len(one.distance)),
            f"{distance[1]:.1f} ({distance[0]:.1f}–{distance[2]:.1f})",
            f"{reach[1]:.0f}",
            f"{entropy[1]:.1f}",
            f"{decay[0]:.2f}–{decay[2]:.2f}",
            _tokens(one.held),
            "–" if one.similarity != one.similarity else f"{one.similarity:.2f}",
        )
    return table


def quantiles(values: Tensor) -> Tensor:
    """Return the quantiles that are printed."""
    return torch.quantile(values, values.new_tensor(QUANTILES))


def _tokens(shares: Tensor | None) -> str:
    """Return how many of the last tokens hold most of the state."""
    return "–" if shares is None else str(int((shares.flip(0).cumsum(0) < WITHIN).sum()) + 1)


def _legend(length: int, *, patches: bool) -> str:
    """Return what the columns are."""
    if patches:
        return "\n".join((
            f"Of {length} tokens, the patches; the median map (5 % and 95 % of the maps).",
            "distance  mean distance in the picture weighted by |α|, in patches",
            "reach     radius that holds 90 % of |α|, in patches",
            "entropy   of |α| over the sources, in bits",
            "decay     factor by which |α| falls per patch, 5 % to 95 % of the maps",
            "state     last tokens that hold 90 % of the last state",
            "likeness  mean cosine of two patches' vectors after the layer",
        ))  # fmt: skip
    return "\n".join((
        f"Of {length} tokens, the targets of the second half; the median map (5 % and 95 % of the maps).",
        "distance  mean |i - j| weighted by |α|, in tokens",
        "reach     tokens, back from the target, that hold 90 % of |α|",
        "entropy   of |α| over the sources, in bits",
        "decay     factor by which |α| falls per token, 5 % to 95 % of the maps",
        "state     last tokens that hold 90 % of the last state",
        "likeness  mean cosine of two tokens' vectors after the layer",
    ))  # fmt: skip


def _values(one: LayerMemory) -> dict[str, Any]:
    """Return a mixer's numbers as plain values."""
    per_map = {name: getattr(one, name).tolist() for name in ("distance", "reach", "entropy", "decay")}
    known = one.similarity == one.similarity
    return {
        "layer": one.layer,
        "name": one.name,
        "kind": one.kind,
        **per_map,
        "similarity": one.similarity if known else None,
        "state_held": None if one.held is None else one.held.tolist(),
    }
