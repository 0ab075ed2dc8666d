"""The comparison as a page: one file, no network and no script, with every number of its evidence."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from string import Template

import numpy as np
from jaxtyping import Float
from PIL import Image

from mambascope.attribution import Attribution
from mambascope.show.comparison import Compared, require_comparable, same_name
from mambascope.show.evidence import evidence_sentences
from mambascope.show.overlay import ground_of, overlay
from mambascope.show.page_parts import asset, document
from mambascope.show.picture_words import INDEPENDENT, sees, shares, source_name, what_is_explained
from mambascope.show.screen import number, percent
from mambascope.show.tokens import visible
from mambascope.trust import caution

JPEG_QUALITY = 90


def comparison_page(rows: Sequence[Compared], columns: Sequence[str], command: str | None = None) -> str:
    """Return a page that shows the comparison and loads nothing: a table of pictures, numbers beneath each.

    Args:
        rows: One per model.
        columns: The columns' names.
        command: The command line that makes the page again.

    Raises:
        InputError: as `require_comparable` does.
    """
    require_comparable(rows, columns)
    first = rows[0].first
    name = str(first.diagnostics.get("picture", "a picture"))
    made = f"<pre>{_text(command)}</pre>" if command else "a call from Python; no command was recorded"
    title = _text(f"What models looked at in {name}")
    body = Template(asset("comparison.html")).substitute(
        title=title,
        columns="".join(f'<th scope="col">{_text(column)}</th>' for column in columns),
        rows="\n".join(_row(row, columns) for row in rows),
        command=made,
    )
    return document(title, body, ["page.css", "comparison.css"], "img-src data:")


def _row(row: Compared, columns: Sequence[str]) -> str:
    first = row.first
    assert first.grid is not None
    picture = ground_of(first.image, first.grid).numpy() / 255
    seen = "".join(f"<br>{_text(name)} {percent(share)}" for name, share in first.target.next_tokens[:3])
    seen = f"<br>{INDEPENDENT}:{seen}" if seen and first.target.independent else seen
    says = f"{_text(first.model.name)}, {_text(first.model.family)}, {first.model.layers} layers"
    if "preparation" in first.diagnostics:
        seen += f'<br><span class="quiet">{_text(str(first.diagnostics["preparation"]))}</span>'
    cells = [f'<th scope="row">{_picture(picture, "the picture that the model read")}<p><b>{says}</b>{seen}</p></th>']
    for result, reason, column in zip(row.results, row.reasons, columns, strict=True):
        cells.append(f'<td class="none"><p>{_text(reason)}</p></td>' if result is None else _cell(result, column))
    return f"<tr>{''.join(cells)}</tr>"


def _cell(result: Attribution, column: str) -> str:
    drawn = overlay(result, stretched=True)
    top = result.top(3)
    told = ", ".join(f"{source_name(source.token)} {number(source.score)} ({percent(source.share)})" for source in top)
    about = f"{result.method}, {sees(result) or result.model.name}: most from {told}"
    asked = "" if result.target.value is None else f" = {number(result.target.value)}"
    named = "" if same_name(result.method, column) else f"<b>{_text(result.method)}</b><br>"
    evidence = " · ".join(evidence_sentences(result.diagnostics))
    words = caution(result.diagnostics)
    doubt = f'<p class="problem" role="note">Caution: {_text(words)}.</p>' if words else ""
    return (
        f"<td>{_picture(drawn, about)}<p>{named}{_text(what_is_explained(result))}{asked}<br>most from {_text(told)}"
        f"<br>{_text('; '.join(shares(result)))}"
        f'<br><span class="quiet">{_text(evidence)}</span></p>{doubt}</td>'
    )


def _picture(pixels: Float[np.ndarray, "h w 3"], about: str) -> str:
    """Return an image element that holds the picture itself."""
    file = io.BytesIO()
    Image.fromarray(np.rint(pixels * 255).astype(np.uint8)).save(file, "jpeg", quality=JPEG_QUALITY, subsampling=0)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return f'<img alt="{_text(about)}" src="data:image/jpeg;base64,{data}">'


def _text(words: str) -> str:
    return html.escape(visible(words), quote=True)
