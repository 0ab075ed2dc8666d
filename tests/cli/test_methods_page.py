"""The page of methods and the table that the command reads are those of the registry, and the registry is complete."""

import re
from pathlib import Path

from mambascope.cli import methods_table
from mambascope.cli.listing_methods import TABLE, page, read_table
from mambascope.explanation.defaults import DEFAULT_METHOD, answering
from mambascope.methods.registry import METHODS

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_in_the_docs_is_up_to_date():
    assert (DOCS / "methods.md").read_text(encoding="utf-8") == page(), "run: make methods"


def test_the_table_that_the_command_reads_is_that_of_the_registry():
    assert TABLE.read_text(encoding="utf-8") == methods_table.written(), "run: make methods"
    assert [line["method"] for line in read_table()["methods"]] == list(METHODS)


def test_make_methods_writes_the_table_before_the_page_that_is_made_from_it():
    recipe = re.search(r"^methods:.*\n((?:\t.*\n)+)", (DOCS.parent / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    table, written = recipe[1].splitlines()
    assert table.endswith("-m mambascope.cli.methods_table")
    assert written.endswith("mambascope methods --markdown > docs/methods.md")


def test_every_method_says_what_it_needs_and_can_be_run():
    for name, method in METHODS.items():
        assert method.name == name
        assert (method.score is None) == (method.map is not None) == (method.scope == "layer")
        assert method.row is None or method.scope == "layer"
        assert method.whole_map is None or method.scope == "model"
        assert method.kinds is None or method.kinds, "it can read some kind of layer"
        assert not (method.asks and method.needs == "forward"), "a logit is reached by a gradient or an intervention"
        assert "arXiv" in method.paper
    assert DEFAULT_METHOD in METHODS


def test_the_defaults_are_what_the_table_of_agreement_supports():
    page = (DOCS / "agreement.md").read_text(encoding="utf-8")
    assert f"In size: {DEFAULT_METHOD} " in page
    assert f"With their sign: {answering()[0].name} " in page
