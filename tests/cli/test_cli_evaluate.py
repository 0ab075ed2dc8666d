"""`mambascope evaluate`: the table of means, JSON, resuming, and every refusal as one sentence with exit code 2."""

import json
import sys

import pytest

pytest.importorskip("pyarrow", reason="evaluation needs pyarrow: pip install mambascope[evaluate]")

from dataclasses import dataclass

from mambascope.cli import main
from mambascope.evaluate.metrics.registry import METRICS, find_metric, listed_metrics, results_of
from mambascope.evaluate.results import read_run
from mambascope.evaluate.task import MainTable, Row
from mambascope.evaluate.tasks import TASKS
from mambascope.evaluate.tasks.alignment import RESULTS
from small_checkpoint import make_checkpoint
from toy_task import METHODS, FailingTask, ToyTask

COUNTS = METRICS["aer"].counts
BOTH = ",".join(METHODS)
VARIANTS = ("predicts-target", "predicts-intersection", "stands-target", "stands-intersection")


class OfCheckpoints:
    """Judges the models that the command loads as if they were the toy's."""

    def check(self, loaded, methods):
        super().check({"name": "a checkpoint"}, methods)

    def evaluate(self, loaded, sample, methods, seed):
        assert not loaded[0].training
        return super().evaluate({"name": "a checkpoint"}, sample, methods, seed)


@dataclass(frozen=True)
class Toy(OfCheckpoints, ToyTask):
    pass


@dataclass(frozen=True)
class Failing(OfCheckpoints, FailingTask):
    name: str = "failing"


@dataclass(frozen=True)
class Layered(Toy):
    name: str = "layered"
    metrics: tuple = (ToyTask().metrics[1],)

    def evaluate(self, loaded, sample, methods, seed):
        found = super().evaluate(loaded, sample, methods, seed)
        return [row for row in found if row.layer >= 0]


@dataclass(frozen=True)
class Readings(OfCheckpoints, ToyTask):
    """As word alignment: three rates in two readings by two rules, of which the second method has one reading only."""

    name: str = "readings"
    metrics: tuple = (*(f"{name}:{variant}" for variant in VARIANTS for name in RESULTS), "accuracy")
    main: tuple = (
        MainTable(tuple(f"{name}:predicts-target" for name in RESULTS), "where a word is predicted"),
        MainTable(("aer:stands-target", "alignment_precision:stands-target"), "where it stands"),
    )

    def evaluate(self, loaded, sample, methods, seed):
        rows = [Row(method, "accuracy", 1.0) for method in methods]
        for method, variants in zip(methods, (VARIANTS, VARIANTS[:2]), strict=False):
            right = 3.0 if method == METHODS[0] else 2.0
            counts = dict(zip(COUNTS, (4.0, 5.0, right, 3.0), strict=True))
            rows += [Row(method, f"{name}:{variant}", counts[name]) for variant in variants for name in COUNTS]
        return rows


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def evaluate(monkeypatch, capsys, checkpoint):
    """Run the command on the small checkpoint; returns exit code, standard output and standard error."""
    for task in (Toy(), Failing(), Layered(), Readings()):
        monkeypatch.setitem(TASKS, task.name, task)

    def call(task, *arguments, methods=BOTH):
        capsys.readouterr()
        argv = ["mambascope", "evaluate", task, "--methods", methods, "--models", str(checkpoint)]
        monkeypatch.setattr(sys, "argv", [*argv, *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        return stopped.value.code or 0, printed.out, printed.err

    return call


def test_the_means_are_plain_lines_of_at_most_80_columns(evaluate, checkpoint, tmp_path):
    code, out, err = evaluate("toy", "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert max(len(line) for line in lines if str(tmp_path) not in line) <= 80, "a path is as long as it is"
    assert "\x1b" not in out
    head = next(line for line in lines if line.startswith("method"))
    assert head.split() == ["method", "AUC", "↑", "conservation", "error", "↓"]
    table = read_run(tmp_path / "out").table.to_pylist()
    values = [row["value"] for row in table if row["metric"] == "roc_auc" and row["method"] == "latim"]
    line = next(line for line in lines if line.startswith("latim"))
    assert float(line.split()[1].rstrip("*")) == pytest.approx(sum(values) / len(values), abs=1e-4)
    assert out.count("*") >= 2
    assert lines[-2:] == ["judged    23 samples", f"kept      {tmp_path / 'out'}"]


def tables(out):
    """The blocks of lines between empty ones."""
    return [block.splitlines() for block in out.split("\n\n")]


def test_the_tasks_main_metrics_come_first_a_table_for_each_reading_with_whole_names(evaluate, checkpoint):
    code, out, err = evaluate("readings", "--limit", "4")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    model, predicts, stands, legend, notes = tables(out)
    assert model == [str(checkpoint)]
    assert predicts[0] == "where a word is predicted"
    assert [line.split() for line in predicts[1:]] == [
        ["method", "AER", "↓", "precision", "↑", "recall", "↑"],
        ["latim", "0.3333*", "0.75", "0.6*"],
        ["rollout", "0.4444", "0.75", "0.4"],
    ]
    assert stands[0] == "where it stands"
    assert [line.split()[0] for line in stands[1:]] == ["method", "latim"], "no line without a value"
    assert [line.split()[0] for line in legend] == ["AER", "precision", "recall"]
    assert notes[0] == "* best of its column"
    assert notes[1] == "8 more metrics with --all-metrics, or in `mambascope report`"


def test_all_metrics_are_printed_on_request_and_always_in_json(evaluate):
    code, out, _ = evaluate("readings", "--limit", "4", "--all-metrics")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "more metrics" not in out
    heads = [block[0] for block in tables(out)[1:-2]]
    assert heads == [
        "where a word is predicted",
        "where it stands",
        "other metrics",
        "predicts-intersection",
        "stands-intersection",
    ]
    printed = json.loads(evaluate("readings", "--limit", "4", "--json")[1])
    names = {one["metric"] for one in printed["means"]}
    assert names == {"accuracy", *(f"{name}:{variant}" for name in RESULTS for variant in VARIANTS)}


def test_what_all_methods_share_is_no_ones_best(evaluate):
    out = evaluate("readings", "--limit", "4", "--all-metrics")[1]
    (shared,) = (block for block in tables(out) if block[0] == "other metrics")
    assert [line.split() for line in shared[1:]] == [
        ["method", "accuracy", "↑", "alignment_recall:stands-target", "↑"],
        ["latim", "1", "0.6"],
        ["rollout", "1", "–"],
    ]
    assert "*" not in evaluate("readings", "--limit", "4", methods="latim")[1], "one method is not compared"


@pytest.mark.parametrize("name", TASKS)
def test_a_tasks_main_metrics_are_among_its_results_and_fit_on_a_line(name):
    task = TASKS[name]
    listed = listed_metrics(task.metrics)
    results = {metric.name for metric in results_of(listed, listed)}
    named = [metric for table in task.main for metric in table.metrics]
    assert named
    assert set(named) <= results
    assert len(set(named)) == len(named)
    for metric in named:
        assert find_metric(metric, listed).title, f"{metric} says nothing"
    assert all(len(table.about) <= 80 for table in task.main)
    assert len(task.main) == 1 or all(table.about for table in task.main)


def test_json_is_one_object_with_the_manifest_and_the_means(evaluate, tmp_path):
    code, out, _ = evaluate("toy", "--json", "--limit", "5", "--seed", "2")
    assert code == 0
    printed = json.loads(out)
    assert (printed["out"], printed["found"], printed["computed"], printed["missing"]) == (None, 0, 5, 0)
    assert (printed["manifest"]["seed"], printed["manifest"]["limit"]) == (2, 5)
    assert printed["manifest"]["options"] == {"dtype": "float32"}
    mean = next(one for one in printed["means"] if (one["method"], one["metric"]) == ("latim", "roc_auc"))
    assert 0 < mean["mean"] < 1
    assert mean["samples"] == 4, "the first sample has no rows"


def test_a_task_that_judges_layers_is_shown_at_the_best_layer(evaluate):
    code, out, _ = evaluate("layered")
    assert code == 0
    assert "at the layer that is best for each method on these samples" in out
    assert "latim, best layer" in out


def test_a_run_that_failed_goes_on_with_resume(evaluate, tmp_path, monkeypatch):
    code, out, err = evaluate("failing", "--out", tmp_path)
    assert (code, out) == (2, "")
    assert err == "mambascope: sample toy-11 cannot be judged\n"
    monkeypatch.setitem(TASKS, "failing", Toy(name="failing"))
    code, _, err = evaluate("failing", "--out", tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert "--resume" in err
    code, out, err = evaluate("failing", "--out", tmp_path, "--resume")
    assert (code, err) == (0, "")
    assert "judged    12 samples, 11 stored before" in out


def test_subsets_say_what_is_missing(evaluate, tmp_path):
    _, out, _ = evaluate("toy", "--out", tmp_path, "--shard", "0/2")
    missing = read_run(tmp_path).missing
    assert 0 < missing < 23
    assert f"missing   {missing} samples" in out
    _, out, _ = evaluate("toy", "--out", tmp_path, "--shard", "1/2")
    assert "missing" not in out


def test_a_damaged_result_shard_is_reported(evaluate, tmp_path):
    evaluate("toy", "--out", tmp_path)
    shard = next((tmp_path / "parts").iterdir())
    shard.write_bytes(b"x")
    code, out, err = evaluate("toy", "--out", tmp_path, "--resume")
    assert code == 0
    assert err.startswith(f"mambascope: result shard {shard.name} was computed again: ")
    assert err.count("\n") == 1
    assert "judged    23 samples" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["toy", "--resume"], "name their folder with --out"),
        (["toy", "--out", "x", "--shard", "1of2"], "is not of the form K/N"),
        (["toy", "--shard", "2/2", "--out", "x"], "shard 2/2 does not exist"),
        (["copiyng"], "unknown task 'copiyng'; choose one of"),
        (["toy", "--address", "auto"], "--engine ray"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(evaluate, arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = evaluate(*arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert err.startswith("mambascope: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_an_unsupported_method_is_one_sentence(evaluate, tmp_path):
    code, _, err = evaluate("toy", "--out", tmp_path / "out", methods="latim,alti")
    assert code == 2
    assert "alti cannot read" in err
    assert not (tmp_path / "out").exists()


def test_data_goes_to_the_task_that_reads_data_and_is_refused_by_others(evaluate, monkeypatch):
    read = []

    @dataclass(frozen=True)
    class Reading(Toy):
        name: str = "reading"
        source: str | None = None

        def samples(self, limit):
            read.append(self.source)
            return super().samples(limit)

    monkeypatch.setitem(TASKS, "reading", Reading())
    assert evaluate("reading", "--data", "their.jsonl", "--limit", "2")[0] == 0
    assert set(read) == {"their.jsonl"}
    code, out, err = evaluate("toy", "--data", "their.jsonl")
    assert (code, out) == (2, "")
    assert err == "mambascope: the task toy makes its own samples and reads no data; leave --data out\n"
