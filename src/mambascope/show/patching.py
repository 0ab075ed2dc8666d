"""What parts of one text's run bring back in another's: a table of layers and positions, on screen and page."""

from __future__ import annotations

import html
from collections.abc import Callable

from rich.cells import set_cell_size
from rich.text import Text

from mambascope.attribution import Attribution
from mambascope.characters import piece_names
from mambascope.show.evidence import signed_percent
from mambascope.show.palette import terminal_style
from mambascope.show.screen import LEVELS, Screen, number
from mambascope.show.shades import shade_class
from mambascope.show.tokens import visible

#: Positions that are listed on a screen, cells of one layer's share there, and of a token.
LISTED, CELL, TOKEN = 12, 5, 24
#: Shares below which a position is left out on a screen.
LITTLE = 0.005

PUT_IN = {
    "stream": "the stream that leaves the layer",
    "mixer": "the output of the layer's mixers",
    "state": "what the layer's mixers keep for later tokens",
}


def patching_lines(result: Attribution, screen: Screen) -> Text:
    """Return the share that comes back for each position, top ones only, in each layer."""
    text = Text(screen.fit(f"patching · {visible(result.model.name)}\n"), style="bold")
    text.append(screen.fit(f"{patching_words(result)}\n"), style="not bold dim")
    rows, names = result.scores[:, 0].nan_to_num(), pair_names(result)
    layers, room = result.axes["layer"], screen.width - TOKEN - 7
    written = len(layers) * CELL <= room
    head = "".join(f"{layer:>{CELL}}" for layer in layers) if written else f"  layers {layers[0]} to {layers[-1]}"
    text.append(screen.fit(f"{'place':>5}  {'% brought back':<{TOKEN}}{head}\n"), style="not bold dim")
    sizes = rows.abs().max(dim=0).values
    order = sizes.argsort(descending=True, stable=True)[:LISTED].tolist()
    for place in sorted(place for place in order if sizes[place] >= LITTLE):
        token = set_cell_size(screen.fit(names[place]), TOKEN)
        text.append(f"{place:>5}  {token}", style="not bold")
        for share in rows[:, place].tolist():
            style = terminal_style(share, 1.0) or "" if screen.coloured else ""
            cell = f"{_whole(share):>{CELL}}" if written else _level(share)
            text.append(screen.fit(cell), style=f"not bold {style}")
        text.append("\n")
    return text


def patching_words(result: Attribution) -> str:
    """Return what was put in, what comes back at once, and how exact the runs are."""
    found = result.diagnostics
    clean, corrupted = (number(found[name]) for name in ("clean", "corrupted"))
    return (
        f"put in: {PUT_IN[found['put_in']]}, from the first text into the second; % of the way that it brings the "
        f"{visible(result.target.asked)} back, from {corrupted} to {clean} · all at once "
        f"{signed_percent(found['together'])} · exact to {found['patching_error']:.1e} where the number is known"
    )


def pair_names(result: Attribution, write: Callable[[str], str] = repr) -> list[str]:
    """Return the token of each position, with the one that replaces it in the second text, each written in a way."""
    both = zip(piece_names(result.tokens), piece_names(result.diagnostics["other_tokens"]), strict=True)
    return [visible(write(first) if first == second else f"{write(first)} → {write(second)}") for first, second in both]


def patching_section(result: Attribution) -> str:
    """Return a section of a page: a table with a line for each position and a column for each layer."""
    layers, rows = result.axes["layer"], result.scores[:, 0]
    head = "".join(f'<th scope="col" class="number">{layer}</th>' for layer in layers)
    lines = []
    for place, name in enumerate(pair_names(result)):
        cells = "".join(_cell(share) for share in rows[:, place].tolist())
        lines.append(f'<tr><td class="number">{place}</td><td class="name">{html.escape(name)}</td>{cells}</tr>')
    title, words = f"Patching · {visible(result.model.name)}", html.escape(patching_words(result))
    top = f'<tr><th scope="col">place</th><th scope="col">token</th>{head}</tr>'
    caption = "<caption>% brought back, by position and layer</caption>"
    table = f'<table class="patching">{caption}<thead>{top}</thead><tbody>{"".join(lines)}</tbody></table>'
    about = f'<h2>{html.escape(title)}</h2><p class="quiet">{words}</p>'
    return f'  <section>{about}<div class="wide">{table}</div></section>'


def _cell(share: float) -> str:
    if share != share:
        return "<td></td>"
    return f'<td class="number {shade_class(share, 1.0)}">{_whole(share)}</td>'


def _whole(share: float) -> str:
    """Return a share in whole percent."""
    return str(round(100 * share)).replace("-", "\N{MINUS SIGN}")


def _level(share: float) -> str:
    """Return one sign for a share: a bar of its height, or a minus where it takes away."""
    if abs(share) < LITTLE:
        return " "
    return "\N{MINUS SIGN}" if share < 0 else LEVELS[min(int(share * len(LEVELS)), len(LEVELS) - 1)]
