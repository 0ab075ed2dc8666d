"""The reference names everything public, every page is in the contents, and what is wrong with a site is found."""

import re
from pathlib import Path

import pytest

from docs.check_site import Page, problems, public_names

DOCS = Path(__file__).parents[2] / "docs"
DIRECTIVE = re.compile(
    r"^\.\. (?:auto|py:)?(?:function|class|exception|method|property|data|module):: ([\w.]+)", re.MULTILINE
)
TREE = re.compile(r"^```\{toctree\}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WHOLE = """<html><head><link rel="stylesheet" href="style.css"><script src="a.js"></script></head><body id="top">
<a href="page.html#there">there</a> <a href="https://arxiv.org/abs/2403.01590">a paper</a> <a href="#top">up</a>
<iframe srcdoc="&lt;img src='data:image/png;base64,'&gt;"></iframe></body></html>"""


@pytest.fixture
def site(tmp_path):
    """A site of three pages without a fault, whose reference names everything public."""
    (tmp_path / "api").mkdir()
    (tmp_path / "index.html").write_text(WHOLE, encoding="utf-8")
    (tmp_path / "page.html").write_text('<p id="there">here</p>', encoding="utf-8")
    (tmp_path / "style.css").write_text("p { background: url(picture.png) }", encoding="utf-8")
    named = "".join(f'<dt id="{name}">' for name in public_names())
    (tmp_path / "api" / "all.html").write_text(named, encoding="utf-8")
    return tmp_path


def documented():
    return [name for page in (DOCS / "api").glob("*.md") for name in DIRECTIVE.findall(page.read_text("utf-8"))]


def test_every_public_name_is_in_the_reference_once():
    found = documented()
    assert [name for name in public_names() if name not in found] == []
    assert sorted({name for name in found if found.count(name) > 1}) == []


def test_every_page_is_in_the_contents():
    listed = {
        (page.parent / line.strip()).relative_to(DOCS).as_posix()
        for page in DOCS.rglob("*.md")
        for tree in TREE.findall(page.read_text("utf-8"))
        for line in tree.splitlines()
        if line.strip() and not line.startswith(":")
    }
    pages = {page.relative_to(DOCS).with_suffix("").as_posix() for page in DOCS.rglob("*.md")}
    assert pages - {"index"} == listed


def test_a_site_without_fault_has_no_problems(site):
    assert list(problems(site)) == []


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("page.html#there", "pages.html", "index.html links to pages.html, which does not exist"),
        ("page.html#there", "page.html#elsewhere", "index.html links to page.html#elsewhere, a place that is not on"),
        ("#top", "#bottom", "index.html links to #bottom, a place that is not on that page"),
        ('src="a.js"', 'src="https://cdn.net/a.js"', "index.html loads https://cdn.net/a.js"),
        ('src="a.js"', 'src="//cdn.net/a.js"', "index.html loads //cdn.net/a.js"),
        ("style.css", "http://cdn.net/style.css", "index.html loads http://cdn.net/style.css"),
        ("data:image/png;base64,", "https://cdn.net/a.png", "index.html loads https://cdn.net/a.png"),
        ("<body", "<style>@import 'https://cdn.net/a.css';</style><body", "index.html loads https://cdn.net/a.css"),
    ],
)
def test_a_fault_on_a_page_is_told(site, before, after, told):
    assert before in WHOLE
    (site / "index.html").write_text(WHOLE.replace(before, after), encoding="utf-8")
    (found,) = problems(site)
    assert found.startswith(told)


def test_fonts_from_elsewhere_and_missing_names_are_told(site):
    (site / "style.css").write_text("@font-face { src: url('https://fonts.net/a.woff2') }", encoding="utf-8")
    named = (site / "api" / "all.html").read_text("utf-8").replace('id="mambascope.explain"', "")
    (site / "api" / "all.html").write_text(named, encoding="utf-8")
    assert list(problems(site)) == [
        "style.css loads https://fonts.net/a.woff2",
        "the reference lacks mambascope.explain",
    ]


def test_a_folder_without_pages_is_told(tmp_path):
    assert next(problems(tmp_path)).endswith("holds no pages")


def test_a_link_of_a_page_is_no_load():
    assert Page('<a href="https://arxiv.org">paper</a>').loads == []
