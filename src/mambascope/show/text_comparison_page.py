"""Models and methods on one text, or two texts, as a page: one file, no network and no script, with every number."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from string import Template

from mambascope.results.text_comparison import ComparedRow, Contrast, TextComparison
from mambascope.show.evidence import evidence_sentences, signed_percent
from mambascope.show.page_parts import asset, document
from mambascope.show.patching import patching_section
from mambascope.show.screen import number
from mambascope.show.shades import LEVELS, shade_class, shade_rules
from mambascope.show.text_comparison import SHARES, agreement, changed, explained, notes, require_comparison
from mambascope.show.tokens import visible

#: How many columns are listed, and how large a change is written below its column.
LISTED, WRITTEN = 12, 0.01

ONE = (
    "Every text is what one method drew from in one model. Colours are {shares}, on one scale for all. Point at a "
    "token to read its numbers; all of them are in the table below."
)
TWO = (
    "The two texts stand under each other, what differs is underlined, and the change of each share stands below it in "
    "percent. Colours are {shares} in the first text, on one scale for all. Point at a token to read its numbers; all "
    "of them are in the table below."
)


def text_comparison_page(comparison: TextComparison, command: str | None = None) -> str:
    """Return a page that shows the comparison and loads nothing.

    Args:
        comparison: What is compared.
        command: The command line that makes the page again.

    Raises:
        InputError: if there is nothing to compare, or a score is not a finite number.
    """
    require_comparison(comparison)
    several = comparison.texts == 2
    title = "What changed between two texts" if several else "What models and methods drew from in one text"
    contrasts = {one.column: one for one in comparison.contrasts()}
    draw = _aligned if several else _stacked
    sections = [
        _section(f"{place + 1} · {row.results[0].method} · {row.results[0].model.name}", _about(row), drawn)
        for place, row in enumerate(comparison.rows)
        for drawn in [draw(comparison, place, contrasts)]
    ]
    told = "".join(f"<li>{_text(words)}</li>" for words in notes(comparison))
    body = Template(asset("textcomparison.html")).substitute(
        title=title,
        how=(TWO if several else ONE).format(shares=SHARES),
        legend=_legend(any(row.signed for row in comparison.rows)),
        rows="\n".join(sections),
        differences="\n".join(
            map(patching_section, comparison.patched) if several else _difference_sections(comparison, contrasts)
        ),
        furthest="What changed most" if several else "Where two rows are furthest apart",
        tables=_change_tables(comparison) if several else _contrast_table(comparison),
        numbers=_numbers(comparison),
        notes=f"  <section><h2>Notes</h2><ul>{told}</ul></section>" if told else "",
        command=f"<pre>{_text(command)}</pre>" if command else "a call from Python; no command was recorded",
    )
    return document(title, body, ["page.css", "textcomparison.css"], "", shade_rules())


def _section(name: str, about: str, drawn: str) -> str:
    quiet = f'<p class="quiet">{about}</p>' if about else ""
    return f'  <section><h2>{_text(name)}</h2>{quiet}<p class="read">{drawn}</p></section>'


def _about(row: ComparedRow) -> str:
    texts = [""] if len(row.results) == 1 else ["first text: ", "second text: "]
    evidence = [" · ".join(evidence_sentences(result.diagnostics)) for result in row.results]
    lines = [explained(row), *(text + words for text, words in zip(texts, evidence, strict=True))]
    return "<br>".join(map(_text, lines))


def _stacked(comparison: TextComparison, place: int, contrasts: dict[int, Contrast]) -> str:
    row, parts = comparison.rows[place], []
    for column, name in enumerate(comparison.names[0]):
        score, share = float(row.scores[0, column]), float(row.shares[0, column])
        if not name:
            continue
        says = f"{name!r}: {number(score)}, {signed_percent(share)}" if score == score else f"{name!r}: not read"
        parts.append(_token(comparison, row, 0, column, f"{says}{_apart(contrasts.get(column))}"))
    return "".join(parts)


def _apart(contrast: Contrast | None) -> str:
    """Return which rows are furthest apart at a column, with both numbers."""
    if contrast is None:
        return ""
    both = [f"row {row + 1} {signed_percent(share)}" for row, share in zip(contrast.rows, contrast.shares, strict=True)]
    return f"\nfurthest apart: {both[0]}, {both[1]}, difference {signed_percent(contrast.difference)}"


def _aligned(comparison: TextComparison, place: int, _: dict[int, Contrast]) -> str:
    row, parts, differ = comparison.rows[place], [], set(comparison.changed)
    line = comparison.differences()[place][1]
    largest = float(line.abs().max())
    for column, change in enumerate(line.tolist()):
        first, second = row.scores.nan_to_num()[:, column].tolist()
        says = f"{comparison.named(column)}: {number(first)} → {number(second)} ({changed(second - first)})"
        both = "".join(_token(comparison, row, text, column, says) for text in (0, 1))
        written = signed_percent(change).removesuffix(" %") if abs(change) >= WRITTEN else ""
        mark = f'<i class="{shade_class(change, largest)}">{written}</i>'
        parts.append(f'<span class="pair{" differs" * (column in differ)}">{both}{mark}</span>')
    return "".join(parts)


def _token(comparison: TextComparison, row: ComparedRow, text: int, column: int, says: str) -> str:
    name = comparison.names[text][column]
    if not name:
        return "<span></span>"
    share = float(row.shares[text, column].nan_to_num())
    styles = [shade_class(share, comparison.largest), "target" if column == row.targets[text] else ""]
    return _span(name, " ".join(filter(None, styles)), says, broken=comparison.texts == 1)


def _span(name: str, style: str, says: str, *, broken: bool) -> str:
    written = _text(name) + ("\n" if broken and name.endswith("\n") else "")
    return f'<span class="{style}" title="{_text(says, lines=True)}">{written}</span>'


def _difference_sections(comparison: TextComparison, contrasts: dict[int, Contrast]) -> Iterable[str]:
    """Yield the text shaded by how far rows are apart."""
    for name, line in comparison.differences():
        largest, parts = float(line.abs().max()), []
        for column, (token, apart) in enumerate(zip(comparison.names[0], line.tolist(), strict=True)):
            says = f"{token!r}{_apart(contrasts.get(column))}"
            parts.append(_span(token, shade_class(apart, largest), says, broken=True) if token else "")
        yield _section(f"Difference: {name}", "on a scale of its own", "".join(parts))


def _legend(signed: bool) -> str:
    hues = [("plus", "adds"), ("minus", "takes away")] if signed else [("plus", "more colour, larger score")]
    spans = "".join(f'<span class="{hue}{LEVELS - 3}">{says}</span>' for hue, says in hues)
    return f"{spans} <u>underlined</u>: the target"


def _contrast_table(comparison: TextComparison) -> str:
    lines = [
        (
            one.column,
            comparison.named(one.column),
            *(f"{row + 1}: {signed_percent(share)}" for row, share in zip(one.rows, one.shares, strict=True)),
            signed_percent(one.difference),
        )
        for one in comparison.contrasts()[:LISTED]
    ]
    agree = "".join(f"<li>{_text(agreement(pair))}</li>" for pair in comparison.agreements())
    if not lines:
        return "<p>There is one row.</p>"
    return _table(("place", "token", "row: share", "row: share", "difference"), lines) + f"<ul>{agree}</ul>"


def _change_tables(comparison: TextComparison) -> str:
    tables = []
    for place, row in enumerate(comparison.rows):
        lines = []
        for one in [found for found in comparison.contrasts(place) if found.difference][:LISTED]:
            first, second = row.scores.nan_to_num()[:, one.column].tolist()
            numbers = (number(first), number(second), changed(second - first), signed_percent(one.difference))
            lines.append((one.column, comparison.named(one.column), *numbers))
        head = ("place", "token", "first text", "second text", "change", "change of share")
        tables.append(_table(head, lines, f"{place + 1} · {row.name}"))
    return "".join(tables)


def _numbers(comparison: TextComparison) -> str:
    texts = ("",) if comparison.texts == 1 else (", first", ", second")
    head = [f"{place}{text}" for place in range(1, len(comparison.rows) + 1) for text in texts]
    scores = [line.tolist() for row in comparison.rows for line in row.scores]
    lines = [
        (
            column,
            comparison.named(column),
            *("" if one[column] != one[column] else number(one[column]) for one in scores),
        )
        for column in range(len(comparison.names[0]))
    ]
    return _table(("place", "token", *head), lines, "scores of each row")


def _table(head: Sequence[str], lines: Iterable[Sequence[object]], caption: str = "") -> str:
    """Return a table whose second column is a token; the others are numbers."""
    kinds = ["name" if place == 1 else "number" for place in range(len(head))]
    top = "".join(f'<th scope="col" class="{kind}">{_text(name)}</th>' for kind, name in zip(kinds, head, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f'<td class="{k}">{_text(str(one))}</td>' for k, one in zip(kinds, line, strict=True))
        + "</tr>"
        for line in lines
    )
    named = f"<caption>{_text(caption)}</caption>" if caption else ""
    return f"<table>{named}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _text(words: str, *, lines: bool = False) -> str:
    """Return words as HTML; line breaks of our own may be kept."""
    written = "\n".join(map(visible, words.split("\n"))) if lines else visible(words) if words else ""
    return html.escape(written, quote=True)
