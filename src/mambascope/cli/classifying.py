"""`mambascope classify`: how layers mix tokens, measured; the layers of theorem 1, or those of a model."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table

from mambascope.cli.describing import probe
from mambascope.errors import InputError, MambascopeError, MapTooLargeError, UnsupportedModelError
from mambascope.theory.classification import Classification, classify
from mambascope.trace import Trace, capture

#: Relative change of α that rounding explains in the precision of most models.
TOLERANCE = 1e-3


def classify_all(*, as_json: bool) -> None:
    """Print the table of theorem 1 for the reference layers."""
    from mambascope.theory.theorem import THEOREM, measured_layers

    found = list(measured_layers())
    if as_json:
        print(json.dumps([{"layer": name, "theorem": THEOREM.get(name)} | plain(one) for name, one in found]))
        return
    _print(found, theorem=THEOREM)


def classify_model(model: Any, tokenizer: Any, *, layer: int | None, as_json: bool) -> None:
    """Print how the layers of a model mix tokens; the model runs again with other inputs to each."""
    trace = capture(model, **probe(model, tokenizer))
    found, left = _each(trace, range(len(trace.layers)) if layer is None else [trace.index(layer)])
    if as_json:
        reasons = [{"layer": number, "kind": None, "reason": reason} for number, reason in left.items()]
        print(json.dumps([*({"layer": int(name)} | plain(one) for name, one in found), *reasons]))
        return
    if found:
        _print(found, theorem=None)
    for number, reason in left.items():
        print(f"layer {number} is left out: {reason}")


def _each(trace: Trace, numbers: Iterable[int]) -> tuple[list[tuple[str, Classification]], dict[int, str]]:
    """Return layers' classifications, and why others have none.

    Raises:
        MambascopeError: as the first layer does, if none has one.
    """
    found: list[tuple[str, Classification]] = []
    left: dict[int, str] = {}
    refused: MambascopeError | None = None
    for number in numbers:
        try:
            found.append((str(number), classify(trace, number=number, tolerance=TOLERANCE)))
        except (InputError, UnsupportedModelError, MapTooLargeError) as error:
            left[number] = str(error)
            refused = refused or error
    if refused is not None and not found:
        raise refused
    return found, left


def plain(found: Classification) -> dict[str, Any]:
    """Return a classification as plain values; what was not seen is None."""
    values = dataclasses.asdict(found)
    evidence = {name: None if math.isnan(value) else value for name, value in values.pop("evidence").items()}
    return values | {"evidence": evidence}


def _print(found: Iterable[tuple[str, Classification]], theorem: Any) -> None:
    """Print a line for every layer, and what the columns are."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for name in ("layer", "mixes", *(["thm. 1"] if theorem else []), "input", "scale", "far", "parts", "lag", "rank"):
        left = name in ("layer", "mixes", "thm. 1")
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    for name, one in found:
        agrees = {None: "", True: "agrees", False: "DIFFERS"}
        said = theorem.get(name) if theorem else None
        evidence = one.evidence
        table.add_row(
            name,
            one.kind or "?",
            *([agrees[None if said is None else said == one.kind]] if theorem else []),
            *map(change, (evidence.input, evidence.scale, evidence.far, evidence.separable, evidence.lag)),
            f"{one.ranks[0]}–{one.ranks[2]}" if one.ranks[0] < one.ranks[2] else str(one.ranks[0]),
        )
    Console().print(table)
    print(LEGEND)


LEGEND = """
Relative changes of α_ij, the largest over pairs and maps:
input  with another input              scale  with the input doubled
far    with other tokens far from i and j: of a data-controlled layer
parts  by how much it misses being a factor of i times a factor of j
lag    by how much it misses depending on i - j alone (0: Toeplitz)
rank   of what the first half of the text gives to the second, over the maps"""


def change(value: float) -> str:
    """Return a relative change; rounding is 0, and what could not be seen a dash."""
    return "–" if math.isnan(value) else "0" if value < 1e-12 else f"{value:.0e}" if value < 1e-2 else f"{value:.2f}"
