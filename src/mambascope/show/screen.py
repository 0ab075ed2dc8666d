"""What a terminal or a pipe can show, and how numbers, names and bars are written there."""

from __future__ import annotations

from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.console import Console

WIDEST = 100
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


def quoted(token: str, cells: int) -> str:
    """Return the token as Python writes it, so that spaces and line breaks show, cut to a width."""
    written = repr(token)
    if cell_len(written) <= cells:
        return written
    return set_cell_size(written, cells - 1).rstrip() + "…"


def keep_end(name: str, cells: int) -> str:
    """Return a name cut at its front, since the end of a path says the most."""
    return name if len(name) <= cells else "…" + name[-max(cells - 1, 8) :]


def bar(score: float, largest: float, cells: int) -> str:
    """Return a bar for a score's size, which fills its cells for the largest."""
    eighths = round(8 * cells * abs(score) / largest) if largest > 0 else 0
    bar = "█" * (eighths // 8) + (EIGHTHS[eighths % 8] if eighths % 8 else "")
    return bar.ljust(cells)
