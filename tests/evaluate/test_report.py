"""Summaries, layer choice and reports of a long table, against tables worked by hand and with pandas alone."""

import csv
import io
import itertools
import re

import numpy as np
import pandas
import pyarrow
import pytest

from mambascope.errors import InputError
from mambascope.evaluate.bootstrap import mean_interval, paired_statistic_test, paired_test
from mambascope.evaluate.by_layer import at_layers, best_layers, layers_tables, values_by_layer
from mambascope.evaluate.metrics.alignment_error_rate import AlignmentCounts, alignment_error_rate
from mambascope.evaluate.metrics.registry import METRICS, Metric, find_metric, listed_metrics, results_of
from mambascope.evaluate.report import csv_table, file_stem, latex, latex_table, markdown_table, write_report
from mambascope.evaluate.report_figure import save_summary_figure, summary_figure
from mambascope.evaluate.summary import COLUMNS, summarise
from rounding import assert_same_numbers

METHODS = ("hidden_attention", "latim", "random")
MODELS = ("tiny-mamba", "tiny-mamba2")


def table(samples=40, seed=0):
    """AUC of three methods on two models (`latim` best, `hidden_attention` close, `random` far), and links of each."""
    generator = np.random.default_rng(seed)
    lines = []
    for model, sample in itertools.product(MODELS, range(samples)):
        luck = generator.normal(scale=0.05)
        for method, level in zip(METHODS, (0.79, 0.8, 0.5), strict=True):
            value = level + luck + generator.normal(scale=0.05)
            lines.append(("copying", model, method, -1, f"s{sample}", "roc_auc", value))
            right = generator.binomial(6, level)
            counts = AlignmentCounts(8, 6, right, right + 1).rows("union")
            lines += [("align", model, method, -1, f"s{sample}", name, float(n)) for name, n in counts.items()]
    return pandas.DataFrame(lines, columns=list(COLUMNS))


def of_task(summaries, task):
    return next(summary for summary in summaries if summary.task == task)


def test_means_by_pandas():
    frame = table()
    summary = of_task(summarise(frame), "copying")
    assert summary.methods == METHODS
    assert summary.models == MODELS
    means = frame[frame["metric"] == "roc_auc"].groupby(["model", "method"])["value"].mean()
    for (method, column), cell in summary.cells.items():
        assert cell.interval.value == pytest.approx(means[column.model, method])
        rows = frame[(frame.model == column.model) & (frame.method == method) & (frame.metric == "roc_auc")]
        assert_same_numbers(cell.interval, mean_interval(rows.sort_values("sample")["value"].to_numpy()))


def test_the_order_of_lines_changes_no_number():
    frame = table(samples=9)
    found, expected = summarise(frame.sample(frac=1, random_state=0)), summarise(frame)
    for task in ("copying", "align"):
        assert_same_numbers(of_task(found, task).cells, of_task(expected, task).cells)


def test_the_best_and_who_differs_from_it():
    frame = table()
    summary = of_task(summarise(frame), "copying")
    for column in summary.columns:
        cells = {method: summary.cells[method, column] for method in METHODS}
        best = max(METHODS, key=lambda method: cells[method].interval.value)
        assert [method for method in METHODS if cells[method].best] == [best]
        assert cells["random"].differs
        wide = frame[(frame.model == column.model) & (frame.metric == "roc_auc")].pivot(
            index="sample", columns="method", values="value"
        )
        for method in set(METHODS) - {best}:
            expected = paired_test(wide[method].to_numpy(), wide[best].to_numpy())
            assert_same_numbers(cells[method].against_best, expected)
        assert cells[best].against_best is None


def test_holms_correction_by_hand():
    frame = table(samples=12, seed=3)
    column = (summary := of_task(summarise(frame), "copying")).columns[0]
    tested = sorted(
        (cell.against_best.p_bootstrap, cell.p_adjusted)
        for (_, c), cell in summary.cells.items()
        if c == column and cell.against_best
    )
    (small, first), (large, second) = tested
    assert first == pytest.approx(min(1, 2 * small))
    assert second == pytest.approx(max(first, large))


def test_a_derived_metric_takes_the_place_of_its_counts():
    frame = table()
    summary = of_task(summarise(frame), "align")
    names = [column.metric.name for column in summary.columns if column.model == "tiny-mamba"]
    assert names == ["aer:union", "alignment_precision:union", "alignment_recall:union"]
    rows = frame[(frame.model == "tiny-mamba") & (frame.task == "align")]
    sums = rows.groupby(["method", "metric"])["value"].sum()
    column = summary.columns[0]
    assert column.metric.label == "AER (union)"
    tables = {}
    for method in METHODS:
        counts = AlignmentCounts(
            *(int(sums[method, f"aer_{name}:union"]) for name in ("links", "sure", "intersection_sure")),
            int(sums[method, "aer_intersection_possible:union"]),
        )
        assert summary.cells[method, column].interval.value == pytest.approx(counts.error_rate)
        assert summary.cells[method, summary.columns[1]].interval.value == pytest.approx(counts.precision)
        assert summary.cells[method, summary.columns[2]].interval.value == pytest.approx(counts.recall)
        wide = rows[rows.method == method].pivot(index="sample", columns="metric", values="value")
        tables[method] = wide[list(column.metric.counts)].to_numpy()
    best = min(METHODS, key=lambda method: summary.cells[method, column].interval.value)
    assert summary.cells[best, column].best
    expected = paired_statistic_test(tables["random"], tables[best], alignment_error_rate)
    assert_same_numbers(summary.cells["random", column].against_best, expected)


def test_arrow_tables_give_the_same():
    frame = table(samples=5)
    found, expected = summarise(pyarrow.Table.from_pandas(frame)), summarise(frame)
    assert_same_numbers([summary.cells for summary in found], [summary.cells for summary in expected])
    coded = pyarrow.table({name: pyarrow.array(frame[name]) for name in COLUMNS})
    coded = coded.set_column(2, "method", coded["method"].dictionary_encode()).append_column(
        "extra", pyarrow.nulls(len(frame), pyarrow.string())
    )
    assert_same_numbers([summary.cells for summary in summarise(coded)], [summary.cells for summary in expected])


@pytest.mark.parametrize("short", ["random", "latim"])
def test_tests_use_the_samples_that_both_have(short):
    frame = table()
    rest = frame[~((frame["method"] == short) & frame["sample"].isin([f"s{k}" for k in range(10)]))]
    summary = of_task(summarise(rest), "copying")
    column = summary.columns[0]
    assert summary.cells["latim", column].best
    assert summary.cells[short, column].interval.count == 30
    assert summary.cells["random", column].against_best.difference.count == 30
    assert "30 to 40 samples" in summary.note()


def test_tests_pair_a_sample_with_itself_where_methods_miss_different_ones():
    """Each has as many, so that samples paired by their order would have the right number and be the wrong ones."""
    method, best = "random", "latim"
    frame = table()
    frame = frame[frame["method"].isin((method, best))]
    first = (frame["method"] == method) & frame["sample"].isin([f"s{k}" for k in range(10)])
    last = (frame["method"] == best) & frame["sample"].isin([f"s{k}" for k in range(30, 40)])
    rest = frame[~(first | last)].sample(frac=1, random_state=1)  # the order of lines says nothing
    for task in ("copying", "align"):
        summary = of_task(summarise(rest), task)
        column = summary.columns[0]
        test = summary.cells[method, column].against_best
        assert summary.cells[best, column].best
        rows = frame[(frame["model"] == column.model) & (frame["task"] == task)]
        rows = rows[rows["sample"].isin([f"s{k}" for k in range(10, 30)])]
        names = list(column.metric.counts) or [column.metric.name]
        wide = rows.pivot(index="sample", columns=["method", "metric"], values="value").sort_index()
        ours, theirs = (wide[one][names].to_numpy() for one in (method, best))
        if column.metric.formula is None:
            expected = paired_test(ours[:, 0], theirs[:, 0])
        else:
            expected = paired_statistic_test(ours, theirs, column.metric.formula)
        assert_same_numbers(test, expected)
        assert test.difference.count == 20


def test_undefined_values_are_said():
    frame = table(samples=6)
    frame.loc[frame.index[frame["metric"] == "roc_auc"][:2], "value"] = np.nan
    summary = of_task(summarise(frame), "copying")
    assert "2 values were undefined" in summary.note()
    frame.loc[(frame["metric"] == "roc_auc") & (frame["method"] == "random"), "value"] = np.nan
    summary = of_task(summarise(frame), "copying")
    assert "| random | – | – |" in markdown_table(summary)
    assert csv_table(summary).splitlines()[-1].startswith("random,,,,0,6,0,")


def test_metrics_that_are_asked_for_and_their_direction():
    frame = table(samples=6)
    frame.loc[frame["metric"] == "roc_auc", "metric"] = "loss"
    summary = of_task(summarise(frame), "copying")
    assert not any(cell.best for cell in summary.cells.values())
    assert "not ranked" in summary.note()
    lower = {"loss": Metric("loss", "lower")}
    summary = of_task(summarise(frame, more=lower), "copying")
    assert summary.cells["random", summary.columns[0]].best
    align = frame[frame["task"] == "align"]
    (summary,) = summarise(align, metrics=["alignment_recall:union"])
    assert [column.metric.name for column in summary.columns] == ["alignment_recall:union"] * 2
    with pytest.raises(InputError, match="no metric 'roc'"):
        summarise(align, metrics=["roc"])


def test_names_of_metrics():
    assert find_metric("recall_at_k:5").label == "recall@K (5)"
    assert find_metric("recall_at_k:5").better == "higher"
    assert find_metric("aer:union").counts[0] == "aer_links:union"
    assert find_metric("nobody knows").better is None
    counts = [f"aer_{name}" for name in ("links", "sure", "intersection_sure", "intersection_possible")]
    assert [m.name for m in results_of(["seconds", *counts])] == [
        "seconds",
        "aer",
        "alignment_precision",
        "alignment_recall",
    ]
    assert [m.name for m in results_of(counts[:2])] == counts[:2]
    assert all(name == metric.name for name, metric in METRICS.items())


def test_tasks_list_metrics_by_name_or_their_own():
    listed = listed_metrics(
        [
            Metric("loss", "lower", "loss in bits"),
            Metric("aer:union", "higher", "ours is known better"),
            "recall_at_k:5",
            find_metric("accuracy").titled("share of films"),
        ]
    )
    assert list(listed) == ["loss", "aer:union", "recall_at_k:5", "accuracy"]
    assert listed["loss"] == Metric("loss", "lower", "loss in bits", label="loss in bits")
    assert listed["aer:union"] == find_metric("aer:union").titled("ours is known better")
    assert listed["aer:union"].better == "lower"
    assert listed["recall_at_k:5"] == find_metric("recall_at_k:5")
    assert listed["accuracy"].title == "share of films"
    assert listed["accuracy"].label == "accuracy"


def test_a_derived_metric_of_a_tasks_own_is_found_from_its_counts():
    own = Metric("hits", "higher", "share of hits", "hits", ("hit", "tried"), lambda hit, tried: hit / tried)
    more = listed_metrics([own, "seconds"])
    assert [m.name for m in results_of(["seconds", "hit:dev", "tried:dev"], more)] == ["seconds", "hits:dev"]
    assert find_metric("hits:dev", more).label == "hits (dev)"
    assert find_metric("hits:dev", more).formula is own.formula


def layered():
    """Two methods in three layers: `a` is best in layer 2 by AUC, `b` in layer 0, on either of two tasks."""
    values = {"a": (0.5, 0.6, 0.9), "b": (0.8, 0.7, 0.1)}
    lines = [
        (task, "m", method, layer, f"s{k}", metric, level + 0.01 * k + (0.001 if task == "test" else 0))
        for task in ("dev", "test")
        for method, levels in values.items()
        for layer, level in enumerate(levels)
        for k in range(4)
        for metric in ("roc_auc", "span_rank")
    ]
    return pandas.DataFrame(lines, columns=list(COLUMNS))


def test_the_best_layer_is_chosen_on_one_task_and_used_on_another():
    frame = layered()
    chosen = best_layers(frame[frame["task"] == "dev"], "roc_auc")
    assert dict(zip(chosen["method"], chosen["layer"], strict=True)) == {"a": 2, "b": 0}
    assert chosen["value"].tolist() == pytest.approx([0.915, 0.815])
    (summary,) = summarise(at_layers(frame[frame["task"] == "test"], chosen))
    assert summary.methods == ("a, best layer", "b, best layer")
    values = [summary.cells[method, summary.columns[0]].interval.value for method in summary.methods]
    assert values == pytest.approx([0.916, 0.816])
    # span_rank comes from the layer chosen by AUC, and is better when lower
    assert best_layers(frame, "span_rank")["layer"].tolist() == [0, 2, 0, 2]
    assert set(at_layers(frame, best_layers(frame, "roc_auc"))["task"]) == {"dev", "test"}


def test_the_best_layer_by_a_derived_metric():
    lines = []
    for layer, right in enumerate((1, 5, 3)):
        for sample in range(3):
            counts = AlignmentCounts(6, 6, right, right).rows()
            lines += [("align", "m", "a", layer, f"s{sample}", name, float(n)) for name, n in counts.items()]
    chosen = best_layers(pandas.DataFrame(lines, columns=list(COLUMNS)), "aer")
    assert chosen["layer"].tolist() == [1]
    assert chosen["value"].tolist() == pytest.approx([1 - 10 / 12])


def test_a_layer_of_its_own_can_be_summarised():
    summary = summarise(layered(), layer=1, metrics=["roc_auc"])[0]
    assert [summary.cells[m, summary.columns[0]].interval.value for m in "ab"] == pytest.approx([0.615, 0.715])


def test_every_layer_of_every_method_beside_each_other():
    frame = layered()
    found = values_by_layer(frame[frame["task"] == "dev"], "roc_auc").set_index(["method", "layer"])["value"]
    means = frame[(frame["task"] == "dev") & (frame["metric"] == "roc_auc")].groupby(["method", "layer"])["value"]
    assert found.to_dict() == pytest.approx(means.mean().to_dict())
    ((model, text),) = layers_tables(frame[frame["task"] == "test"], "roc_auc")
    assert model == "m"
    assert text.splitlines()[0] == "| method | 0 | 1 | 2 |"
    assert text.splitlines()[2] == "| a | 0.516 | 0.616 | **0.916** |"
    assert list(layers_tables(table(samples=2), "roc_auc")) == []


def test_a_report_shows_layers_by_the_first_metric(tmp_path):
    whole = layered()[lambda rows: rows["layer"] == 0].assign(layer=-1)
    text = write_report(pandas.concat([layered(), whole]), tmp_path / "report", resamples=100).read_text("utf-8")
    assert text.count("### m: AUC of each layer") == 2
    assert "| a | 0.516 | 0.616 | **0.916** |" in text


def test_no_layer_to_choose_from():
    with pytest.raises(InputError, match="no value of 'roc_auc' for single layers"):
        best_layers(table(samples=2), "roc_auc")
    with pytest.raises(InputError, match="'loss' is not ranked"):
        best_layers(layered(), "loss")
    with pytest.raises(InputError, match="no row of the whole model"):
        summarise(layered())


def test_markdown():
    summary = of_task(summarise(table()), "copying")
    lines = markdown_table(summary).splitlines()
    assert lines[0] == "| method | tiny-mamba<br>AUC ↑ | tiny-mamba2<br>AUC ↑ |"
    assert len(lines) == 2 + 3
    assert all(line.count(" | ") == 2 for line in lines)
    for line, method in zip(lines[2:], METHODS, strict=True):
        for entry, column in zip(line.strip("| ").split(" | ")[1:], summary.columns, strict=True):
            cell = summary.cells[method, column]
            i = cell.interval
            assert f"{i.value:.3f}" in entry
            assert entry.endswith(f"[{i.low:.3f}, {i.high:.3f}]")
            assert entry.startswith("**") == cell.best
            assert (r"\*" in entry) == cell.differs
    assert r"\*" in lines[4]


def test_latex():
    frame = table(samples=6)
    frame["method"] = frame["method"].replace("random", "50% & #1 {x} ~^$ \\")
    summary = of_task(summarise(frame), "copying")
    text = latex_table(summary)
    assert r"50\% \& \#1 \{x\} \textasciitilde{}\textasciicircum{}\$ \textbackslash{}" in text
    assert r"hidden\_attention &" in text
    assert r"\multicolumn{1}{c}{tiny-mamba} & \multicolumn{1}{c}{tiny-mamba2} \\" in text
    assert r"\cmidrule(lr){2-2} \cmidrule(lr){3-3}" in text
    assert text.count(r"\textbf{") == 2
    body = text[text.index("\\midrule") : text.index("\\bottomrule")].splitlines()[1:]
    assert [len(re.findall(r"(?<!\\)&", line)) for line in body] == [2, 2, 2]
    plain = re.sub(r"\\[{}]", "", text)
    assert plain.count("{") == plain.count("}")
    align = latex_table(of_task(summarise(frame), "align"))
    assert r"\cmidrule(lr){2-4} \cmidrule(lr){5-7}" in align
    assert latex("a\n[b") == "a {[}b"


def test_csv_holds_full_precision():
    summary = of_task(summarise(table()), "align")
    rows = list(csv.DictReader(io.StringIO(csv_table(summary))))
    assert [row["method"] for row in rows] == list(METHODS)
    for row in rows:
        for column in summary.columns:
            cell = summary.cells[row["method"], column]
            name = f"{column.model} {column.metric.name}"
            assert float(row[name]) == cell.interval.value
            assert float(row[f"{name} high"]) == cell.interval.high
            assert row[f"{name} samples"] == "40"
            assert row[f"{name} best"] == str(int(cell.best))
            if cell.best:
                assert row[f"{name} p_bootstrap"] == ""
            else:
                assert float(row[f"{name} p_bootstrap"]) == cell.against_best.p_bootstrap
                assert float(row[f"{name} p_holm"]) == cell.p_adjusted
            assert row[f"{name} p_wilcoxon"] == ""


def test_the_figure_shows_every_result():
    summary = of_task(summarise(table()), "copying")
    axes = summary_figure(summary, "roc_auc").axes[0]
    points = {round(float(line.get_xdata()[0]), 9) for line in axes.lines if len(line.get_xdata()) == 1}
    assert points == {round(cell.interval.value, 9) for cell in summary.cells.values()}
    bars = {tuple(np.round(line.get_xdata(), 9)) for line in axes.lines if len(line.get_xdata()) == 2}
    assert bars == {(round(cell.interval.low, 9), round(cell.interval.high, 9)) for cell in summary.cells.values()}
    assert [label.get_text() for label in axes.get_yticklabels()] == list(METHODS)
    assert axes.get_xlabel() == "AUC (higher is better)"
    assert len({line.get_marker() for line in axes.lines if len(line.get_xdata()) == 1}) == 2


def test_a_figure_is_the_same_every_time(tmp_path):
    frame = table(samples=4)
    frame["method"] = frame["method"] + " $x_1$ 50%"
    summary = of_task(summarise(frame), "copying")
    for ending in (".png", ".svg", ".pdf"):
        first, second = (save_summary_figure(summary, "roc_auc", tmp_path / f"{n}{ending}") for n in "ab")
        assert first.read_bytes() == second.read_bytes()
    with pytest.raises(InputError, match="ending"):
        save_summary_figure(summary, "roc_auc", tmp_path / "a.bmp")
    with pytest.raises(InputError, match="no metric 'aer'"):
        summary_figure(summary, "aer")


def test_a_whole_report(tmp_path):
    frame = table(samples=6)
    frame["task"] = frame["task"].replace("align", "align/en→fr")
    path = write_report(frame, tmp_path / "report", title="A run", resamples=100)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# A run\n\n## copying\n")
    for name in re.findall(r"\]\(([^)]+)\)", text):
        assert (path.parent / name).stat().st_size > 1000
    assert {p.name for p in path.parent.iterdir()} == {
        "report.md",
        "copying.tex",
        "copying.csv",
        "copying-roc_auc.png",
        "align-en-fr.tex",
        "align-en-fr.csv",
        *(f"align-en-fr-{m}-union.png" for m in ("aer", "alignment_precision", "alignment_recall")),
    }
    write_report(frame, tmp_path / "report", resamples=100)
    assert file_stem("///") == "unnamed"


def test_places_that_cannot_be_written_are_refused(tmp_path):
    frame = table(samples=2)
    with pytest.raises(InputError, match="cannot be created"):
        write_report(frame, tmp_path / "absent" / "report", resamples=10)
    frame["task"] = frame["task"].replace({"align": "a/b", "copying": "a:b"})
    with pytest.raises(InputError, match="same file"):
        write_report(frame, tmp_path / "report", resamples=10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns="layer"), "lacks layer"),
        (lambda frame: pandas.concat([frame, frame.iloc[:1]]), "two values for task copying"),
        (lambda frame: frame.iloc[:-1], "does not have all counts"),
        (lambda frame: frame.assign(value=np.inf), "finite"),
        (lambda frame: frame.to_dict(), "not dict"),
        (lambda frame: frame.iloc[:0], "no row"),
    ],
)
def test_tables_that_cannot_be_summarised_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        summarise(change(table(samples=3)))
