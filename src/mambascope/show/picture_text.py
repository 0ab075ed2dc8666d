"""One screen about a picture: what the model predicts, patches in block characters, top sources, evidence."""

from __future__ import annotations

import math
from itertools import zip_longest

import torch
from jaxtyping import Float
from rich.cells import cell_len, set_cell_size
from rich.text import Text
from torch import Tensor

from mambascope.attribution import Attribution
from mambascope.show.check import require_finite
from mambascope.show.footer import footer
from mambascope.show.palette import shade, terminal_style
from mambascope.show.picture_words import INDEPENDENT, shares, source_name, target_place, what_is_explained
from mambascope.show.screen import MARGIN, Screen, number, percent, wrapped
from mambascope.show.text import first_line
from mambascope.show.tokens import visible

TOP_SOURCES = 10
CLASSES = 3
#: Rows of patches that fit; if there are more, several are drawn as one.
MOST_ROWS = 20
TABLE = f"{'top':>3}  {'source':<13} {'score':>10} {'share':>7}"
GAP = 3
#: Cells that the patches need to be drawn beside the sources, and not above them.
BESIDE = 16
#: A patch without colours, from no score to the largest.
POSITIVE = ("  ", "\u2591\u2591", "\u2592\u2592", "\u2593\u2593", "\u2588\u2588")
NEGATIVE = ("  ", " -", "--", "-=", "==")
EXPLAINED = "[]"
#: What replaces the blocks where the output cannot encode them.
ASCII_BLOCKS = str.maketrans("\u2591\u2592\u2593\u2588", ".:*#")


def picture_blocks(attribution: Attribution, screen: Screen) -> tuple[Text, ...]:
    """Return one screen about the focused target of a picture, part by part.

    Raises:
        InputError: if a score is NaN or infinite, or the focused position is not in the result.
    """
    require_finite(attribution)
    return headline(attribution, screen), patches_and_sources(attribution, screen), picture_footer(attribution, screen)


def headline(attribution: Attribution, screen: Screen) -> Text:
    """Return method and model, the likeliest classes, and what is explained."""
    target, line = attribution.target, first_line(attribution, screen)
    name = visible(str(attribution.diagnostics.get("picture", "the picture")))
    if target.next_tokens:
        line.append(screen.fit(f"{_short(name, 30)} → predicts{f', {INDEPENDENT}:' if target.independent else ''} "))
        for k, (label, share) in enumerate(target.next_tokens[:CLASSES]):
            between = "" if k == 0 else ", then " if k == 1 and not target.independent else ", "
            says = f"{between}{_short(visible(label), 24)} {percent(share)}"
            line.append(screen.fit(says), style="" if k else "bold")
        line.append("\n")
    value = "" if target.value is None else f" = {number(target.value)}"
    line.append(screen.fit(f"{visible(what_is_explained(attribution))}{value}\n"), style="bold")
    return line


def patches_and_sources(attribution: Attribution, screen: Screen) -> Text:
    """Return the patches' scores as they lie in the picture, with the top sources in numbers beside or below them."""
    scores = attribution.picture()
    beside = screen.width - len(TABLE) - GAP >= BESIDE
    room = screen.width - (len(TABLE) + GAP if beside else 0)
    size = max(math.ceil(2 * scores.shape[1] / room), math.ceil(scores.shape[0] / MOST_ROWS))
    drawn = drawn_patches(pooled(scores, size), _pooled_place(attribution, size), screen)
    sources = _sources(attribution, screen)
    width = 2 * math.ceil(scores.shape[1] / size) if beside else 0
    text = Text()
    for patches, source in zip_longest(drawn, sources) if beside else [(line, None) for line in drawn]:
        line = Text(" " * width) if patches is None else patches
        if source is not None:
            line.append(" " * GAP)
            line.append_text(source)
        text.append_text(line)
        text.append("\n")
    text.append_text(_legend(attribution, size, screen))
    for source in () if beside else sources:
        text.append_text(source)
        text.append("\n")
    return text


def pooled(scores: Float[Tensor, "rows columns"], size: int) -> Float[Tensor, "r c"]:
    """Return one score for each square of patches, the one of largest absolute value."""
    if size == 1:
        return scores
    rows, columns = (math.ceil(length / size) for length in scores.shape)
    padded = torch.zeros(rows * size, columns * size, dtype=torch.float32)
    padded[: scores.shape[0], : scores.shape[1]] = scores
    squares = padded.unflatten(0, (rows, size)).unflatten(2, (columns, size)).permute(0, 2, 1, 3).flatten(2)
    return squares.gather(2, squares.abs().argmax(dim=2, keepdim=True))[..., 0]


def drawn_patches(
    scores: Float[Tensor, "rows columns"], explained: tuple[int, int] | None, screen: Screen
) -> list[Text]:
    """Return a line per row of patches: in colours if the screen has them, else blocks, or dashes where negative."""
    largest = float(scores.abs().max())
    lines = []
    for row, values in enumerate(scores.tolist()):
        line = Text()
        for column, score in enumerate(values):
            style = (terminal_style(score, largest) or "") if screen.coloured else ""
            level = min(int(shade(score, largest) * len(POSITIVE)), len(POSITIVE) - 1)
            signs = "  " if screen.coloured else (NEGATIVE if score < 0 else POSITIVE)[level]
            line.append(_fit(EXPLAINED if (row, column) == explained else signs, screen), style=style)
        lines.append(line)
    return lines


def picture_footer(attribution: Attribution, screen: Screen) -> Text:
    """Return what was done to the picture, the layers as one line of bars, the evidence."""
    text = Text()
    if attribution.diagnostics.get("preparation"):
        text.append("picture   ", style="bold")
        words = visible(str(attribution.diagnostics["preparation"]))
        text.append(screen.fit(wrapped(words, screen.width - MARGIN)) + "\n")
    text.append_text(footer(attribution, screen))
    return text


def _sources(attribution: Attribution, screen: Screen) -> list[Text]:
    lines = [Text(TABLE, style="dim")]
    top = attribution.top(TOP_SOURCES)
    for rank, source in enumerate(top, start=1):
        name = set_cell_size(source_name(source.token), 13)
        score = screen.fit(number(source.score))
        lines.append(Text(f"{rank:>3}  {name} {score:>10} {percent(source.share):>7}"))
    others = len(attribution.tokens) - len(top)
    if others > 0:
        rest = percent(max(0.0, 1.0 - sum(source.share for source in top)))
        lines.append(Text(f"     {f'{others} others':<13} {'':>10} {rest:>7}", style="dim"))
    return lines


def _legend(attribution: Attribution, size: int, screen: Screen) -> Text:
    legend = Text()
    if screen.coloured:
        kinds = ((1.0, "adds"), (-1.0, "takes away")) if attribution.signed else ((1.0, "more colour, larger score"),)
        for hue, says in kinds:
            legend.append("  ", style=terminal_style(hue, 1.0) or "")
            legend.append(f" {says}  ", style="dim")
    else:
        legend.append(_fit("".join(sign[0] for sign in POSITIVE[1:]), screen))
        legend.append(" adds, -= takes away" if attribution.signed else " larger scores", style="dim")
    parts = []
    if target_place(attribution) is not None:
        parts.append("[] what is explained")
    if size > 1:
        parts.append(f"{size} x {size} patches as one")
    if parts:
        legend.append(screen.fit("  " + " · ".join(parts)), style="dim")
    legend.append("\n")
    legend.append(screen.fit(" · ".join(shares(attribution))) + "\n", style="dim")
    return legend


def _pooled_place(attribution: Attribution, size: int) -> tuple[int, int] | None:
    place = target_place(attribution)
    return None if place is None else (place[0] // size, place[1] // size)


def _fit(signs: str, screen: Screen) -> str:
    return signs if screen.encoding == "utf-8" else signs.translate(ASCII_BLOCKS)


def _short(name: str, cells: int) -> str:
    return name if cell_len(name) <= cells else set_cell_size(name, cells - 1).rstrip() + "\u2026"
