"""A model's layers in lines of text: one entry for equal layers, at most 80 columns wide."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from mambascope.trace.layer_map import LayerFacts, LayerMap, runs
from mambascope.trace.missing import Missing

WIDTH = 80

#: Columns of the numbers and of the kinds; longer ones take a line of their own.
NUMBERS, KINDS = 14, 12


def lines(found: LayerMap, missing: Sequence[Missing]) -> Iterator[str]:
    """Yield the lines of a layer map, and of what could not be read."""
    for numbers, facts in found.layers:
        yield from _of_layers(f"{'layers' if len(numbers) > 1 else 'layer'} {runs(numbers)}", facts)
    for names, held in found.others:
        around = names[0].rpartition(".")[0]
        places = runs([int(name.rpartition(".")[2]) for name in names])
        yield from _entry("no mixer", "", f"{held}: {around}.{places}")
    for part in missing:
        yield from _entry("not read", "", str(part))


def as_json(found: LayerMap) -> dict[str, Any]:
    """Return a layer map as plain values."""
    return {
        "layer_map": [{"layers": list(numbers)} | dataclasses.asdict(facts) for numbers, facts in found.layers],
        "layers_without_mixer": [{"names": list(names), "holds": held} for names, held in found.others],
    }


def _of_layers(numbers: str, facts: LayerFacts) -> Iterator[str]:
    for place, mixer in enumerate(facts.mixers):
        yield from _entry(numbers if place == 0 else "", ("" if place == 0 else "+ ") + mixer.kind, str(mixer))
        if mixer.found:
            yield from _entry("", "", f"read by its structure: {mixer.found}")
    if facts.token_wise:
        yield from _entry("", "", f"{'beside' if facts.beside else 'then'} {', '.join(facts.token_wise)}")
    if facts.shared_with is not None:
        yield from _entry("", "", f"shares weights with layer {facts.shared_with}")
    if facts.followed is False:
        yield from _entry("", "", "changes the stream in a way that is not known here")


def _entry(numbers: str, kind: str, text: str) -> Iterator[str]:
    """Yield the lines of one entry, under their columns."""
    indent = " " * (NUMBERS + KINDS)
    if len(numbers) >= NUMBERS:
        yield from textwrap.wrap(numbers, WIDTH, subsequent_indent=" " * len("layers "))
        numbers = ""
    if len(kind) >= KINDS:
        yield f"{numbers:<{NUMBERS}}{kind}"
        numbers, kind = "", ""
    yield from textwrap.wrap(
        text, WIDTH, initial_indent=f"{numbers:<{NUMBERS}}{kind:<{KINDS}}", subsequent_indent=indent
    )
