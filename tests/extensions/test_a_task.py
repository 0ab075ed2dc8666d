"""A new task in one file: after "Mary … John … Mary", is the last name traced to where it stood before?"""

import hashlib
import pickle
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch

import mambascope
from mambascope import readouts
from mambascope.cli import main
from mambascope.errors import InputError, UnsupportedModelError
from mambascope.evaluate import tasks
from mambascope.evaluate.metrics.ranking import recall_at_k
from mambascope.evaluate.metrics.registry import Metric, find_metric
from mambascope.evaluate.report import write_report
from mambascope.evaluate.results import read_run
from mambascope.evaluate.run import run
from mambascope.evaluate.score_rows import score_rows
from mambascope.evaluate.task import MainTable, Row, Sample
from mambascope.evaluate.variants import check_supported
from models import stock_transformer

METHODS = ("latim", "mamba-attribution", "random")


# --- what would be a file of evaluate/tasks/ ---


@dataclass(frozen=True)
class RepeatedName:
    """The task.

    Attributes:
        names: Pairs of names, of which the first is said twice.
    """

    name: str = "repeated-name"
    default_models: Sequence[str] = ("tiny-mamba",)
    metrics: Sequence[Metric] = (
        find_metric("recall_at_k").titled("whether the source with the largest score is the name"),
        Metric("name_share", "higher", "share of the name's score in all scores"),
    )
    main: Sequence[MainTable] = (MainTable(("recall_at_k", "name_share")),)
    names: tuple[tuple[str, str], ...] = ((" Mary", " John"), (" John", " Mary"), (" Tom", " Anna"))

    def samples(self, limit: int | None) -> Sequence[Sample]:
        return [Sample(f"pair-{k}", {"names": pair}) for k, pair in enumerate(self.names)][:limit]

    def data_hash(self) -> str:
        return hashlib.sha256(repr(self.names).encode()).hexdigest()

    def check(self, loaded, methods) -> None:
        check_supported(loaded[0], methods)

    def evaluate(self, loaded, sample, methods, seed) -> list[Row]:
        model, tokenizer = loaded
        first, second = sample.data["names"]
        said = tokenizer(f"When{first} and{second} met,{second} greeted").input_ids
        name = tokenizer(first).input_ids
        ids = torch.tensor([said])
        valid = torch.ones_like(ids, dtype=torch.bool)
        gold = torch.zeros_like(valid)
        gold[0, 1 : 1 + len(name)] = True
        rows = []
        for scored in score_rows(model, {"input_ids": ids}, methods, [readouts.token(len(said) - 1, name[0])]):
            sizes = scored.rows.abs()
            values = {
                "recall_at_k": float(recall_at_k(sizes, gold, valid)[0]),
                "name_share": float(sizes[gold].sum() / sizes.sum()),
            }
            rows += [Row(scored.method, metric, value, scored.layer) for metric, value in values.items()]
        return rows


TASK = RepeatedName()


# --- its tests ---


@pytest.fixture(autouse=True)
def registered():
    yield tasks.register(TASK)
    del tasks.TASKS[TASK.name]


def test_it_is_run_stored_and_resumed(tmp_path):
    first = run(TASK, None, METHODS, tmp_path / "out", limit=2)
    assert (first.found, first.computed) == (0, 2)
    rest = run(replace(TASK), None, METHODS, tmp_path / "other")
    assert (rest.found, rest.computed) == (0, 3)
    again = run(TASK, None, METHODS, tmp_path / "other", resume=True)
    assert (again.found, again.computed) == (3, 0)
    rows = again.read().table.to_pylist()
    assert {row["method"] for row in rows} == set(METHODS)
    assert {row["task"] for row in rows} == {"repeated-name"}
    shares = [row["value"] for row in rows if row["metric"] == "name_share"]
    assert all(0 < share < 1 for share in shares)
    assert len(set(shares)) > len(METHODS)


@pytest.fixture
def command(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["mambascope", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        return stopped.value.code or 0, printed.out, printed.err

    return call


def test_the_command_runs_it_by_name_and_reports_it(command, tmp_path):
    code, out, err = command(
        "evaluate", TASK.name, "--methods", ",".join(METHODS), "--limit", 2, "--out", tmp_path / "out"
    )
    assert (code, err) == (0, "")
    head, *lines = (line.split() for line in out.splitlines() if line.startswith(("method", *METHODS)))
    assert head == ["method", "recall@K", "↑", "name_share", "↑"]
    assert [line[0] for line in lines] == list(METHODS)
    assert "share of the name's score in all scores" in " ".join(out.split())
    code, out, err = command("report", tmp_path / "out")
    assert (code, err) == (0, "")
    assert "share of the name's score in all scores ↑" in out, "the report calls the task's own metric by its title"
    assert (tmp_path / "out" / "report" / "repeated-name.tex").is_file()


def test_its_table_is_one_of_reports_from_python_too(tmp_path):
    table = run(TASK, None, METHODS, tmp_path / "out", limit=2).read().table
    path = write_report(table, tmp_path / "report")
    assert "## repeated-name" in path.read_text(encoding="utf-8")
    assert read_run(tmp_path / "out").manifest.task == TASK.name


def test_what_it_cannot_judge_is_refused_before_it_starts(tmp_path):
    with pytest.raises(UnsupportedModelError, match="mamba-attribution cannot read GPT2LMHeadModel; these can: "):
        run(TASK, ["small"], METHODS, tmp_path / "out", load=lambda name: (stock_transformer("gpt2"), None))
    assert not (tmp_path / "out").exists()


def test_it_travels_to_other_machines_by_pickle():
    found = pickle.loads(pickle.dumps(tasks.find_task(TASK.name)))
    assert found == TASK
    assert found.evaluate(mambascope.load("tiny-mamba"), found.samples(1)[0], ["latim"], 0)


def test_a_name_has_one_task():
    assert tasks.find_task(TASK.name) is tasks.register(TASK) is TASK
    with pytest.raises(InputError, match="there is a task named copying already"):
        tasks.register(replace(TASK, name="copying"))
    with pytest.raises(InputError, match="only a task can be registered here, found <class"):
        tasks.register(Sample)
    with pytest.raises(InputError, match="makes its own samples and reads no data"):
        tasks.find_task(TASK.name, "names.tsv")
    with pytest.raises(InputError, match=r"unknown task 'repeated'; choose one of .*, repeated-name"):
        tasks.find_task("repeated")
