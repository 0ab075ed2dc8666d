"""The tables of docs/papers/: every published line has figures of ours beside it, as the generated pages print them."""

import pytest

from benchmarks import published_beside_ours
from benchmarks.published import PUBLISHED
from benchmarks.published_beside_ours import DOCS, MEASURED, beside, table_of


@pytest.mark.parametrize("task", MEASURED)
def test_every_published_line_has_its_counterpart(task):
    table, _, _ = beside(task).partition("\n\n")
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    assert {(method, model, figures) for method, model, figures, _ in PUBLISHED[task][1]} == {
        tuple(row[:3]) for row in rows
    }
    page = (DOCS / MEASURED[task].page).read_text(encoding="utf-8")
    for *_, ours, by in rows:
        method = by.split("`")[1]
        assert any(
            line.startswith(f"| {method} |") and all(value in line for value in ours.split(" / "))
            for line in page.splitlines()
        )


def test_numbers_are_those_of_the_named_column():
    found = table_of("evaluation.md", "copying")
    line = next(
        line for line in (DOCS / "evaluation.md").read_text("utf-8").partition("## copying")[2].splitlines()
        if line.startswith("| mamba-lrp |")
    )  # fmt: skip
    cells = [cell.strip(" *\\") for cell in line.split("|")[2:-1]]
    assert cells[4].startswith(found["mamba-lrp", "zoo:copying-mamba2", "AP ↑"])


def test_what_has_no_counterpart_is_named(monkeypatch):
    with pytest.raises(SystemExit, match=r"evaluation\.md has no section weaving"):
        table_of("evaluation.md", "weaving")
    monkeypatch.setitem(published_beside_ours.METHODS, "MambaLRP", ("no-method",))
    with pytest.raises(SystemExit, match="says nothing of MambaLRP on zoo:copying-mamba"):
        beside("copying")
