"""The comparison of models: a row each, what could not be read said in its place, as a figure and as a page."""

import dataclasses
import re

import pytest
import torch

from browser import open_file
from mambascope.errors import InputError
from mambascope.grid import Grid
from mambascope.show.comparison import Compared
from mambascope.show.comparison_figure import comparison_figure, save_comparison
from mambascope.show.comparison_page import comparison_page
from mambascope.show.screen import percent
from show_results import HOSTILE, picture_result, result

COLUMNS = ("raw attention", "attribution", "relevance")
REASON = "mamba-lrp does not read attention layers"


def asked(attribution):
    target = dataclasses.replace(attribution.target, asked="logit of class 'rocket'", value=1.5)
    return dataclasses.replace(attribution, target=target)


def rows(names=("tabby cat", "rocket")):
    tall = Grid(6, 3, 0, 8, 8)
    first = Compared(
        (
            picture_result(method="raw-attention", names=names),
            asked(picture_result(method="mamba-attribution", names=names)),
            asked(picture_result(method="mamba-lrp", signed=True, names=names)),
        ),
        ("", "", ""),
    )
    second = Compared(
        (
            picture_result(tall, method="raw-attention", names=names),
            picture_result(tall, method="transformer-attribution", focus=5, names=names),
            None,
        ),
        ("", "", REASON),
    )
    return [first, second]


def test_the_figure_has_a_row_per_model_and_a_column_per_method():
    sheet = comparison_figure(rows(), COLUMNS)
    cells = sheet.get_axes()[:8]
    assert [axes.texts[0].get_text() for axes in cells[:4]] == ["picture", *COLUMNS]
    titles = [axes.get_title(loc="left").replace("\n", " ") for axes in cells]
    assert titles[0] == "made-up/vision-tiny predicts tabby cat 61.2 %"
    assert titles[1:4] == ["", "mamba-attribution: 'rocket'", "mamba-lrp: 'rocket'"]
    assert titles[5:7] == ["", "transformer-attribution"]
    assert len(cells[6].patches) == 2, "the patch that is explained is outlined"
    assert " ".join(cells[7].texts[0].get_text().split()) == REASON
    assert not cells[7].get_images()


def held_by_class(share):
    """A result whose class token holds this share of all sizes, and each patch as much of the rest."""
    attribution = picture_result(layers=1, single=True)
    patches = attribution.grid.tokens - 1
    attribution.scores[:] = (1 - share) / patches
    attribution.scores[:, :, attribution.grid.class_position] = share
    return attribution


@pytest.mark.parametrize(("share", "says"), [(0.993, True), (0.4, False)])
def test_a_cell_says_what_the_class_token_holds_and_warns_where_it_is_nearly_all(share, says):
    """Colours are scaled to the largest patch, so that a patch of 0.03 % is as deep as one of half."""
    row = Compared((held_by_class(share),), ("",))
    cell = comparison_figure([row], ["latim"]).get_axes()[1]
    rest = percent(1 - share)
    told = [f"class token {percent(share)}", f"patches together {rest}", f"largest patch {percent((1 - share) / 24)}"]
    assert cell.xaxis.label.get_text().split("\n") == told
    assert (cell.xaxis.label.get_fontweight() == "bold") is says
    assert "; ".join(told).replace("<", "&lt;") in comparison_page([row], ["latim"])


def test_the_caption_says_what_colours_do_not_and_that_classes_are_independent():
    def caption(of):
        return " ".join(comparison_figure(of, COLUMNS).get_supxlabel().split())

    assert "its deepest colour is its largest patch, however little that holds" in caption(rows())
    assert "if all tokens scored alike, each would hold 5.3 % (19 tokens) or 4.0 % (25 tokens)" in caption(rows())
    assert "judged by itself" not in caption(rows())
    assert "each class by itself" not in comparison_page(rows(), COLUMNS)
    several = [dataclasses.replace(row, results=tuple(map(independent, row.results))) for row in rows()]
    assert "Each class is judged by itself: several may be likely at once." in caption(several)
    assert "<br>each class by itself:<br>tabby cat 61.2 %<br>rocket" in comparison_page(several, COLUMNS)


def independent(attribution):
    if attribution is None:
        return None
    return dataclasses.replace(attribution, target=dataclasses.replace(attribution.target, independent=True))


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")])
def test_every_format_is_written(suffix, start, tmp_path):
    path = save_comparison(rows(HOSTILE[-9:-7]), ("$x$", *HOSTILE[:2]), tmp_path / f"x{suffix}")
    assert path.read_bytes().startswith(start)


def test_the_page_loads_nothing_and_names_stay_text():
    page = comparison_page(rows(HOSTILE[:2]), HOSTILE[:3], command=HOSTILE[1])
    assert not re.search(r"https?://", page)
    assert "<script" not in page
    assert page.count("<img") == 2 + 5
    assert all(source.startswith("data:image/jpeg;base64,") for source in re.findall(r'src="([^"]*)', page))
    assert "&lt;/script&gt;" in page


def test_the_page_says_the_numbers():
    page = comparison_page(rows(), COLUMNS, command="mambascope compare cat.png")
    for attribution in (one for row in rows() for one in row.results if one is not None):
        top = attribution.top(1)[0]
        name = "class token" if top.token == "class" else f"patch {top.token}"
        assert f"most from {name} {top.score:.4g}".replace("-", "\u2212") in page
    assert REASON in page
    assert "tabby cat 61.2 %" in page
    assert "explains &#x27;rocket&#x27;, read from the class token = 1.5" in page
    assert "mambascope compare cat.png" in page


@pytest.mark.browser
def test_the_page_opens_without_a_complaint(tmp_path):
    page = tmp_path / "page.html"
    page.write_text(comparison_page(rows(), COLUMNS), "utf-8")
    dom, messages = open_file(page)
    assert not messages
    assert len([tag for tag, _ in dom.elements if tag == "img"]) == 7


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(InputError, match="nothing to compare"):
        comparison_figure([], COLUMNS)
    with pytest.raises(InputError, match="a row of 3 results does not fit 2 columns"):
        comparison_figure(rows(), COLUMNS[:2])
    with pytest.raises(InputError, match="none of the methods relevance can read one of the models: it cannot"):
        comparison_page([Compared((None,), ("it cannot",))], ("relevance",))
    with pytest.raises(InputError, match="of a text"):
        comparison_page([Compared((result(),), ("",))], ("latim",))
    broken = picture_result()
    broken.scores[0, 0, 0] = torch.inf
    with pytest.raises(InputError, match="not finite"):
        comparison_page([Compared((broken,), ("",))], ("latim",))
