"""`mambascope heads MODEL`: what each head does, layer by layer, with the scores behind every label."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from mambascope.cli.asked import short, text_asked
from mambascope.errors import InputError
from mambascope.theory.heads import LIFT, SHARES, Head, heads
from mambascope.theory.probe_texts import ProbeTexts, probe_texts

#: How many heads are named on a line.
NAMED = 8
#: What a head without a label may be called, and one that is none of these.
SPREADS, NONE = ("local", "diffuse"), "–"


def list_heads(model: Any, tokenizer: Any, *, text: str | None, layer: int | None, as_json: bool) -> None:
    """Print what the heads of a model do."""
    probes = probe_texts(model, tokenizer, None if text is None else text_asked(text))
    found = heads(model, probes.rows, probes.ids, probes.separators)
    if layer is not None:
        count = 1 + max(head.layer for head in found)
        number = layer + count if layer < 0 else layer
        if not 0 <= number < count:
            raise InputError(f"layer {layer} does not exist: the model has {count} layers")
        found = [head for head in found if head.layer == number]
    if as_json:
        rows = [len(probes.rows), probes.span]
        print(json.dumps({"rows": rows, "text": probes.read, "heads": [plain(head) for head in found]}))
        return
    Console().print(_table(found))
    print(_legend(probes))


def _table(found: Sequence[Head]) -> Table:
    """Return a line for every layer and label."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for name in ("layer", "kind", "heads", "label", "with it", "share", "lift", "distance", "which"):
        table.add_column(
            name, justify="left" if name in ("kind", "label", "which") else "right", no_wrap=name != "which"
        )
    mixers: dict[tuple[int, str], list[Head]] = defaultdict(list)
    for head in found:
        mixers[head.layer, head.name].append(head)
    for (number, _), own in mixers.items():
        alike: dict[str, list[Head]] = defaultdict(list)
        for head in own:
            alike[head.label or head.spread or NONE].append(head)
        start = [str(number), own[0].kind, str(len(own))]
        for label in (name for name in (*SHARES, *SPREADS, NONE) if name in alike):
            found = sorted(alike[label], key=lambda head: -head.shares.get(label, 0.0))
            share, lift = found[0].shares.get(label), found[0].lifts.get(label)
            distance = median(head.distance for head in found)
            table.add_row(
                *start, label, str(len(found)), "" if share is None else f"{100 * share:.0f} %",
                "" if lift is None else f"{lift:.0f}" if lift < 1000 else ">999", f"{distance:.1f}",
                _which(head.head for head in found),
            )  # fmt: skip
            start = ["", "", ""]
    return table


def _which(numbers: Iterable[int]) -> str:
    every = list(numbers)
    return " ".join(map(str, every[:NAMED])) + (f" + {len(every) - NAMED} more" if len(every) > NAMED else "")


def _legend(probes: ProbeTexts) -> str:
    """Return what the columns are, and what was read."""
    lines = [
        "",
        f"A label needs a lift of {LIFT:.0f}, and the share of |α| in brackets.",
        f"previous   the token before {_needs('previous')}",
        f"first      the first token {_needs('first')}",
        f"same       earlier places of the same token {_needs('same')}",
        f"induction  the place after an earlier place of the same token {_needs('induction')}",
        f"separator  marks of punctuation and ends of lines {_needs('separator')}",
        "Heads without a label, which untrained ones may be too:",
        "local      90 % of |α| on the nearest third of the tokens seen; its memory",
        "           length is the distance",
        "diffuse    as many tokens share |α| as half of those seen",
        f"{NONE}          none of these",
        "share      of |α| on such sources, of the best head",
        "lift       how many times the weight of their neighbours they have",
        "distance   of source and target, weighted by |α|, median of the heads with it",
        f"Measured on {len(probes.rows)} rows of {probes.span} random tokens, written twice"
        + ("." if probes.read is None else f";\nseparator on {short(probes.read)}"),
    ]
    return "\n".join(lines)


def _needs(label: str) -> str:
    return f"({100 * SHARES[label]:.0f} %)"


def plain(head: Head) -> dict[str, Any]:
    """Return a head as plain values; what could not be measured is None."""
    values = dataclasses.asdict(head) | {"label": head.label, "spread": head.spread}
    for name in ("shares", "lifts"):
        values[name] = {label: None if math.isnan(value) else value for label, value in values[name].items()}
    return values
