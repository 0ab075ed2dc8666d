"""The tables on the screen about a text: the sources of one target, or a line for each of several targets."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from mambascope.attribution import Attribution, Source, Target
from mambascope.characters import piece_names
from mambascope.show.screen import BAR_HUES, Screen, bar, number, percent, quoted

MARKED_SOURCES = 5
TARGET_LINES = 20
#: The least width at which the table of sources has room for bars.
FULL_TABLE = 60
#: Cells of each number that was measured.
MEASURED = 9


def source_table(attribution: Attribution, top: list[Source], screen: Screen) -> Text:
    """Return the top sources, one line each: rank, position, token, score, bar, share of the row's total.

    If removing them was measured, what the number explained lost follows. A narrow screen has no bars.
    """
    wide = screen.width >= FULL_TABLE
    lost = measured(attribution) if screen.width >= FULL_TABLE + 2 * MEASURED else {}
    after = f"{'cut':>{MEASURED}}{'zeroed':>{MEASURED}}" if lost else ""
    digits = max(len(str(len(attribution.tokens) - 1)), 3)
    place, gap = (8, "  ") if wide else (digits, " ")
    token_cells = 20 if wide else max(screen.width - digits - 24, 6)
    bar_cells = max(screen.width - 56 - len(after), 0) if wide else 0
    columns = f"{'top':>3} {'position' if wide else 'pos':>{place}}{gap}{'source':<{token_cells}} {'score':>10}"
    table = Text(f"{columns}{gap}{'':{bar_cells}}{' share':>{7 + wide}}{after}\n", style="dim")
    largest = abs(top[0].score) if top else 0.0
    for rank, source in enumerate(top, start=1):
        token = set_cell_size(screen.fit(quoted(source.token, token_cells)), token_cells)
        score = screen.fit(number(source.score))
        table.append(f"{rank:>3} {source.position:>{place}}{gap}{token} {score:>10}{gap}", style="not dim")
        hue = BAR_HUES["negative" if source.score < 0 else "positive"]
        table.append(screen.fit(bar(source.score, largest, bar_cells)), style=f"not dim {hue}")
        table.append(f"{percent(source.share):>{7 + wide}}", style="not dim")
        drops = ("" if drop is None else number(drop) for drop in lost.get(source.position, ()))
        table.append(screen.fit("".join(f"{drop:>{MEASURED}}" for drop in drops) + "\n"), style="not dim")
    others = len(attribution.top(len(attribution.tokens))) - len(top)  # those before the target, or all that it sees
    if others > 0:
        rest = percent(max(0.0, 1.0 - sum(source.share for source in top)))
        label = f"{others} other source{'s' if others > 1 else ''}"
        before = 4 + place + len(gap)
        table.append(f"{'':{before}}{label:<{screen.width - before - 7 - wide - len(after)}}{rest:>{7 + wide}}\n")
    table.append("share: absolute score over the sum of all absolute scores\n")
    if lost:
        table.append("cut: what the number loses when the mixers pass nothing of a source to the target\n")
        table.append("zeroed: what it loses when the embedding of the source is zero\n")
    return table


def measured(attribution: Attribution) -> dict[int, tuple[float | None, float | None]]:
    """Return what the number explained loses without each source that was removed, for the target in focus."""
    for one in attribution.diagnostics.get("verified", ()):
        if one["position"] == attribution.target.position:
            return dict(zip(one["sources"], zip(one["knockout"], one["occlusion"], strict=True), strict=True))
    return {}


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
        line = f"{target.position:>{digits}} {set_cell_size(screen.fit(quoted(token, cells)), cells)}  "
        room = screen.width - cell_len(line)
        sources: list[str] = []
        for source in attribution.top(MARKED_SOURCES, target.position):
            sign = "\u2212" if source.score < 0 else ""
            one = f"{quoted(source.token, cells)} {sign}{percent(source.share)}"
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
