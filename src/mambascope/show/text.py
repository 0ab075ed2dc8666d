"""One screen of text: what was explained, the shaded text, the top sources, the layers, the evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from mambascope.attribution import WHOLE_MODEL, Attribution, Source, Target
from mambascope.characters import character_starts, piece_names
from mambascope.methods.registry import METHODS
from mambascope.show.check import require_finite
from mambascope.show.evidence import evidence_sentences, time_taken
from mambascope.show.excerpt import excerpt
from mambascope.show.palette import terminal_style
from mambascope.show.tokens import visible
from mambascope.trust import caution

TEXT_LINES = 12
TOP_SOURCES = 10
MARKED_SOURCES = 5
RUNNERS_UP = 2
TARGET_LINES = 20
WIDEST = 100
#: The least width at which the table of sources has room for bars.
FULL_TABLE = 60
#: Cells of a model's name that are kept however narrow the screen is.
SHORTEST_NAME = 24
MARGIN = len("evidence  ")
BAR_HUES = {"positive": "#3a86d4", "negative": "#c4600a"}
LEVELS = "▁▂▃▄▅▆▇█"
EIGHTHS = " ▏▎▍▌▋▊▉"
# What to write where the output cannot encode these signs (an ASCII pipe, an old locale).
ASCII = str.maketrans(
    {"·": "-", "→": "->", "…": "...", "∅": "(empty)", "↵": "\\n", "⇥": "\\t", "»": ">>", "«": "<<", "█": "#"}
    | {"≤": "<=", "\u2212": "-", "‹": "<", "›": ">"}
    | dict.fromkeys(EIGHTHS[1:], "")
)
ASCII_LEVELS = str.maketrans(LEVELS, "_.-:=+*#")


@dataclass(frozen=True)
class Screen:
    """What the output can do: its width in cells, whether it has colours, and its encoding."""

    width: int
    coloured: bool
    encoding: str

    @classmethod
    def of(cls, console: Console) -> Screen:
        """Return the abilities of a console; lines never grow wider than is comfortable to read."""
        return cls(
            width=min(console.width, WIDEST),
            coloured=console.is_terminal and console.color_system is not None and not console.no_color,
            encoding=console.encoding if console.options.ascii_only else "utf-8",
        )

    def fit(self, text: str) -> str:
        """Return the text in signs that this output can encode."""
        if self.encoding != "utf-8":
            text = text.translate(ASCII_LEVELS).translate(ASCII)
        return text.encode(self.encoding, "backslashreplace").decode(self.encoding)


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
    line.append(screen.fit(f"position {target.position} {_quoted(target_name(attribution), 24)}"))
    if target.next_tokens:
        (best, probability), *others = target.next_tokens[: RUNNERS_UP + 1]
        line.append(screen.fit(" → predicts, each class by itself: " if target.independent else " → predicts "))
        line.append(screen.fit(f"{_quoted(best, 24)} {percent(probability)}"), style="bold")
        if others:
            then = ", " if target.independent else ", then "
            line.append(screen.fit(then + ", ".join(f"{_quoted(token, 16)} {percent(p)}" for token, p in others)))
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
    name = _keep_end(visible(model.name), max(room, SHORTEST_NAME))
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
        shown = [_bracketed(word, j in at, j == focus, screen) if word else "" for j, word in enumerate(shown)]
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
    text.append_text(_legend(attribution.signed, len(marked), len(shown) - sum(map(len, runs)), screen))
    if len(scores) < len(row):
        text.append("a character of several tokens is shown once, by the largest of their scores\n", style="dim")
    return text


def _words(attribution: Attribution, starts: list[int], screen: Screen) -> list[str]:
    """Return every token as the shaded text shows it: one that continues a character is shown with it."""
    names = piece_names(attribution.tokens)
    return [screen.fit(visible(name)) if starts[j] == j else "" for j, name in enumerate(names)]


def source_table(attribution: Attribution, top: list[Source], screen: Screen) -> Text:
    """Return the top sources, one line each: rank, position, token, score, bar, share of the row's total.

    A narrow screen has no bars.
    """
    wide = screen.width >= FULL_TABLE
    digits = max(len(str(len(attribution.tokens) - 1)), 3)
    place, gap = (8, "  ") if wide else (digits, " ")
    token_cells = 20 if wide else max(screen.width - digits - 24, 6)
    bar_cells = screen.width - 56 if wide else 0
    columns = f"{'top':>3} {'position' if wide else 'pos':>{place}}{gap}{'source':<{token_cells}} {'score':>10}"
    table = Text(f"{columns}{gap}{'':{bar_cells}}{' share':>{7 + wide}}\n", style="dim")
    largest = abs(top[0].score) if top else 0.0
    for rank, source in enumerate(top, start=1):
        token = set_cell_size(screen.fit(_quoted(source.token, token_cells)), token_cells)
        score = screen.fit(number(source.score))
        table.append(f"{rank:>3} {source.position:>{place}}{gap}{token} {score:>10}{gap}", style="not dim")
        hue = BAR_HUES["negative" if source.score < 0 else "positive"]
        table.append(screen.fit(_bar(source.score, largest, bar_cells)), style=f"not dim {hue}")
        table.append(f"{percent(source.share):>{7 + wide}}\n", style="not dim")
    others = len(attribution.top(len(attribution.tokens))) - len(top)  # those before the target, or all that it sees
    if others > 0:
        rest = percent(max(0.0, 1.0 - sum(source.share for source in top)))
        label = f"{others} other source{'s' if others > 1 else ''}"
        before = 4 + place + len(gap)
        table.append(f"{'':{before}}{label:<{screen.width - before - 7 - wide}}{rest:>{7 + wide}}\n")
    table.append("share: absolute score over the sum of all absolute scores\n")
    return table


def target_table(attribution: Attribution, screen: Screen) -> Text:
    """Return a line for each target: its position, the token that is explained, and the sources that it drew most from.

    Those around the one in focus are shown; if there are more, they are left to the page and the files.
    """
    shown = _around(attribution)
    explains = attribution.target.asked or attribution.target.generated is not None
    names = piece_names(attribution.tokens)
    digits = max(len(str(len(attribution.tokens) - 1)), 3)
    cells = min(20, max(screen.width // 4, 8))
    head = "predicts" if explains and attribution.target.next_tokens else "token"
    table = Text(f"{'pos':>{digits}} {head:<{cells}}  drew most from\n", style="dim")
    for target in shown:
        token = _explained_token(target, names)
        line = f"{target.position:>{digits}} {set_cell_size(screen.fit(_quoted(token, cells)), cells)}  "
        room = screen.width - cell_len(line)
        sources: list[str] = []
        for source in attribution.top(MARKED_SOURCES, target.position):
            sign = "\u2212" if source.score < 0 else ""
            one = f"{_quoted(source.token, cells)} {sign}{percent(source.share)}"
            if source.score and cell_len(" · ".join([*sources, one])) <= room:
                sources.append(one)
        style = "bold not dim" if target == attribution.target else "not dim"
        table.append(screen.fit(line + " · ".join(sources)) + "\n", style=style)
    left_out = len(attribution.targets) - len(shown)
    if left_out:
        table.append(f"{'':{digits}} {left_out} more: see the page, or --json\n")
    table.append("share: absolute score over the sum of all absolute scores\n")
    return table


def _around(attribution: Attribution) -> tuple[Target, ...]:
    """Return the targets that are listed: as many as fit, the one in focus among them."""
    targets = attribution.targets
    focus = [one.position for one in targets].index(attribution.target.position)
    start = min(max(focus - TARGET_LINES // 2, 0), max(len(targets) - TARGET_LINES, 0))
    return targets[start : start + TARGET_LINES]


def _explained_token(target: Target, names: Sequence[str]) -> str:
    """Return the token that a row explains: the generated one, the likeliest next one, or the one at its position."""
    if target.generated is not None:
        return names[target.generated]
    if target.asked and target.next_tokens:
        return target.next_tokens[0][0]
    return names[target.position]


def footer(attribution: Attribution, screen: Screen) -> Text:
    """Return the layers as one line of bars, the evidence, and where the page was written."""
    text = Text()
    text.append("layers    ", style="bold")
    text.append_text(_layer_line(attribution, screen))
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


def wrapped(words: str, width: int) -> str:
    """Return words broken into lines of a width, all but the first indented by the margin of the labels."""
    lines, line = [], ""
    for word in words.split(" "):
        if line and cell_len(line) + 1 + cell_len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return ("\n" + " " * MARGIN).join([*lines, line])


def percent(share: float) -> str:
    """Return a share as a percentage in which a small share is never rounded to zero: `<0.1 %`, `12.3 %`, `100 %`."""
    if 0 < share < 0.001:
        return "<0.1 %"
    return f"{100 * share:.3g} %" if share >= 0.9995 else f"{100 * share:.1f} %"


def number(score: float) -> str:
    """Return a score with four significant digits, and a true minus sign."""
    return f"{score:.4g}".replace("-", "\u2212", 1) if score < 0 else f"{score:.4g}"


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


def _legend(signed: bool, marked: int, left_out: int, screen: Screen) -> Text:
    if not screen.coloured:
        says = f"[ ] the {marked} largest scores · »« the target" if marked else "»« the target; every score is zero"
        legend = Text(screen.fit(says))
    else:
        legend = Text()
        for hue, says in ((1.0, "adds"), (-1.0, "takes away")) if signed else ((1.0, "more colour, larger score"),):
            legend.append("  ", style=terminal_style(hue, 1.0) or "")
            legend.append(f" {says}  ", style="dim")
        legend.append("underlined", style="dim underline")
        legend.append(": the target", style="dim")
    if left_out:
        legend.append(screen.fit(f" · {left_out} tokens left out (…)"), style="dim")
    legend.append("\n")
    return legend


def _bracketed(token: str, marked: bool, focus: bool, screen: Screen) -> str:
    word = token.lstrip(" ") or token
    space = token[: len(token) - len(word)]
    if marked:
        word = f"[{word}]"
    if focus:
        word = screen.fit(f"»{word}«")
    return space + word


def _quoted(token: str, cells: int) -> str:
    """Return the token as Python writes it, so that spaces and line breaks show, cut to a width."""
    written = repr(token)
    if cell_len(written) <= cells:
        return written
    return set_cell_size(written, cells - 1).rstrip() + "…"


def _keep_end(name: str, cells: int) -> str:
    """Return a name cut at its front, since the end of a path says the most."""
    return name if len(name) <= cells else "…" + name[-max(cells - 1, 8) :]


def _bar(score: float, largest: float, cells: int) -> str:
    eighths = round(8 * cells * abs(score) / largest) if largest > 0 else 0
    bar = "█" * (eighths // 8) + (EIGHTHS[eighths % 8] if eighths % 8 else "")
    return bar.ljust(cells)


def _level(value: float, largest: float) -> str:
    return LEVELS[min(int(value / largest * len(LEVELS)), len(LEVELS) - 1)] if largest > 0 else LEVELS[0]


def _pooled(values: list[float], cells: int) -> tuple[list[float], int]:
    """Return at most `cells` values, each the largest of several neighbours, and the number of these."""
    per_bar = max(1, -(-len(values) // max(cells, 8)))
    return [max(values[start : start + per_bar]) for start in range(0, len(values), per_bar)], per_bar
