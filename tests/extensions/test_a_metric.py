"""Two new metrics in one file: how far from the target the scores lie, and from summed counts the share of top hits."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from jaxtyping import Float
from torch import Tensor, arange, tensor

from mambascope.errors import InputError
from mambascope.evaluate.fingerprint import Fingerprint
from mambascope.evaluate.metrics import registry
from mambascope.evaluate.metrics.alignment_error_rate import share
from mambascope.evaluate.metrics.registry import METRICS, Metric, find_metric, results_of
from mambascope.evaluate.report import latex_table, markdown_table, write_report
from mambascope.evaluate.run import run
from mambascope.evaluate.summary import summarise
from mambascope.evaluate.task import MainTable, Row, Sample

COUNT = 12


# --- what would be a file of evaluate/metrics/ ---


def distance_back(scores: Float[Tensor, "T L"]) -> Float[Tensor, " T"]:
    """Return the mean distance from the last token to the sources, weighed by the size of their scores."""
    sizes, back = scores.abs(), scores.shape[1] - 1 - arange(scores.shape[1])
    return (sizes * back).sum(dim=1) / sizes.sum(dim=1)


DISTANCE = Metric("distance_back", "lower", "mean distance to the sources, in tokens", "distance back")
HITS = Metric("top_hits", "higher", "share of targets whose top is right", "top hits", ("top_hit", "top_asked"), share)


# --- a task that reports them ---


@dataclass(frozen=True)
class Made:
    """Judges a method that scores near the target and finds the source, and one that does neither."""

    name: str = "made"
    default_models: Sequence[str] = ("none",)
    metrics: Sequence[str] = ("distance_back", "top_hits")
    main: Sequence[MainTable] = (MainTable(("distance_back", "top_hits")),)

    def samples(self, limit):
        return [Sample(f"s{k}", {"k": k}) for k in range(COUNT)][:limit]

    def data_hash(self):
        return "made"

    def check(self, loaded, methods):
        """Any will do."""

    def evaluate(self, loaded, sample, methods, seed):
        k, rows = sample.data["k"], []
        draw = random.Random(k)
        for method in methods:
            near = method == "near"
            scores = tensor([[0.1, -0.1, 1.0, 3.0] if near else [3.0, -1.0, 0.1, 0.1]]) + 0.01 * draw.random()
            rows.append(Row(method, "distance_back", float(distance_back(scores)[0])))
            rows.append(Row(method, "top_hit", 1.0 if near else 0.0))
            rows.append(Row(method, "top_asked", k + 1.0))
        return rows


# --- its tests ---


@pytest.fixture(autouse=True)
def registered():
    for metric in (DISTANCE, HITS):
        registry.register(metric)
    yield
    for metric in (DISTANCE, HITS):
        del METRICS[metric.name]


@pytest.fixture
def table(tmp_path):
    mark = Fingerprint("none", "none")
    made = run(Made(), None, ("far", "near"), tmp_path / "run", load=lambda name: None, fingerprint=lambda loaded: mark)
    return made.read().table


def test_the_distance_is_what_its_formula_says():
    assert distance_back(tensor([[0.0, 0.0, 2.0], [1.0, 0.0, -1.0]])).tolist() == [0.0, 1.0]


def test_tables_have_their_labels_and_the_better_one(table):
    (summary,) = summarise(table)
    assert [column.metric for column in summary.columns] == [DISTANCE, HITS], "counts are shown as their metric"
    assert {(c.metric.name, m) for (m, c), cell in summary.cells.items() if cell.best} == {
        ("distance_back", "near"),
        ("top_hits", "near"),
    }
    head, _, far, near = markdown_table(summary).splitlines()
    assert "distance back ↓" in head
    assert "top hits ↑" in head
    assert near.count("**") == 4
    assert far.count("**") == 0
    assert r"distance back $\downarrow$" in latex_table(summary)


def test_the_derived_one_is_a_share_of_sums_not_a_mean_of_shares(table):
    (summary,) = summarise(table)
    by_method = {method: cell.interval for (method, column), cell in summary.cells.items() if column.metric == HITS}
    assert by_method["near"].value == pytest.approx(COUNT / sum(range(1, COUNT + 1)))
    assert by_method["far"].value == 0.0
    assert results_of(["top_hit", "top_asked"]) == [HITS]
    assert [metric.name for metric in results_of(["top_hit"])] == ["top_hit"], "one count alone makes nothing"


def test_reports_draw_them(table, tmp_path):
    path = write_report(table, tmp_path / "report")
    assert "distance back ↓" in path.read_text(encoding="utf-8")
    assert (tmp_path / "report" / "made-distance_back.png").is_file()
    assert (tmp_path / "report" / "made-top_hits.png").is_file()


def test_variants_are_found_with_them():
    found = find_metric("distance_back:first")
    assert (found.label, found.better) == ("distance back (first)", "lower")
    assert find_metric("top_hits:sure").counts == ("top_hit:sure", "top_asked:sure")


def test_without_it_a_metric_is_not_ranked(table):
    del METRICS[DISTANCE.name]
    (summary,) = summarise(table)
    assert summary.columns[0].metric == Metric("distance_back", None)
    registry.register(DISTANCE)


def test_a_name_has_one_metric():
    assert registry.register(DISTANCE) is DISTANCE
    with pytest.raises(InputError, match="there is a metric named aer already"):
        registry.register(Metric("aer", "higher"))
    with pytest.raises(InputError, match="found 'aer:mine'"):
        registry.register(Metric("aer:mine", "lower"))
    assert METRICS["aer"].better == "lower"
