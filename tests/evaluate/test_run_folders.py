"""A run's folder belongs to one run at a time, and what is damaged in it is named; no result of another run gets in."""

import json
import os
import random
import signal
import time

import psutil
import pytest

pytest.importorskip("pyarrow", reason="evaluation needs pyarrow: pip install mambascope[evaluate]")

import pyarrow as pa
import pyarrow.parquet as parquet

from damaged_results import changed
from killed_runs import started
from mambascope.errors import InputError, MambascopeError, OutputError
from mambascope.evaluate import results
from mambascope.evaluate.manifest import read_manifest
from mambascope.evaluate.results import read_run, shard_files
from mambascope.evaluate.run import run
from mambascope.evaluate.run_lock import locked
from toy_task import METHODS, MODELS, ToyTask, fingerprint, load, logged, rows


def toy_run(out, task=None, **options):
    return run(task or ToyTask(), MODELS, METHODS, out, load=load, fingerprint=fingerprint, **options)


@pytest.fixture
def shards_of_three(monkeypatch):
    monkeypatch.setattr(results, "SHARD_SAMPLES", 3)


def wait_for(process, log, count):
    while len(logged(log)) < count:
        assert process.exitcode is None, "it ended early"
        time.sleep(0.005)


def test_a_run_that_still_goes_on_is_not_replaced(tmp_path):
    out, log = tmp_path / "out", tmp_path / "log"
    other = started(out, log)
    wait_for(other, log, 5)
    said = rf"^{out} is in use: process {other.pid} on \S+ is still writing results to it; wait until it ends, or "
    for options in ({"overwrite": True}, {"resume": True}, {}, {"shard": (0, 2)}):
        with pytest.raises(InputError, match=said):
            toy_run(out, **options)
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    stored = read_run(out).done
    result = toy_run(out, resume=True)
    assert result.found == len(stored), "a lock dies with its process"
    assert rows(result.read()) == rows(toy_run(tmp_path / "whole").read())


def test_processes_of_different_subsets_share_a_folder_and_of_the_same_do_not(tmp_path):
    with locked(tmp_path / "parts", (0, 3)):
        with locked(tmp_path / "parts", (1, 3)):
            pass
        for taken in ((0, 3), (0, 1), (1, 2)):
            with pytest.raises(InputError, match=rf"in use: process {os.getpid()} on"):
                locked(tmp_path / "parts", taken).__enter__()
    with locked(tmp_path / "parts", (0, 1)):
        pass


@pytest.mark.parametrize("change", ["replaced", "removed", "damaged"])
def test_a_run_stops_when_its_folder_is_no_longer_its_own(tmp_path, shards_of_three, change):
    out, other = tmp_path / "out", toy_run(tmp_path / "other", ToyTask(data="new")).folder
    before = {}

    def take_over(done, total):
        if done == 10:
            for path in [*shard_files(out), out / "manifest.json"]:
                path.unlink()
            content = {"replaced": (other / "manifest.json").read_text(), "damaged": '{"format": '}.get(change)
            if content is not None:
                (out / "manifest.json").write_text(content)
            before.update({path.name: path.read_bytes() for path in out.glob("*.json")})

    said = {"replaced": "now holds another run", "removed": "is gone", "damaged": "manifest was changed"}[change]
    with pytest.raises(OutputError, match=f"the run stopped because .*{said}"):
        toy_run(out, progress=take_over)
    assert shard_files(out) == [], "nothing is written into another run"
    assert {path.name: path.read_bytes() for path in out.glob("*.json")} == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_end_keeps_its_results_and_leaves_no_process(tmp_path, number):
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("the tests were started with interrupts ignored, as jobs in the background are")
    out, log = tmp_path / "out", tmp_path / "log"
    other = started(out, log, as_command=True)
    wait_for(other, log, 10)
    workers = psutil.Process(other.pid).children(recursive=True)
    os.kill(other.pid, number)
    other.join(20)
    assert other.exitcode not in (None, 0, -number), "it ended by itself"
    assert psutil.wait_procs(workers, timeout=5)[1] == []
    assert len(read_run(out).done) >= 9, "also what no full result shard held yet"
    assert rows(toy_run(out, resume=True).read()) == rows(toy_run(tmp_path / "whole").read())


MANIFESTS = {
    "versions": {"versions": None},
    "options": {"options": 5},
    "models": {"models": [1]},
    "a model": {"models": {"small": {"weights": 3, "config": "none"}}},
    "methods": {"methods": "latim"},
    "samples": {"samples": -1},
    "limit": {"limit": 0},
    "later": {"shuffle": True},
    "format": {"format": "mambascope-run-2"},
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_of_other_types_is_one_sentence(tmp_path, name):
    path = toy_run(tmp_path).folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | MANIFESTS[name]))
    where = next(iter(MANIFESTS[name]))
    for read in (read_manifest, read_run, lambda folder: toy_run(folder, resume=True)):
        with pytest.raises(InputError, match=rf"manifest\.json cannot be read as the manifest of a run \({where}"):
            read(tmp_path)
    assert len(shard_files(tmp_path)) == 2, "the results are still there"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"null", b"[]", b"\xff\xfe{\x00}\x00", b"[" * 100_000, b'{"format": "mambascope-run-1"}']
)
def test_a_manifest_that_is_cut_short_or_in_another_encoding_is_one_sentence(tmp_path, content):
    path = toy_run(tmp_path).folder / "manifest.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"manifest\.json cannot be read as the manifest of a run"):
        read_run(tmp_path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match="it is not a file"):
        read_run(tmp_path)


def test_no_mutated_manifest_breaks_reading_or_resuming(tmp_path):
    """It is refused, or its run goes on; the result shards stay as they are or are set aside, and nothing is lost."""
    path = toy_run(tmp_path).folder / "manifest.json"
    content, shards = json.loads(path.read_text()), {one: one.read_bytes() for one in shard_files(tmp_path)}
    read = 0
    for seed in range(200):
        path.write_text(json.dumps(changed(content, random.Random(seed))))
        try:
            stored = read_run(tmp_path)
        except MambascopeError:
            continue
        read += 1
        assert stored.table.num_rows == 0 or stored.missing == 0, seed
    assert 0 < read < 200
    assert {one: one.read_bytes() for one in shard_files(tmp_path)} == shards


def marked(path, mark):
    """Write a result shard again with another mark."""
    table = parquet.read_table(path)
    kept = json.loads(table.schema.metadata[b"mambascope"])
    text = mark if isinstance(mark, bytes) else json.dumps(mark(kept) if callable(mark) else mark).encode()
    parquet.write_table(table.replace_schema_metadata({b"mambascope": text}), path)


@pytest.mark.parametrize(
    "mark",
    [
        *(5, None, [], {}, b"{", b"\xff", b"[" * 100_000),
        lambda kept: kept | {"samples": None},
        lambda kept: kept | {"model": 3},
        lambda kept: kept | {"samples": [1]},
        lambda kept: kept | {"model": "medium"},
        lambda kept: kept | {"model": "large"},
        lambda kept: kept | {"samples": kept["samples"][2:]},
        lambda kept: kept | {"run": None},
    ],
)
def test_a_result_shard_with_another_mark_is_damaged_and_computed_again(tmp_path, mark):
    whole = rows(toy_run(tmp_path).read())
    path = next(one for one in shard_files(tmp_path) if parquet.read_table(one)["model"][0].as_py() == "small")
    marked(path, mark)
    assert [one.shard for one in read_run(tmp_path).damaged] == [path.name]
    result = toy_run(tmp_path, resume=True)
    assert result.computed == 23
    assert rows(result.read()) == whole
    assert path.with_suffix(".damaged").exists(), "set aside, not removed"


@pytest.mark.parametrize("column", ["value", "sample", "method", "layer"])
def test_a_result_shard_whose_rows_lack_an_entry_is_damaged(tmp_path, column):
    toy_run(tmp_path)
    path = shard_files(tmp_path)[0]
    table = parquet.read_table(path)
    place = table.column_names.index(column)
    empty = pa.array([None, *table[column].to_pylist()[1:]], table[column].type)
    parquet.write_table(table.set_column(place, table.schema.field(column), empty), path)
    assert [one.reason for one in read_run(tmp_path).damaged] == [f"a row has no {column}"]


def test_what_is_no_file_among_the_result_shards_is_damaged(tmp_path):
    whole = rows(toy_run(tmp_path).read())
    folder, pipe = (tmp_path / "parts" / f"0-of-1-{k:06d}-0123abcd.parquet" for k in (7, 8))
    folder.mkdir()
    os.mkfifo(pipe)
    (tmp_path / "parts" / "notes.txt").write_text("mine")
    assert [one.reason for one in read_run(tmp_path).damaged] == ["it is not a file"] * 2
    assert rows(toy_run(tmp_path, resume=True).read()) == whole
    assert (tmp_path / "parts" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_a_folder_that_cannot_be_is_one_sentence(tmp_path, name):
    with pytest.raises(MambascopeError, match=r"cannot be|could not be|holds no run"):
        toy_run(tmp_path / name)
    with pytest.raises(MambascopeError, match=r"cannot be|could not be|holds no run"):
        read_run(tmp_path / name)
