"""One screen of text: what was explained, the shaded text, the top sources, the layers, the evidence."""

from __future__ import annotations

from rich.cells import cell_len
from rich.text import Text

from mambascope.attribution import WHOLE_MODEL, Attribution, Source
from mambascope.characters import character_starts, piece_names
from mambascope.methods.registry import METHODS
from mambascope.show.check import require_finite
from mambascope.show.excerpt import excerpt
from mambascope.show.footer import footer
from mambascope.show.palette import terminal_style
from mambascope.show.screen import Screen, keep_end, number, percent, quoted
from mambascope.show.source_tables import MARKED_SOURCES, source_table, target_table
from mambascope.show.tokens import visible

TEXT_LINES = 12
TOP_SOURCES = 10
RUNNERS_UP = 2
#: Cells of a model's name that are kept however narrow the screen is.
SHORTEST_NAME = 24


def text_blocks(attribution: Attribution, screen: Screen) -> tuple[Text, ...]:
    """Return one screen about the focused target of a text, part by part: shaded text, top sources, layers, evidence.

    On a terminal tokens are shaded: blue for scores that add, orange for those that take away. Where there is no colour
    (a pipe, a file, `NO_COLOR`) the top sources are in [brackets] instead.

    Raises:
        InputError: if a score is NaN or infinite, or the focused position is not in the result.
    """
    require_finite(attribution)
    top = attribution.top(TOP_SOURCES)
    table = target_table(attribution, screen) if attribution.targets else source_table(attribution, top, screen)
    return headline(attribution, screen), shaded_text(attribution, top, screen), table, footer(attribution, screen)


def headline(attribution: Attribution, screen: Screen) -> Text:
    """Return what was explained: method, model, layers, target, and what the model predicts there."""
    target, line = attribution.target, first_line(attribution, screen)
    if attribution.targets:
        what = "positions" if target.generated is None else "generated tokens"
        line.append(
            screen.fit(f"{len(attribution.targets)} {what} are listed below; the text shows the sources of this one:\n")
        )
    line.append(screen.fit(f"position {target.position} {quoted(target_name(attribution), 24)}"))
    if target.next_tokens:
        (best, probability), *others = target.next_tokens[: RUNNERS_UP + 1]
        line.append(screen.fit(" → predicts, each class by itself: " if target.independent else " → predicts "))
        line.append(screen.fit(f"{quoted(best, 24)} {percent(probability)}"), style="bold")
        if others:
            then = ", " if target.independent else ", then "
            line.append(screen.fit(then + ", ".join(f"{quoted(token, 16)} {percent(p)}" for token, p in others)))
    line.append("\n")
    if target.asked:
        value = "" if target.value is None else f" = {number(target.value)}"
        line.append(screen.fit("explains "))
        line.append(screen.fit(f"{visible(target.asked)}{value}\n"), style="bold")
    return line


def target_name(attribution: Attribution) -> str:
    """Return what to call the token in focus, which may be a part of a character."""
    return piece_names(attribution.tokens)[attribution.target.position]


def first_line(attribution: Attribution, screen: Screen) -> Text:
    """Return the method, the model, its family and layers, and on a line of its own what the method shows."""
    model, layers = attribution.model, attribution.axes["layer"]
    some = len(layers) != model.layers and layers[0] != WHOLE_MODEL
    explained = f"{len(layers)} of {model.layers}" if some else f"{model.layers}"
    facts = f" · {model.family} · {explained} layer{'s' if model.layers != 1 else ''}"
    room = screen.width - cell_len(attribution.method + facts) - 3
    name = keep_end(visible(model.name), max(room, SHORTEST_NAME))
    line = Text()
    line.append(screen.fit(attribution.method), style="bold")
    line.append(screen.fit(f" · {name}{facts}\n"))
    if attribution.method in METHODS:
        line.append(screen.fit(f"{METHODS[attribution.method].title}\n"), style="dim")
    return line


def shaded_text(attribution: Attribution, top: list[Source], screen: Screen) -> Text:
    """Return the text with every token shaded by its score, or its top sources in brackets where there is no colour.

    A character that several tokens share is shown once, by the largest of their scores.
    """
    row = attribution.row().tolist()
    starts = character_starts(attribution.tokens)
    focus = starts[attribution.target.position]
    largest = max(map(abs, row), default=0.0)
    marked = {source.position for source in top[:MARKED_SOURCES] if source.score} if not screen.coloured else set()
    shown = _words(attribution, starts, screen)
    if not screen.coloured:
        at = {starts[position] for position in marked}
        shown = [bracketed(word, j in at, j == focus, screen) if word else "" for j, word in enumerate(shown)]
    scores: dict[int, float] = {}
    for start, score in zip(starts, row, strict=True):
        scores[start] = max(scores.get(start, 0.0), score, key=abs)
    wanted = [starts[source.position] for source in top]
    runs = excerpt([*map(cell_len, shown)], focus, wanted, TEXT_LINES * screen.width)
    text, following = Text(), 0
    for run in runs:
        if run.start > following:
            text.append(screen.fit(" … "), style="dim")
        for j in run:
            style = terminal_style(scores.get(j, 0.0), largest) or ""
            text.append(shown[j], style=f"{style} bold underline" if j == focus else style)
        following = run.stop
    if following < len(shown):
        text.append(screen.fit(" …"), style="dim")
    text.append("\n")
    text.append_text(legend(attribution.signed, len(marked), len(shown) - sum(map(len, runs)), screen))
    if len(scores) < len(row):
        text.append("a character of several tokens is shown once, by the largest of their scores\n", style="dim")
    return text


def _words(attribution: Attribution, starts: list[int], screen: Screen) -> list[str]:
    """Return every token as the shaded text shows it: one that continues a character is shown with it."""
    names = piece_names(attribution.tokens)
    return [screen.fit(visible(name)) if starts[j] == j else "" for j, name in enumerate(names)]


def legend(signed: bool, marked: int, left_out: int, screen: Screen) -> Text:
    """Return what colours or brackets mean, and how many tokens are left out."""
    if not screen.coloured:
        says = f"[ ] the {marked} largest scores · »« the target" if marked else "»« the target; every score is zero"
        line = Text(screen.fit(says))
    else:
        line = Text()
        for hue, says in ((1.0, "adds"), (-1.0, "takes away")) if signed else ((1.0, "more colour, larger score"),):
            line.append("  ", style=terminal_style(hue, 1.0) or "")
            line.append(f" {says}  ", style="dim")
        line.append("underlined", style="dim underline")
        line.append(": the target", style="dim")
    if left_out:
        line.append(screen.fit(f" · {left_out} tokens left out (…)"), style="dim")
    line.append("\n")
    return line


def bracketed(token: str, marked: bool, focus: bool, screen: Screen) -> str:
    """Return a token with the signs that stand for colours: in brackets, or as the target."""
    word = token.lstrip(" ") or token
    space = token[: len(token) - len(word)]
    if marked:
        word = f"[{word}]"
    if focus:
        word = screen.fit(f"»{word}«")
    return space + word
