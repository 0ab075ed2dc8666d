"""`mambascope evaluate`: the table of means, JSON, resuming, and every refusal as one sentence with exit code 2."""

import json
import sys

import pytest

pytest.importorskip("pyarrow", reason="evaluation needs pyarrow: pip install mambascope[evaluate]")

from dataclasses import dataclass

from mambascope.cli import main
from mambascope.evaluate.results import read_run
from mambascope.evaluate.tasks import TASKS
from small_checkpoint import make_checkpoint
from toy_task import METHODS, FailingTask, ToyTask

BOTH = ",".join(METHODS)


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


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def evaluate(monkeypatch, capsys, checkpoint):
    """Run the command on the small checkpoint; returns exit code, standard output and standard error."""
    for task in (Toy(), Failing(), Layered()):
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
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in out
    head = next(line for line in lines if line.startswith("method"))
    assert head.split() == ["method", "AUC", "↑", "conservation", "error", "↓"]
    table = read_run(tmp_path / "out").table.to_pylist()
    values = [row["value"] for row in table if row["metric"] == "roc_auc" and row["method"] == "latim"]
    line = next(line for line in lines if line.startswith("latim"))
    assert float(line.split()[1].rstrip("*")) == pytest.approx(sum(values) / len(values), abs=1e-4)
    assert out.count("*") >= 2
    assert lines[-2:] == ["judged    23 samples", f"kept      {tmp_path / 'out'}"]


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


def test_shards_say_what_is_missing(evaluate, tmp_path):
    _, out, _ = evaluate("toy", "--out", tmp_path, "--shard", "0/2")
    missing = read_run(tmp_path).missing
    assert 0 < missing < 23
    assert f"missing   {missing} samples" in out
    _, out, _ = evaluate("toy", "--out", tmp_path, "--shard", "1/2")
    assert "missing" not in out


def test_a_damaged_part_is_said(evaluate, tmp_path):
    evaluate("toy", "--out", tmp_path)
    part = next((tmp_path / "parts").iterdir())
    part.write_bytes(b"x")
    code, out, err = evaluate("toy", "--out", tmp_path, "--resume")
    assert code == 0
    assert err.startswith(f"mambascope: part {part.name} was computed again: ")
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
