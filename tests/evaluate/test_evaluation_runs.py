"""Runs that survive: interrupted, killed, in subsets or on a full disk, a run has the rows of an undisturbed one."""

import dataclasses
import errno
import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("pyarrow", reason="evaluation needs pyarrow: pip install mambascope[evaluate]")

from killed_runs import run_killed_thrice
from mambascope.errors import InputError, OutputError, UnsupportedModelError
from mambascope.evaluate import fingerprint as fingerprints
from mambascope.evaluate import results
from mambascope.evaluate.result_shards import DamagedShardError, read_result_shard
from mambascope.evaluate.results import read_run, shard_files
from mambascope.evaluate.run import run
from mambascope.evaluate.sample_runner import in_subset, sample_seed
from mambascope.evaluate.tasks import find_task
from mambascope.evaluate.variants import check_supported
from models import stock_model
from toy_task import METHODS, MODELS, FailingTask, ToyTask, fingerprint, load, logged, rows

PAIRS = 23 * 2


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(results, "SHARD_SAMPLES", 3)


def toy_run(out, task=None, **options):
    options = {"load": load, "fingerprint": fingerprint, **options}
    return run(task or ToyTask(), options.pop("models", None), options.pop("methods", METHODS), out, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return toy_run(tmp_path_factory.mktemp("whole")).read()


def test_a_run_stores_every_row_once_in_order_with_its_manifest(whole):
    table = whole.table
    assert table.column_names == ["task", "model", "method", "layer", "sample", "metric", "value", "extra"]
    assert len(whole.done) == PAIRS
    assert whole.missing == 0
    assert table.num_rows == sum(7 for k in range(23) if k % 7) * 2
    assert table["model"].to_pylist() == sorted(table["model"].to_pylist(), key=MODELS.index)
    assert json.loads(table["extra"][0].as_py()) == {"é": "é"}
    assert table["layer"].to_pylist()[:7] == [-1, 0, 1, -1, 0, 1, -1]
    written = json.loads((whole.folder / "manifest.json").read_text())
    assert written["models"]["large"] == {"weights": "large", "config": "none"}
    assert written["versions"].keys() == {"mambascope", "torch", "transformers", "python"}
    assert (written["seed"], written["limit"], written["samples"], written["data"]) == (0, None, 23, "toy")


def test_rows_depend_on_the_seed_and_not_on_the_size_of_result_shards(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "SHARD_SAMPLES", 100)
    same = toy_run(tmp_path / "same")
    assert rows(same.read()) == rows(whole)
    assert len(shard_files(same.folder)) == 2, "one per model"
    assert rows(toy_run(tmp_path / "other", seed=1).read()) != rows(whole)


def test_an_interrupted_run_keeps_its_results_and_resumes_to_the_whole(whole, tmp_path):
    log = tmp_path / "log"

    def stop(done, total):
        assert total == PAIRS
        if done == 31:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        toy_run(tmp_path / "out", ToyTask(log=log), progress=stop)
    assert len(read_run(tmp_path / "out").done) == 31, "not only full result shards"
    result = toy_run(tmp_path / "out", ToyTask(log=log), resume=True)
    assert (result.found, result.computed) == (31, PAIRS - 31)
    assert rows(result.read()) == rows(whole)
    assert len(logged(log)) == len(set(logged(log))) == PAIRS, "every sample once"


def test_a_task_that_fails_keeps_earlier_results(tmp_path):
    with pytest.raises(InputError, match="toy-11 cannot be judged"):
        toy_run(tmp_path, FailingTask())
    assert len(read_run(tmp_path).done) == 11


def test_a_run_killed_at_three_random_points_equals_the_uninterrupted_run(whole, tmp_path):
    stored = run_killed_thrice(tmp_path / "out", tmp_path / "log")
    assert rows(stored) == rows(whole)
    assert stored.damaged == ()


def test_subsets_in_one_folder_make_the_whole(whole, tmp_path):
    for k in (2, 0, 1):
        result = toy_run(tmp_path, shard=(k, 3))
        assert 0 < result.computed < PAIRS
    assert rows(result.read()) == rows(whole)
    assert [len({p.name.split("-")[0] for p in shard_files(tmp_path)})] == [3]
    with pytest.raises(InputError, match="--resume"):
        toy_run(tmp_path, shard=(1, 3))
    assert toy_run(tmp_path, resume=True).computed == 0, "another number of subsets goes on where these stopped"


def test_subsets_and_seeds_are_the_same_on_every_machine():
    assert [k for k in range(12) if in_subset(f"toy-{k}", (0, 3))] == [0, 1, 9, 10]
    assert sample_seed(0, "toy-0") == 138023235
    assert sum(in_subset(f"s{k}", (1, 4)) for k in range(4000)) == pytest.approx(1000, abs=100)  # 4 standard deviations


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"methods": ("latim",)}, r"methods \(latim, rollout there, latim here\)"),
        ({"models": ["small"]}, r"models \(small, large there, small here\)"),
        ({"seed": 3}, r"seed \(0 there, 3 here\)"),
        ({"limit": 5}, r"limit \(none there, 5 here\)"),
        ({"task": ToyTask(data="new")}, r"data hash \(toy there, new here\)"),
        ({"options": {"dtype": "float64"}}, r"option dtype \(none there, float64 here\)"),
        (
            {"fingerprint": lambda loaded: fingerprints.Fingerprint("retrained", "none")},
            r"weights hash of small \(small there, retrained here\)",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_a_folder_of_another_run_is_refused_also_with_resume(tmp_path, change, said):
    toy_run(tmp_path)
    for resume in (False, True):
        with pytest.raises(InputError, match=f"holds another run, which differs in .*{said}"):
            toy_run(tmp_path, **change, resume=resume)
    assert rows(toy_run(tmp_path, **change, overwrite=True).read()), "replaced"
    assert toy_run(tmp_path, **change, resume=True).computed == 0


def test_the_same_run_is_refused_unless_it_is_resumed_or_overwritten(whole, tmp_path):
    toy_run(tmp_path)
    (tmp_path / "report.md").write_text("mine")
    with pytest.raises(InputError, match=f"holds {PAIRS} of the {PAIRS} results"):
        toy_run(tmp_path)
    assert toy_run(tmp_path, resume=True).computed == 0
    assert toy_run(tmp_path, overwrite=True).computed == PAIRS
    assert rows(read_run(tmp_path)) == rows(whole)
    assert (tmp_path / "report.md").read_text() == "mine", "nothing but the run is removed"


@pytest.mark.parametrize("damage", ["cut", "not parquet", "a hole", "foreign"])
def test_a_damaged_result_shard_is_reported_and_computed_again(whole, tmp_path, damage):
    toy_run(tmp_path / "out")
    path = shard_files(tmp_path / "out")[3]
    content = bytearray(path.read_bytes())
    if damage == "a hole":
        content[200:400] = bytes(200)
    if damage == "foreign":
        content = shard_files(toy_run(tmp_path / "other", seed=1).folder)[0].read_bytes()
    path.write_bytes({"cut": content[:-100], "not parquet": b"hello"}.get(damage, content))
    stored = read_run(tmp_path / "out")
    assert [one.shard for one in stored.damaged] == [path.name]
    assert stored.missing == 3
    result = toy_run(tmp_path / "out", resume=True)
    assert [one.shard for one in result.damaged] == [path.name]
    assert result.computed == 3
    assert rows(result.read()) == rows(whole)
    assert result.read().damaged == (), "reported once"


def test_no_flipped_byte_changes_a_number(tmp_path):
    manifest = toy_run(tmp_path).manifest
    path = shard_files(tmp_path)[0]
    content, clean = path.read_bytes(), read_result_shard(path, manifest)
    damaged = 0
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
        try:
            assert str(read_result_shard(path, manifest).table.to_pylist()) == str(clean.table.to_pylist()), place
        except DamagedShardError:
            damaged += 1
    assert damaged > len(content) / 7 / 2


def test_a_full_disk_keeps_what_was_done_readable(whole, tmp_path, monkeypatch):
    write, written = Path.write_bytes, []

    def full(path, content):
        if len(written) == 5:
            write(path, bytes(content)[:50])
            raise OSError(errno.ENOSPC, "No space left on device")
        if path.suffix == ".parquet":
            written.append(path)
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left on device"):
        toy_run(tmp_path)
    stored = read_run(tmp_path)
    assert (len(stored.done), stored.damaged) == (15, ())
    monkeypatch.setattr(Path, "write_bytes", write)
    assert rows(toy_run(tmp_path, resume=True).read()) == rows(whole)


def test_a_sample_that_two_result_shards_hold_is_read_once(whole, tmp_path):
    toy_run(tmp_path)
    for number, path in enumerate(shard_files(tmp_path)[2:5]):
        path.with_name(f"0-of-2-{number:06d}-0123abcd.parquet").write_bytes(path.read_bytes())
    assert rows(read_run(tmp_path)) == rows(whole)


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    toy_run(tmp_path)
    left = tmp_path / "parts" / "0-of-1-000099-0123abcd.partial.parquet"
    left.write_bytes(b"half")
    assert read_run(tmp_path).damaged == ()
    toy_run(tmp_path, resume=True)
    assert not left.exists()


def test_a_folder_that_only_looks_like_a_run_is_left_alone(tmp_path):
    (tmp_path / "manifest.json").write_text('{"name": "a web page"}')
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"manifest\.json cannot be read as the manifest"):
            toy_run(tmp_path, overwrite=overwrite)
    assert (tmp_path / "manifest.json").read_text() == '{"name": "a web page"}'
    with pytest.raises(InputError, match="is a file"):
        toy_run(tmp_path / "manifest.json")
    with pytest.raises(InputError, match="holds no run"):
        read_run(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"methods": ()}, "no method is named"),
        ({"methods": ("latim", "latim")}, "method latim is named twice"),
        ({"models": ["small", "small"]}, "model small is named twice"),
        ({"shard": (3, 3)}, "shard 3/3 does not exist"),
        ({"limit": 0}, "at least 1"),
        ({"resume": True, "overwrite": True}, "choose one"),
        ({"overwrite": True, "shard": (0, 2)}, "other subsets of the samples"),
        ({"address": "auto"}, "--engine ray"),
        ({"task": ToyTask(count=0)}, "no samples"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_written(tmp_path, options, said):
    with pytest.raises(InputError, match=said):
        toy_run(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_methods_that_a_model_does_not_support_are_refused_before_the_first_sample(tmp_path):
    with pytest.raises(UnsupportedModelError, match="alti cannot read large"):
        toy_run(tmp_path / "out", methods=("latim", "alti"))
    assert not (tmp_path / "out").exists()


def test_check_supported_names_the_methods_that_can_read_a_model():
    model = stock_model("mamba")
    check_supported(model, ["latim", "mamba-lrp"])
    with pytest.raises(UnsupportedModelError, match=r"norm-based cannot read .*; these can: latim"):
        check_supported(model, ["latim", "norm-based"])
    with pytest.raises(InputError, match="unknown method 'lattim'"):
        check_supported(model, ["lattim"])


def test_a_fingerprint_changes_with_a_weight_and_with_the_configuration():
    model = stock_model("mamba")
    first = fingerprints.fingerprint((model, None))
    assert fingerprints.fingerprint((model, None)) == first
    model.config.bos_token_id = 3
    assert fingerprints.fingerprint((model, None)).config != first.config
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1
    assert fingerprints.fingerprint((model, None)).weights != first.weights
    with pytest.raises(InputError, match="found a dict"):
        fingerprints.fingerprint({})


def test_a_model_that_changes_under_the_run_is_refused(tmp_path):
    loads = []

    def replaced(name):
        loads.append(name)
        return {"name": name if loads.count(name) == 1 else "retrained"}

    with pytest.raises(InputError, match="large is not the model that the run began with"):
        toy_run(tmp_path, load=replaced)
    assert len(read_run(tmp_path).done) == 23, "the results of the first model are kept"


def test_a_row_about_something_else_than_the_run_is_refused(tmp_path):
    task = dataclasses.replace(ToyTask(), metrics=())
    with pytest.raises(InputError, match="returned 'roc_auc' of 'latim' for sample toy-1"):
        toy_run(tmp_path, task)


def test_an_unknown_task_is_refused():
    with pytest.raises(InputError, match="unknown task 'copiyng'; choose one of"):
        find_task("copiyng")


@pytest.mark.parametrize(
    ("stored", "asked"),
    [("zoo/copying-mamba2", "zoo:copying-mamba2"), ("zoo:copying-mamba2", "zoo/copying-mamba2")],
)
def test_a_run_goes_on_under_the_other_spelling_of_a_model_of_the_zoo(tmp_path, stored, asked):
    """Runs that are older than zoo:NAME have zoo/NAME; the folder loads under the name that is asked for."""
    names = []

    def load_either(name):
        names.append(name)
        return {"name": name.replace("/", ":")}

    def stop(done, total):
        if done == 31:
            raise KeyboardInterrupt

    whole = toy_run(tmp_path / "whole", models=[stored, "small"], load=load_either).read()
    with pytest.raises(KeyboardInterrupt):
        toy_run(tmp_path / "out", models=[stored, "small"], load=load_either, progress=stop)
    names.clear()
    result = toy_run(tmp_path / "out", models=[asked, "small"], load=load_either, resume=True)
    assert set(names) == {asked, "small"}
    assert (result.found, result.computed) == (31, PAIRS - 31)
    assert rows(result.read()) == rows(whole)
    assert list(result.manifest.models) == [stored, "small"]
    anew = toy_run(tmp_path / "out", models=[asked, "small"], load=load_either, overwrite=True)
    assert list(anew.manifest.models) == [asked, "small"]
    with pytest.raises(InputError, match="model zoo:copying-mamba2 is named twice"):
        toy_run(tmp_path / "twice", models=[asked, stored], load=load_either)


def test_a_run_of_other_models_is_still_another_run(tmp_path):
    toy_run(tmp_path, models=["zoo/copying-mamba2"], load=load)
    with pytest.raises(InputError, match="holds another run, which differs in models"):
        toy_run(tmp_path, models=["zoo:copying-mamba"], load=load, resume=True)
