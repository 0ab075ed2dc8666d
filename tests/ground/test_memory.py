"""How much memory is free: the least that the machine, its control groups and the process's own limits leave."""

import json
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
import torch

from mambascope import memory
from mambascope.errors import MapTooLargeError

CPU = torch.device("cpu")
KIB, MIB = 2**10, 2**20


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """A machine with 1 GiB free and no limit; returns a function that gives one of its control groups files."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**30))
    monkeypatch.setattr(memory, "GROUPS", tmp_path)
    monkeypatch.setattr(memory, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "_left_by_limits", lambda: [])

    def write(group, own, **files):
        (tmp_path / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / "own").write_text(own)
        for name, value in files.items():
            (tmp_path / group / name.replace("__", ".")).write_text(f"{value}\n")

    return write


def test_without_limits_the_machine_decides(groups):
    assert memory.available_bytes(CPU) == 2**30
    groups("a", "0::/a\n", memory__max="max", memory__current=7, memory__stat="inactive_file 0")
    assert memory.available_bytes(CPU) == 2**30


@pytest.mark.parametrize("limit", ["memory__max", "memory__high"])
def test_a_group_of_version_2_and_those_above_it_leave_what_they_leave(groups, limit):
    own = "0::/a/b\n"
    groups("a/b", own, **{limit: 100 * MIB}, memory__current=70 * MIB, memory__stat=f"anon 9\ninactive_file {10 * MIB}")
    assert memory.available_bytes(CPU) == 40 * MIB, "what the system can drop is free"
    groups("a", own, **{limit: 50 * MIB}, memory__current=30 * MIB, memory__stat="inactive_file 0")
    assert memory.available_bytes(CPU) == 20 * MIB
    groups("a", own, **{limit: 10 * MIB})
    assert memory.available_bytes(CPU) == 0, "a group may be over its limit"


def test_a_group_of_version_1_of_which_only_the_root_is_seen(groups):
    files = {"memory__limit_in_bytes": 64 * MIB, "memory__usage_in_bytes": 60 * MIB}
    groups("memory", "5:cpu:/x\n4:memory:/not/seen\n0::/\n", **files, memory__stat=f"total_inactive_file {MIB}")
    assert memory.available_bytes(CPU) == 5 * MIB


@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_a_limit_of_the_process_counts(limit):
    program = (
        "import json, resource, psutil, torch; from mambascope.memory import available_bytes\n"
        f"most = psutil.Process().memory_info().vms + 64 * 2**20; resource.setrlimit(resource.{limit}, (most, most))\n"
        "print(json.dumps(available_bytes(torch.device('cpu')) / 2**20))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-500:]
    left = json.loads(run.stdout)
    vms = psutil.virtual_memory().available / MIB
    assert 0 < left < vms
    assert limit != "RLIMIT_AS" or left < 65


def test_what_torch_keeps_of_a_gpu_for_new_tensors_is_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 70)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 40)
    assert memory.available_bytes(torch.device("cuda")) == 130


def test_the_sentence_has_the_numbers(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device: 2**30)
    like = torch.empty(0)
    memory.require_room((2**14, 2**14), like, "shorten the text")
    with pytest.raises(MapTooLargeError) as caught:
        memory.require_room((2**14, 2**14), like, "shorten the text", copies=2)
    assert str(caught.value) == (
        "a map of shape (16384, 16384) needs 2.0 GiB, but only 1.0 GiB are free; shorten the text"
    )
