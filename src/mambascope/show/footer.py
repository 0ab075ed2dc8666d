"""The end of every screen: the layers and their kinds as bars, the evidence, and where the page was written."""

from __future__ import annotations

from collections.abc import Mapping

from rich.cells import cell_len
from rich.text import Text

from mambascope.attribution import WHOLE_MODEL, Attribution
from mambascope.show.evidence import evidence_sentences, time_taken
from mambascope.show.screen import BAR_HUES, LEVELS, MARGIN, Screen, bar, percent, wrapped
from mambascope.show.tokens import visible
from mambascope.trust import caution

#: Cells that a bar needs to be drawn beside words.
SHORTEST_BAR = 4


def footer(attribution: Attribution, screen: Screen) -> Text:
    """Return the layers as one line of bars, the evidence, and where the page was written."""
    text = Text()
    text.append("layers    ", style="bold")
    text.append_text(_layer_line(attribution, screen))
    if shares := attribution.kind_shares():
        text.append(f"{'kinds':<{MARGIN}}", style="bold")
        text.append_text(_kind_line(shares, screen))
    facts = attribution.diagnostics
    _labelled(text, "evidence", " · ".join([*evidence_sentences(facts), *filter(None, [time_taken(facts)])]), screen)
    if words := caution(facts):
        _labelled(text, "caution", words, screen)
    if facts.get("written"):
        _labelled(text, "page", visible(str(facts["written"])), screen)
    text.right_crop(1)
    return text


def _labelled(text: Text, label: str, words: str, screen: Screen) -> None:
    """Append one entry of the footer, with a hanging indent where its words need several lines."""
    text.append(f"{label:<{MARGIN}}", style="bold")
    text.append(screen.fit(wrapped(words, screen.width - MARGIN)) + "\n")


def _layer_line(attribution: Attribution, screen: Screen) -> Text:
    layers = attribution.axes["layer"]
    if len(layers) == 1:
        return Text("taken together\n" if layers[0] == WHOLE_MODEL else f"only {layers[0]}\n")
    mass = attribution.layer_mass().tolist()
    total = sum(mass) or 1.0
    heaviest = max(range(len(mass)), key=mass.__getitem__)
    room = screen.width - MARGIN - len(f"{layers[0]}  {layers[-1]}")
    bars, per_bar = _pooled(mass, room)
    line = Text()
    line.append(f"{layers[0]} ", style="dim")
    line.append(screen.fit("".join(_level(value, max(bars)) for value in bars)), style=BAR_HUES["positive"])
    line.append(f" {layers[-1]}", style="dim")
    says = f"most in layer {layers[heaviest]} ({percent(mass[heaviest] / total)})"
    if per_bar > 1:
        says += f" · {per_bar} layers per bar"
    beside = room - len(bars) >= len(says) + 3
    line.append("   " if beside else "\n" + " " * MARGIN)
    line.append(screen.fit(f"{says if beside else wrapped(says, screen.width - MARGIN)}\n"))
    return line


def _kind_line(shares: Mapping[str, float], screen: Screen) -> Text:
    """Return the share of each kind of mixer, the largest first, with bars where the screen has room."""
    said = [(visible(kind), percent(share), share) for kind, share in sorted(shares.items(), key=lambda one: -one[1])]
    room = screen.width - MARGIN - sum(cell_len(f"{kind}  {size}   ") for kind, size, _ in said)
    cells = room // len(said)
    if cells < SHORTEST_BAR:
        words = ", ".join(f"{kind} {size}" for kind, size, _ in said)
        return Text(f"{screen.fit(wrapped(words, screen.width - MARGIN))}\n")
    line = Text()
    for kind, size, share in said:
        line.append(screen.fit(f"{kind} "))
        line.append(screen.fit(bar(share, 1.0, cells).rstrip()), style=BAR_HUES["positive"])
        line.append(screen.fit(f" {size}   "))
    line.right_crop(3)
    line.append("\n")
    return line


def _level(value: float, largest: float) -> str:
    return LEVELS[min(int(value / largest * len(LEVELS)), len(LEVELS) - 1)] if largest > 0 else LEVELS[0]


def _pooled(values: list[float], cells: int) -> tuple[list[float], int]:
    """Return at most `cells` values, each the largest of several neighbours, and the number of these."""
    per_bar = max(1, -(-len(values) // max(cells, 8)))
    return [max(values[start : start + per_bar]) for start in range(0, len(values), per_bar)], per_bar
