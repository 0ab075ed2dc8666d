"""Models and methods on one text, or two texts, on the screen: shaded texts under each other, and what differs most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from mambascope.errors import InputError
from mambascope.results.text_comparison import Agreement, ComparedRow, TextComparison
from mambascope.show.check import require_finite
from mambascope.show.evidence import signed_percent
from mambascope.show.excerpt import excerpt
from mambascope.show.palette import terminal_style
from mambascope.show.patching import patching_lines
from mambascope.show.screen import Screen, number, percent, quoted
from mambascope.show.source_tables import MARKED_SOURCES
from mambascope.show.text import bracketed, legend
from mambascope.show.tokens import visible
from mambascope.trust import caution

#: Lines of the screen that each text may take, how many columns are listed, and how many pairs of rows.
LINES, LISTED, PAIRS = 5, 8, 3

SHARES = "shares of the sum of absolute scores"
MERGED = "The tokenizers differ: scores are sums over the finest pieces that all of them have in common."
OTHER_TOKENS = "The rows explain different tokens, each model's likeliest; name a target to ask all about one."


def print_text_comparison(comparison: TextComparison, console: Console | None = None) -> None:
    """Print every row as a shaded text on one scale, two texts aligned, and the tokens where rows or texts differ most.

    Where there is no colour, the largest scores of each row are in [brackets].

    Args:
        comparison: What is compared.
        console: Where to print; by default standard output.

    Raises:
        InputError: if there is nothing to compare, or a score is not a finite number.
    """
    require_comparison(comparison)
    console = console or Console()
    screen = Screen.of(console)
    for part in _blocks(comparison, screen):
        console.print(part, width=screen.width, highlight=False, overflow="fold", end="")


def require_comparison(comparison: TextComparison) -> None:
    """Raise InputError if there is nothing to compare, or a score is not a finite number."""
    if not comparison.rows:
        raise InputError("there is nothing to compare: name at least one model and one method")
    for row in comparison.rows:
        for result in row.results:
            require_finite(result)


def notes(comparison: TextComparison) -> list[str]:
    """Return what a reader must know of a comparison besides its numbers, a sentence each."""
    asked = {row.results[0].target.asked for row in comparison.rows} - {""}
    doubts = dict.fromkeys(
        f"{row.name}: {words}." for row in comparison.rows for one in row.results if (words := caution(one.diagnostics))
    )
    return [
        *([MERGED] if comparison.merged else []),
        *([OTHER_TOKENS] if len(asked) > 1 else []),
        *doubts,
        *(f"Left out: {reason}." for reason in comparison.left_out),
    ]


def explained(row: ComparedRow) -> str:
    """Return what a row explains: its number in each text, with the change, and what the model predicts there."""
    first = row.results[0].target
    says = [f"explains position {first.position}"]
    if first.asked:
        numbers = [number(value) for value in row.values if value is not None]
        says = [f"{visible(first.asked)} = {' → '.join(numbers)}"]
        if len(numbers) == 2:
            says[0] += f" ({changed(float(row.values[1] or 0) - float(row.values[0] or 0))})"
    likeliest = [one.target.next_tokens[0] for one in row.results if one.target.next_tokens]
    predicted = [f"{quoted(token, 24)} {percent(share)}" for token, share in likeliest]
    return " · ".join([*says, *([f"predicts {' → '.join(predicted)}"] if predicted else [])])


def changed(difference: float) -> str:
    """Return a change with its sign."""
    return f"+{number(difference)}" if difference > 0 else number(difference)


def _blocks(comparison: TextComparison, screen: Screen) -> Iterator[Text]:
    several, signed = comparison.texts == 2, any(row.signed for row in comparison.rows)
    of_what = f"{SHARES} in the first text" if several else SHARES
    yield Text(screen.fit(f"one scale for all rows: {of_what}\n"), style="dim")
    runs = _shown(comparison, screen)
    for place, row in enumerate(comparison.rows):
        yield Text(screen.fit(f"{place + 1}  {row.results[0].method} · {visible(row.results[0].model.name)}\n"), "bold")
        yield Text(screen.fit(f"{explained(row)}\n"), style="dim")
        draw = _aligned if several else _stacked
        yield draw(comparison, row, runs, screen)
        if several:
            yield _change_table(comparison, place, screen)
    left_out = len(comparison.names[0]) - sum(map(len, runs))
    yield legend(signed, 0 if screen.coloured else MARKED_SOURCES, left_out, screen)
    if not several and len(comparison.rows) > 1:
        yield _contrast_table(comparison, screen)
    for result in comparison.patched:
        yield patching_lines(result, screen)
    for words in notes(comparison):
        yield Text(screen.fit(f"{words}\n"))


def _shown(comparison: TextComparison, screen: Screen) -> list[range]:
    """Return the columns that fit the screen: around the target, where rows or texts differ most, the top ones."""
    rows = range(len(comparison.rows))
    of_rows = [comparison.contrasts(row)[:LISTED] for row in (rows if comparison.texts == 2 else rows[:1])]
    wanted = [one.column for contrasts in of_rows for one in contrasts]
    wanted += [column for row in comparison.rows for column in _top(row)]
    cells = [max(_cells(column, screen)) for column in zip(*comparison.names, strict=True)]
    return excerpt(cells, comparison.rows[0].targets[0], [*comparison.changed, *wanted], LINES * screen.width)


def _top(row: ComparedRow, text: int = 0) -> list[int]:
    """Return the columns of a row's largest scores in a text."""
    sizes = row.scores[text].abs().nan_to_num()
    order = sizes.argsort(descending=True, stable=True)[:MARKED_SOURCES].tolist()
    return [column for column in order if sizes[column]]


def _cells(names: Sequence[str], screen: Screen) -> list[int]:
    """Return the width of names on the screen, with the signs that may stand around one."""
    return [cell_len(screen.fit(visible(name))) + 2 * (not screen.coloured) if name else 0 for name in names]


def _token(comparison: TextComparison, row: ComparedRow, text: int, column: int, screen: Screen) -> tuple[str, str]:
    """Return how a column of a row is written, and its style."""
    name, focus = comparison.names[text][column], column == row.targets[text]
    if not name:
        return "", ""
    word = screen.fit(visible(name))
    if not screen.coloured:
        return bracketed(word, column in _top(row, text), focus, screen), ""
    style = terminal_style(float(row.shares[text, column].nan_to_num()), comparison.largest) or ""
    return word, f"{style} bold underline" if focus else style


def _stacked(comparison: TextComparison, row: ComparedRow, runs: Sequence[range], screen: Screen) -> Text:
    """Return one text, shaded."""
    text = Text()
    for place, run in enumerate(runs):
        if place or run.start:
            text.append(screen.fit(" … "), style="dim")
        for column in run:
            text.append(*_token(comparison, row, 0, column, screen))
    if runs and runs[-1].stop < len(comparison.names[0]):
        text.append(screen.fit(" …"), style="dim")
    return text.append("\n")


def _aligned(comparison: TextComparison, row: ComparedRow, runs: Sequence[range], screen: Screen) -> Text:
    """Return two texts, shaded, under each other column by column, with a mark below the columns that differ."""
    text, differ = Text(), set(comparison.changed)
    lines, room = [Text(), Text(), Text()], screen.width
    for place, run in enumerate(runs):
        for column in run:
            both = [_token(comparison, row, which, column, screen) for which in (0, 1)]
            cells = max(cell_len(word) for word, _ in both)
            if lines[0].cell_len + cells + 3 > room and lines[0].cell_len:
                text.append_text(_block(lines))
                lines = [Text(), Text(), Text()]
            if column == run.start and (place or column):
                for line in lines[:2]:
                    line.append(screen.fit(" … "), style="dim")
                lines[2].append("   ")
            for line, (word, style) in zip(lines, both, strict=False):
                line.append(word, style=style)
                line.append(" " * (cells - cell_len(word)))
            lines[2].append(("^" if column in differ else " ") * cells)
    return text.append_text(_block(lines))


def _block(lines: Sequence[Text]) -> Text:
    block = Text()
    for line in lines:
        line.rstrip()
        if line.plain:
            block.append_text(line)
            block.append("\n")
    return block


def _change_table(comparison: TextComparison, place: int, screen: Screen) -> Text:
    """Return the columns whose scores changed most from the first text to the second."""
    row = comparison.rows[place]
    cells = max(screen.width - 49, 12)
    head = f"{'place':>5}  {'changed most':<{cells}} {'first':>10} {'second':>10} {'change':>10} {'share':>7}"
    table = Text(f"{head}\n", style="dim")
    for one in [found for found in comparison.contrasts(place) if found.difference][:LISTED]:
        first, second = row.scores.nan_to_num()[:, one.column].tolist()
        numbers = [number(first), number(second), changed(second - first)]
        said = " ".join(f"{entry:>10}" for entry in numbers) + f" {signed_percent(one.difference):>7}"
        _line(table, comparison, one.column, cells, said, screen)
    total = changed(float(row.scores[1].nansum() - row.scores[0].nansum()))
    return table.append(screen.fit(f"{'':>7}{'all scores together':<{cells}} {total:>32}\n")) if row.signed else table


def _contrast_table(comparison: TextComparison, screen: Screen) -> Text:
    """Return the columns where two rows are furthest apart, and how far those rows agree."""
    cells = max(screen.width - 47, 12)
    head = f"{'place':>5}  {'furthest apart':<{cells}} {'row: share':>13} {'row: share':>13} {'difference':>11}"
    table = Text(f"{head}\n", style="dim")
    for one in comparison.contrasts()[:LISTED]:
        both = [f"{row + 1}: {signed_percent(share):>8}" for row, share in zip(one.rows, one.shares, strict=True)]
        said = f"{both[0]:>13} {both[1]:>13} {signed_percent(one.difference):>11}"
        _line(table, comparison, one.column, cells, said, screen)
    for pair in comparison.agreements()[:PAIRS]:
        table.append(screen.fit(f"{agreement(pair)}\n"))
    return table


def agreement(pair: Agreement) -> str:
    """Return how far two rows agree, in words."""
    rho = "" if pair.rank_correlation is None else f", rank correlation {number(round(pair.rank_correlation, 2))}"
    first, second = (row + 1 for row in pair.rows)
    return f"rows {first} and {second}: {percent(pair.elsewhere)} lies elsewhere{rho}"


def _line(table: Text, comparison: TextComparison, column: int, cells: int, said: str, screen: Screen) -> None:
    token = set_cell_size(screen.fit(visible(comparison.named(column))), cells)
    table.append(screen.fit(f"{column:>5}  {token} {said}\n"), style="not dim")
