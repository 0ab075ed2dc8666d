"""`mambascope heads MODEL`: what each head does, layer by layer, with the scores behind every label."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from mambascope.cli.asked import short, text_asked
from mambascope.errors import InputError
from mambascope.inputs.checks import longest_text
from mambascope.inputs.preparation import reads_pictures
from mambascope.inputs.tokens import encode
from mambascope.theory.heads import EARLIEST, LIFT, SHARES, Head, heads, repeated_rows
from mambascope.trace.embedding import token_table

#: What `separator` is measured on unless a text is given.
TEXT = """Mr. Bolton was a rich man, and Mrs. Bolton was proud of it. Every day, at nine, he left the house.
"Where are you going?" she asked. "To the city," he said, "as always."
In the evening he came back, sat down, and read the paper."""
#: Size of the rows of random tokens.
ROWS, SPAN = 6, 24
#: How many heads are named on a line.
NAMED = 8


def list_heads(model: Any, tokenizer: Any, *, text: str | None, layer: int | None, as_json: bool) -> None:
    """Print what the heads of a model do."""
    if reads_pictures(model):
        raise InputError("what heads do is measured on tokens; this model reads pictures")
    vocabulary = token_table(model).num_embeddings
    longest = longest_text(model)
    span = SPAN if longest is None else min(SPAN, longest // 2)
    if span < EARLIEST:
        raise InputError(f"what heads do is measured on {2 * EARLIEST} tokens or more; the model reads {2 * span}")
    known = vocabulary if tokenizer is None else min(vocabulary, len(tokenizer))
    special = set() if tokenizer is None else set(tokenizer.all_special_ids)
    rows = repeated_rows([token for token in range(known) if token not in special], span, ROWS).to(model.device)
    ids, marks, read = None, None, None
    if tokenizer is not None:
        read = TEXT if text is None else text_asked(text)
        ids, pieces = encode(tokenizer, read, vocab_size=vocabulary)
        ids = ids[:, :longest].to(model.device)
        marks = torch.tensor([_separates(piece) for piece in pieces[: ids.shape[1]]], device=model.device)
        if ids.shape[1] <= EARLIEST or not marks.any():
            raise InputError("the text has no marks of punctuation and no line's end to look at; give another")
    elif text is not None:
        raise InputError("this model has no tokenizer, so it cannot read the text; leave it out")
    found = heads(model, rows, ids, marks)
    if layer is not None:
        count = 1 + max(head.layer for head in found)
        number = layer + count if layer < 0 else layer
        if not 0 <= number < count:
            raise InputError(f"layer {layer} does not exist: the model has {count} layers")
        found = [head for head in found if head.layer == number]
    if as_json:
        print(json.dumps({"rows": [ROWS, span], "text": read, "heads": [plain(head) for head in found]}))
        return
    Console().print(_table(found))
    print(_legend(span, read))


def _separates(piece: str) -> bool:
    """Return whether a token is marks of punctuation or a line's end."""
    return bool(piece) and not any(character.isalnum() or character == "_" for character in piece) and (
        "\n" in piece or bool(piece.strip())
    )  # fmt: skip


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
        labelled: dict[str, list[Head]] = defaultdict(list)
        for head in own:
            if head.label is not None:
                labelled[head.label].append(head)
        middle = sorted(head.distance for head in own)[len(own) // 2]
        start = [str(number), own[0].kind, str(len(own))]
        if not labelled:
            table.add_row(*start, "–", "", "", "", f"{middle:.1f}", "")
        for label in (name for name in SHARES if name in labelled):
            best = sorted(labelled[label], key=lambda head: -head.shares[label])
            lift = best[0].lifts[label]
            table.add_row(
                *start, label, str(len(best)), f"{100 * best[0].shares[label]:.0f} %",
                f"{lift:.0f}" if lift < 1000 else ">999", f"{middle:.1f}", _which(head.head for head in best),
            )  # fmt: skip
            start = ["", "", ""]
    return table


def _which(numbers: Iterable[int]) -> str:
    every = list(numbers)
    return " ".join(map(str, every[:NAMED])) + (f" + {len(every) - NAMED} more" if len(every) > NAMED else "")


def _legend(span: int, text: str | None) -> str:
    """Return what the columns are, and what was read."""
    lines = [
        "",
        f"A label needs a lift of {LIFT:.0f}, and the share of |α| in brackets.",
        f"previous   the token before {_needs('previous')}",
        f"first      the first token {_needs('first')}",
        f"same       earlier places of the same token {_needs('same')}",
        f"induction  the place after an earlier place of the same token {_needs('induction')}",
        f"separator  marks of punctuation and ends of lines {_needs('separator')}",
        "share      of |α| on such sources, of the best head",
        "lift       how many times the weight of their neighbours they have",
        "distance   of source and target, weighted by |α|, of the layer's median head",
        f"Measured on {ROWS} rows of {span} random tokens, written twice"
        + ("." if text is None else f";\nseparator on {short(text)}"),
    ]
    return "\n".join(lines)


def _needs(label: str) -> str:
    return f"({100 * SHARES[label]:.0f} %)"


def plain(head: Head) -> dict[str, Any]:
    """Return a head as plain values; what could not be measured is None."""
    values = dataclasses.asdict(head) | {"label": head.label}
    for name in ("shares", "lifts"):
        values[name] = {label: None if math.isnan(value) else value for label, value in values[name].items()}
    return values
