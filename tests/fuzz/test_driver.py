"""The fuzzer itself: each class of fault is seen when a target shows it."""

import ctypes
import os
import sys
import time
import warnings
from random import Random

import pytest
import torch

from mambascope.errors import InputError
from mambascope.families.patch_points import PatchPoint

from . import driver, findings
from .driver import Tally, run_for, run_slice
from .findings import Finding
from .mutation import changed, difference, mutated
from .running import Target

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def crash(folder):
    ctypes.string_at(0)


def hang(folder):
    time.sleep(60)


def swallow(folder):
    return bytearray(2**40)


def refuse(folder):
    raise InputError("the text is empty; pass a text with at least one word")


def mumble(folder):
    raise InputError("no")


def leave_a_file(folder):
    (folder.parent / "here" / "left").touch()


def warn(folder):
    warnings.warn("look out", stacklevel=2)


def draw_numbers(folder):
    torch.rand(1)


def print_something(folder):
    print("a line", file=sys.stderr)


def break_a_property(folder):
    raise findings.BrokenError("NaN or infinity", "latim")


DEEDS = {
    crash: "crash",
    hang: "time",
    swallow: "memory",
    lambda folder: os._exit(3): "crash",
    mumble: "badly said",
    leave_a_file: "file left",
    warn: "warning",
    draw_numbers: "state changed",
    print_something: "printed",
    break_a_property: "NaN or infinity",
    lambda folder: {}["x"]: "fault of the fuzzer",
    refuse: None,
    lambda folder: None: None,
}


def of(deed):
    return Target("deed", lambda rng: {"number": rng.random()}, lambda case, folder: deed(folder))


@pytest.mark.parametrize(("deed", "kind"), DEEDS.items(), ids=[f"{k}-{kind}" for k, kind in enumerate(DEEDS.values())])
def test_every_class_of_fault_is_seen(deed, kind, monkeypatch):
    monkeypatch.setattr(driver, "HANGS", 1.0)
    tally = Tally()
    assert run_slice(of(deed), range(2, 3), 5, tally, say=lambda line: None) == 1
    assert [one.kind for one in tally.findings] == ([] if kind is None else [kind])
    assert (tally.cases["deed"], tally.refused["deed"]) == (1, deed is refuse or deed is mumble)
    assert all((one.seed, one.case) == (2, {"number": Random("deed 2").random()}) for one in tally.findings)


def test_an_exception_is_named_by_the_line_of_ours_that_let_it_through():
    absent = PatchPoint("no_such_module", "function")
    target = Target("deed", lambda rng: {}, lambda case, folder: absent.exists())
    tally = Tally()
    run_slice(target, range(1), 5, tally, say=lambda line: None)
    (found,) = tally.findings
    assert found.kind == "foreign exception"
    assert found.what.startswith("ModuleNotFoundError at families/patch_points.py:")


def test_targets_take_turns_and_a_process_that_dies_is_replaced():
    tally, dying = Tally(), of(lambda folder: os._exit(1))._replace(name="dying")
    run_for([of(refuse), dying], 1.0, 5, tally, say=lambda line: None)
    assert tally.cases["deed"] > 1
    assert tally.cases["dying"] >= 1
    assert tally.counts.total() == tally.cases["dying"]
    assert {one.seed for one in tally.findings} == {5}
    table = tally.table()
    assert "dying" in table
    assert "crash" in table


def test_findings_are_kept_once(tmp_path):
    path = tmp_path / "kept.json"
    one = Finding("deed", 1, "time", "hangs", "trace", {"number": 0.5})
    assert findings.keep([one, one], path) == 1
    assert findings.keep([one], path) == 0
    assert findings.stored(path) == [Finding("deed", 1, "time", "hangs", "", {"number": 0.5})]


@pytest.mark.parametrize("name", ["a.json", "a.bin", "a.csv", "a.png", "a.safetensors", "a.pth"])
def test_damage_is_the_same_for_a_seed_and_can_be_stored(name):
    old = b'{"a": [1, 2.5, "x"], "b": {"c": null}}'
    seen = set()
    for seed in range(60):
        new = mutated(Random(seed), name, old)
        assert new == mutated(Random(seed), name, old)
        assert changed(old, difference(old, new)) == new
        seen.add(new)
    assert len(seen) > 20
