"""No file runs code, and none takes more memory than it is long, whatever its pickle says."""

import builtins
import copyreg
import io
import os
import pickle
import struct
import subprocess
import zipfile
from pathlib import Path

import pytest
import torch

from mambascope.loading.load import load
from mambascope.loading.pickle_machine import Stranger
from mambascope.loading.pickles import read_pickled
from models import stock_model
from refusals import refused

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product


@pytest.fixture
def folder(tmp_path):
    stock_model("mamba").save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    return tmp_path / "model"


class Call:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


def archive(path: Path, program: bytes, storages=(), compressed=(), name="archive"):
    """Write a file as torch.save does, with this program as its pickle."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}/data.pkl", program)
        file.writestr(f"{name}/byteorder", "little")
        for key, values in dict(storages).items():
            kind = zipfile.ZIP_DEFLATED if key in compressed else zipfile.ZIP_STORED
            file.writestr(f"{name}/data/{key}", values, compress_type=kind)
    return path


def mark_of(folder):
    return str(folder.parent / "was-here")


CALLS = {
    "os.system": lambda mark: Call(os.system, f"touch {mark}"),
    "posix.system": lambda mark: Call(os.open, mark, os.O_CREAT),
    "subprocess": lambda mark: Call(subprocess.check_call, ["touch", mark]),
    "eval": lambda mark: Call(builtins.eval, f"open({mark!r}, 'w')"),
    "exec": lambda mark: Call(builtins.exec, f"open({mark!r}, 'w')"),
    "__import__": lambda mark: Call(builtins.__import__, "antigravity"),
    "io.open": lambda mark: Call(io.open, mark, "w"),
    "nested": lambda mark: Call(copyreg._reconstructor, Call(os.system, f"touch {mark}"), object, None),
    "in the state": lambda mark: Call(set, (), state=Call(os.system, f"touch {mark}")),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("beside", [True, False])
def test_a_call_that_could_do_harm_is_named_and_never_made(folder, call, zipped, beside):
    mark = mark_of(folder)
    tensors = dict(stock_model("mamba").state_dict())
    held = {"model": tensors, "extra": CALLS[call](mark)} if beside else tensors | {"extra": CALLS[call](mark)}
    torch.save(held, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    refused(folder, "asks to run .*mambascope never unpickles what can run code")
    assert not Path(mark).exists()


PROGRAMS = {
    "a dotted name": b"\x80\x04\x8c\x05torch\x8c\x11os.path.os.system\x93\x8c\x02ls\x85R.",
    "a name from the stack": b"\x80\x04\x8c\x05shlex\x8c\x09os.system\x93\x8c\x02ls\x85R.",
    "INST": b"(S'ls'\nicode\nInteractiveInterpreter\n.",
    "OBJ": b"(cbuiltins\neval\nS'1'\no.",
    "a name of python 2": b"c__builtin__\neval\n(S'1'\ntR.",
    "an extension": b"\x80\x02\x82\x01.",
    "a persistent name": b"Pnonsense\n.",
    "a storage of another kind": b"\x80\x02(X\x07\x00\x00\x00storagecos\nsystem\nX\x01\x00\x00\x000"
    b"X\x03\x00\x00\x00cpuK\x05tQ.",
    "a buffer": b"\x80\x05\x97.",
    "no end": b"\x80\x02}q\x00",
    "an empty stack": b"\x80\x02.",
    "a mark that never was": b"\x80\x02e.",
    "a memo that never was": b"\x80\x02h\x05.",
    "a length of 4 GB": b"\x80\x02X\xff\xff\xff\xffa.",
    "a length of 8 EB": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"a.",
    "a number of 2 GB": b"\x80\x02\x8b\xff\xff\xff\x7f1.",
    "ten thousand digits": b"L" + b"9" * 10_000 + b"L\n.",
    "a list in itself": b"\x80\x02]q\x00h\x00a.",
    "a dict in itself": b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.",
    "a key whose hash takes for ever": b"\x80\x02}K\x01\x85" + b"2\x86" * 64 + b"K\x01s.",
    "a thousand million laughs": b"\x80\x02]K\x01a" + b"2\x86" * 100 + b".",
    "build on a class": b"\x80\x02cbuiltins\nobject\n}X\x01\x00\x00\x00aK\x01sb.",
    "build on a tuple": b"\x80\x02K\x01\x85}X\x01\x00\x00\x00aK\x01sb.",
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_that_no_saved_model_has(folder, program):
    archive(folder / "pytorch_model.bin", PROGRAMS[program])
    refused(folder, "pytorch_model.bin (is damaged|asks to run|holds no tensors by name)", seconds=5, mebibytes=150)


def test_nothing_of_a_strange_class_is_called(tmp_path):
    """A stand-in keeps what was stored in it; building it, setting its state and filling it run nothing."""
    torch.save({"a": Strange([1, 2]), "b": Path("/x"), "c": torch.float16}, tmp_path / "file.pt")
    CALLED.clear()
    found = read_pickled(tmp_path / "file.pt").found
    assert not CALLED
    assert isinstance(found["a"], Stranger)
    assert found["a"].name.endswith("Strange")
    assert (found["a"].items, found["a"].state) == ({"key": 1}, {"size": 2})


CALLED = []


class Strange(dict):
    def __init__(self, items):
        CALLED.append("init")

    def __reduce__(self):
        return Strange, ([1],), {"size": 2}, None, iter([("key", 1)])

    def __setstate__(self, state):
        CALLED.append("setstate")

    def __setitem__(self, key, value):
        CALLED.append("setitem")


def record(shape, stride, offset=0, count=4, key="0"):
    """Return the pickle of {'a': a tensor}, as torch.save would write it for this shape."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, key, "cpu", count) if value == "the storage" else None

    file = io.BytesIO()
    pickler = Pickler(file, protocol=2)
    arguments = ("the storage", offset, shape, stride, False, {})
    pickler.dump({"backbone.norm_f.weight": Call(torch._utils._rebuild_tensor_v2, *arguments)})
    return file.getvalue()


SHAPES = {
    "repeats": (record((10**9,), (0,)), "repeats values of its storage"),
    "repeats many": (record((10**5, 10**5), (0, 0)), "repeats values"),
    "overlaps": (record((2, 3), (1, 1)), "repeats values"),
    "too long": (record((5,), (1,)), "more than the 4 values"),
    "too far": (record((2,), (1,), offset=3), "more than the 4 values"),
    "negative": (record((-1,), (1,)), "no usable shape"),
    "negative stride": (record((2,), (-1,)), "no usable shape"),
    "negative offset": (record((2,), (1,), offset=-1), "no usable shape"),
    "too large for any": (record((2**70,), (1,)), "no usable shape"),
    "of another kind": (record((2.5,), (1,)), "no usable shape"),
    "of too many axes": (record((1,) * 1000, (1,) * 1000), "no usable shape"),
    "no values, and too many": (record((2**62, 2**62, 0), (1, 1, 1)), "without any values"),
    "no tuple": (record("ab", (1,)), "no usable shape"),
    "too few strides": (record((2, 2), (1,)), "no usable shape"),
    "a storage that is absent": (record((4,), (1,), key="9"), "are not all in it"),
    "a storage of another size": (record((4,), (1,), count=10**9), "are not all in it"),
    "no values": (record((10**12, 0), (1, 1)), "without any values"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_tensor_lies_within_its_storage(folder, shape):
    program, message = SHAPES[shape]
    archive(folder / "pytorch_model.bin", program, {"0": bytes(16)})
    refused(folder, message, mebibytes=100)


def test_a_storage_that_inflates_is_refused_before_it_does(folder):
    """A gigabyte of zeros is a megabyte in a compressed archive."""
    archive(folder / "pytorch_model.bin", record((4,), (1,)), {"0": bytes(16), "1": bytes(10**8)}, compressed=["1"])
    assert (folder / "pytorch_model.bin").stat().st_size < 10**6
    refused(folder, "compressed archive .*100,000,000 bytes", mebibytes=50)


def test_few_values_are_not_many_tensors(folder):
    shared = torch.ones(10**5)
    torch.save({f"backbone.layers.{k}.mixer.D": shared for k in range(1000)}, folder / "pytorch_model.bin")
    refused(folder, "gives 100,000 values as tensors of 100,000,000 values in all", mebibytes=100)


@pytest.mark.parametrize("kind", [torch.complex64, torch.int32, torch.bool])
def test_values_of_other_kinds_are_no_weights(folder, kind):
    tensors = dict(stock_model("mamba").state_dict())
    tensors["backbone.norm_f.weight"] = torch.ones(12, dtype=kind)
    torch.save(tensors, folder / "pytorch_model.bin")
    refused(folder, f"backbone.norm_f.weight holds {str(kind).removeprefix('torch.')} values")


@pytest.mark.parametrize("make", [lambda t: t.to_sparse(), lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8)])
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_no_plain_values_are_missing(folder, make):
    tensors = dict(stock_model("mamba").state_dict())
    tensors["backbone.norm_f.weight"] = make(tensors["backbone.norm_f.weight"])
    torch.save(tensors, folder / "pytorch_model.bin")
    refused(folder, "lacks 1 tensor .*norm_f")


def test_a_program_of_torch_is_named(folder):
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), folder / "pytorch_model.bin")
    refused(folder, "is a TorchScript program")


def test_the_values_read_are_those_that_torch_reads(tmp_path):
    """Views, other types, shared and transposed tensors, in both formats; torch itself is the reference."""
    base = torch.randn(6, 8)
    held = {
        "plain": base,
        "turned": base.t(),
        "part": base[1:3, 2:5],
        "every other": base[::2],
        "one": torch.tensor(3.0),
        **{
            str(kind): torch.arange(6).to(kind)
            for kind in (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
        },
        "parameter": torch.nn.Parameter(torch.randn(3)),
    }
    for zipped in (True, False):
        path = tmp_path / f"{zipped}.pt"
        if zipped:  # the old format has no place for this type
            held["eight bits"] = torch.ones(3).to(torch.float8_e4m3fn)
        else:
            del held["eight bits"]
        torch.save(held, path, _use_new_zipfile_serialization=zipped)
        expected, pickled = torch.load(path, weights_only=True), read_pickled(path)
        for name, value in expected.items():
            found = pickled.tensor(name, pickled.found[name])
            assert (found.dtype, found.shape) == (value.dtype, value.shape), name
            assert torch.equal(found.float(), value.float()), name


def test_an_unchanged_file_loads(folder):
    torch.save(stock_model("mamba").state_dict(), folder / "pytorch_model.bin")
    load(folder)
