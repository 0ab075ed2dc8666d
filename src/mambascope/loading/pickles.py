"""Read what torch.save wrote, without unpickling it: no class is imported and no function called.

A pickle is a program for a small stack machine. This one runs it on inert values: a global is only its name, an object
of any class is a `Stranger` that keeps what it was given, and a tensor is a `Record` of where its values are in the
file. Values are mapped from the file when a record is turned into a tensor, and only if the record fits its storage.

Formats: torch's zip archive (since 1.6) and the sequence of pickles before it; see torch/serialization.py.
"""

from __future__ import annotations

import mmap
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mambascope.errors import CheckpointError
from mambascope.loading.json_files import one_line
from mambascope.numbering import shown

#: What the old format begins with, and its version.
MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001

#: What a zip archive begins with.
ZIP = b"PK\x03\x04"

#: Storage classes of torch, with the type of their values; an untyped one is bytes.
STORAGES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128, "UntypedStorage": torch.uint8,
}  # fmt: skip

#: Types of values, by their names in torch.
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}

#: Modules and functions that no saved model needs: a file that names one was made to run code, and is refused.
HARMFUL_MODULES = {
    "os", "posix", "nt", "sys", "subprocess", "shutil", "socket", "ctypes", "importlib", "runpy", "pty", "commands",
    "code", "io", "_io", "webbrowser", "pdb", "bdb", "timeit", "multiprocessing", "signal", "urllib", "http",
}  # fmt: skip
HARMFUL = {f"builtins.{name}" for name in ("eval", "exec", "compile", "open", "__import__", "input", "breakpoint")}

#: Types that may be keys; the hash of others can take for ever.
PLAIN = (str, int, float, bool, bytes, type(None))


@dataclass(frozen=True)
class Named:
    """A global that the pickle names; it is never looked up."""

    name: str


@dataclass(eq=False)
class Stranger:
    """An object of a class that is not imported: what the pickle stored in it, and nothing that it can do.

    Attributes:
        name: Full name of its class or function.
        items: What was set by key, as in a dict.
        state: Its attributes, as they were pickled.
    """

    name: str
    items: dict[Any, Any] = field(default_factory=dict)
    state: Any = None


@dataclass(frozen=True, eq=False)
class Storage:
    """Values in the file: the key of their place, their type, and how many there are."""

    key: str
    dtype: torch.dtype
    count: int
    skipped: int = 0


@dataclass(frozen=True, eq=False)
class Record:
    """A tensor as the pickle describes it; nothing of it is checked yet."""

    storage: Storage
    dtype: torch.dtype
    offset: Any
    shape: Any
    stride: Any


@dataclass(frozen=True, eq=False)
class Pickled:
    """What a file made by torch.save holds.

    Attributes:
        path: The file.
        found: The object in it, of plain values, `Record` and `Stranger`.
        places: First byte and number of bytes of each storage, by key.
    """

    path: Path
    found: Any
    places: Mapping[str, tuple[int, int]]
    _mapped: mmap.mmap

    def tensor(self, name: str, record: Record) -> Tensor:
        """Return the tensor that a record describes, on the file's own bytes.

        Raises:
            CheckpointError: if the storage is not in the file, or the tensor reaches beyond it or overlaps itself.
        """
        start, size = self._place(name, record)
        width, count = record.dtype.itemsize, size // record.dtype.itemsize
        shape, stride, offset = record.shape, record.stride, record.offset
        sizes = (*shape, *stride, offset) if isinstance(shape, tuple) and isinstance(stride, tuple) else (-1,)
        if any(type(value) is not int or not 0 <= value < 2**63 for value in sizes) or len(shape) != len(stride):
            raise CheckpointError(f"{self.path}: {shown(name)} has no usable shape; copy or download it again")
        if 0 in shape:
            return torch.empty(shape, dtype=record.dtype)
        reach = 0  # the last value of the axes so far, from the innermost; the next axis must step beyond it
        for step, length in sorted(zip(stride, shape, strict=True)):
            if length > 1 and step <= reach:
                raise CheckpointError(
                    f"{self.path}: {shown(name)} has shape {shown(shape)} but repeats values of its storage (strides "
                    f"{shown(stride)}); save a copy of it, tensor.clone()"
                )
            reach += (length - 1) * step
        if offset + reach >= count:
            raise CheckpointError(
                f"{self.path}: {shown(name)} has shape {shown(shape)}, more than the {count:,} values that the file "
                "has for it; it is damaged: copy or download it again"
            )
        flat = torch.frombuffer(self._mapped, dtype=record.dtype, count=count, offset=start)
        return (flat.clone() if start % width else flat).as_strided(shape, stride, offset)

    def _place(self, name: str, record: Record) -> tuple[int, int]:
        storage = record.storage
        start, size = self.places.get(storage.key, (0, -1))
        if size != storage.count * storage.dtype.itemsize or start + size > len(self._mapped):
            raise CheckpointError(
                f"{self.path} is damaged: the values of {shown(name)} are not all in it; copy or download it again"
            )
        return start + storage.skipped * storage.dtype.itemsize, size - storage.skipped * storage.dtype.itemsize


def read_pickled(path: Path) -> Pickled:
    """Return what is in a file made by torch.save; none of its values is read yet, and none of its code run.

    Raises:
        CheckpointError: if the file is damaged, compressed, of another format, or made to run code.
    """
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return (_from_zip if mapped[:4] == ZIP else _from_sequence)(path, mapped)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except CheckpointError:
        raise
    except Exception as error:  # whatever the parsers of zip archives and pickles raise on bytes that are neither
        raise CheckpointError(
            f"{path} is damaged or half-written, or torch.save did not write it ({one_line(error)}); copy or download "
            "it again"
        ) from error


def _from_zip(path: Path, mapped: mmap.mmap) -> Pickled:
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
    roots = [name.removesuffix("data.pkl") for name in entries if name.count("/") <= 1 and name.endswith("data.pkl")]
    if any(name.endswith("/constants.pkl") for name in entries):
        raise CheckpointError(f"{path} is a TorchScript program; save the model's state_dict() instead")
    if len(roots) != 1:
        raise ValueError("it is a zip archive without data.pkl")
    root, data = roots[0], f"{roots[0]}data/"
    places = {
        name.removeprefix(data): _stored(entry, mapped, path)
        for name, entry in entries.items()
        if name.startswith(data)
    }
    if f"{root}byteorder" in entries:
        start, size = _stored(entries[f"{root}byteorder"], mapped, path)
        if mapped[start : start + size] != b"little":
            raise CheckpointError(f"{path} was written on a big-endian machine; save it again on a little-endian one")
    start, size = _stored(entries[f"{root}data.pkl"], mapped, path)
    found = _Machine(path).run(BytesIO(mapped[start : start + size]))
    return Pickled(path, found, places, mapped)


def _stored(entry: zipfile.ZipInfo, mapped: mmap.mmap, path: Path) -> tuple[int, int]:
    """Return the place of a file in an archive, which must be stored as it is."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size or entry.flag_bits & 1:
        raise CheckpointError(
            f"{path} is a compressed archive ({shown(entry.filename)} would become {entry.file_size:,} bytes), which "
            "torch.save does not write; save it again"
        )
    header = mapped[entry.header_offset : entry.header_offset + 30]
    if len(header) < 30 or header[:4] != ZIP:
        raise ValueError("a file of the archive is not where its directory says")
    start = entry.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    if start + entry.file_size > len(mapped):
        raise ValueError("a file of the archive reaches beyond its end")
    return start, entry.file_size


def _from_sequence(path: Path, mapped: mmap.mmap) -> Pickled:
    if _Machine(path).run(mapped) != MAGIC:
        raise ValueError("it does not begin as a file of torch.save does")
    if _Machine(path).run(mapped) != VERSION:
        raise ValueError("it has an unknown version")
    about = _Machine(path).run(mapped)
    if not isinstance(about, dict) or not about.get("little_endian", True):
        raise CheckpointError(f"{path} was written on a big-endian machine; save it again on a little-endian one")
    machine = _Machine(path)
    found = machine.run(mapped)
    places = {}
    for key in _Machine(path).run(mapped):
        count = int.from_bytes(mapped.read(8), "little")
        size = count * machine.storages[key].dtype.itemsize
        places[key] = (mapped.tell(), size)
        mapped.seek(mapped.tell() + size)
    return Pickled(path, found, places, mapped)


class _Machine:
    """Runs the program of one pickle on inert values; nothing is imported, and no attribute of anything is used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.storages: dict[str, Storage] = {}
        self._stack: list[Any] = []
        self._outer: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self, file: Any) -> Any:
        """Return the object that a pickle describes; raises CheckpointError for code, and others for a damaged one."""
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "STOP":
                return self._stack.pop()
            if (step := _STEPS.get(opcode.name)) is not None:
                step(self, argument)
            elif opcode.name not in _LITERALS:
                raise ValueError(f"unexpected {opcode.name}")
            else:
                self._stack.append(argument)
        raise EOFError("a pickle has no end")

    def _mark(self, _: Any) -> None:
        self._outer.append(self._stack)
        self._stack = []

    def _marked(self) -> list[Any]:
        items, self._stack = self._stack, self._outer.pop()
        return items

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _tuple(self, length: int) -> None:
        if len(self._stack) < length:
            raise IndexError("the stack is empty")
        self._stack[-length:] = [tuple(self._stack[-length:])]

    def _append(self, items: list[Any]) -> None:
        if isinstance(held := self._stack[-1], list):
            held.extend(items)
        elif not isinstance(held, Stranger):
            raise TypeError(f"a {type(held).__name__} is no list")

    def _set(self, items: list[Any]) -> None:
        held = self._stack[-1]
        if not isinstance(held, (dict, Stranger)):
            raise TypeError(f"a {type(held).__name__} is no dict")
        into = held if isinstance(held, dict) else held.items
        into.update({key: value for key, value in zip(items[::2], items[1::2], strict=True) if isinstance(key, PLAIN)})

    def _last(self, count: int) -> list[Any]:
        if len(self._stack) < count + 1:
            raise IndexError("the stack is empty")
        items, self._stack[-count:] = self._stack[-count:], []
        return items

    def _dict(self, _: Any) -> None:
        items = self._marked()
        self._push({})
        self._set(items)

    def _frozenset(self, _: Any) -> None:
        self._marked()
        self._push(Stranger("builtins.frozenset"))

    def _global(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("a global has no name")
        module = "builtins" if module == "__builtin__" else module
        full = f"{module}.{name}"
        if module.partition(".")[0] in HARMFUL_MODULES or full in HARMFUL:
            raise CheckpointError(
                f"{self.path} asks to run {shown(full)}, and mambascope never unpickles what can run code; do not "
                "open it with other software, and get the model from a source that you trust, as safetensors"
            )
        self._push(Named(full))

    def _reduce(self, _: Any) -> None:
        arguments = self._stack.pop()
        self._push(self._made(self._stack.pop(), arguments))

    def _inst(self, argument: str) -> None:
        arguments = tuple(self._marked())
        self._global(*argument.split(" ", 1))
        self._push(self._made(self._stack.pop(), arguments))

    def _obj(self, _: Any) -> None:
        what, *arguments = self._marked()
        self._push(self._made(what, tuple(arguments)))

    def _new(self, _: Any) -> None:
        self._stack.pop()
        self._reduce(None)

    def _build(self, _: Any) -> None:
        state = self._stack.pop()
        if isinstance(held := self._stack[-1], Stranger):
            held.state = state

    def _made(self, what: Any, arguments: Any) -> Any:
        """Return what a call would give, for the few calls that describe tensors and dicts; else a stand-in."""
        name = what.name if isinstance(what, Named) else type(what).__name__
        given = arguments if isinstance(arguments, tuple) else ()
        if name == "torch._tensor._rebuild_from_type_v2" and len(given) > 2:
            return self._made(given[0], given[2])
        if name in ("collections.OrderedDict", "builtins.dict", "collections.defaultdict"):
            made: dict[Any, Any] = {}
            for pair in given[0] if given and isinstance(given[0], (list, tuple)) else ():
                if isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[0], PLAIN):
                    made[pair[0]] = pair[1]
            return made
        if name in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state") and given:
            return given[0]
        if name in ("torch.nn.parameter.Parameter", "torch.nn.Parameter") and given:
            return given[0]
        if name.startswith("torch._utils._rebuild_tensor") and len(given) >= 4 and isinstance(given[0], Storage):
            if name.endswith("_v3"):
                named = given[6] if len(given) > 6 else None
                dtype = DTYPES.get(named.name.removeprefix("torch.")) if isinstance(named, Named) else None
            else:
                dtype = given[0].dtype
            if dtype is not None and not any(given[7 if name.endswith("_v3") else 6 :]):
                return Record(given[0], dtype, *given[1:4])
        return Stranger(name)

    def _storage(self, _: Any) -> None:
        held = self._stack.pop()
        match held:
            case ("storage", Named(kind), str(key), _, int(count), *view):
                skipped = view[0][1] if view and isinstance(view[0], tuple) and len(view[0]) == 3 else 0
                name = kind.rpartition(".")[2]
                if count < 0 or not isinstance(skipped, int) or skipped < 0:
                    raise ValueError("a storage has a negative size")
                if name not in STORAGES:  # such as those of quantised tensors
                    self._push(Stranger(kind))
                    return
                self.storages[key] = Storage(key, STORAGES[name], count, skipped)
                self._push(self.storages[key])
            case ("module", Named() as kind, *_):  # a class of a module, which the old format stores with its source
                self._push(kind)
            case _:
                raise ValueError("something other than a storage is outside the pickle")

    def _get(self, argument: Any) -> None:
        self._push(self._memo[int(argument)])

    def _put(self, argument: Any) -> None:
        self._memo[len(self._memo) if argument is None else int(argument)] = self._stack[-1]


_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "STRING", "BINSTRING", "SHORT_BINSTRING",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE",
    "BINUNICODE8", "FLOAT", "BINFLOAT",
}  # fmt: skip

_STEPS: dict[str, Callable[[_Machine, Any], object]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "MARK": _Machine._mark,
    "POP": lambda machine, _: machine._stack.pop() if machine._stack else machine._marked(),
    "POP_MARK": lambda machine, _: machine._marked(),
    "DUP": lambda machine, _: machine._push(machine._stack[-1]),
    "NONE": lambda machine, _: machine._push(None),
    "NEWTRUE": lambda machine, _: machine._push(True),
    "NEWFALSE": lambda machine, _: machine._push(False),
    "EMPTY_DICT": lambda machine, _: machine._push({}),
    "EMPTY_LIST": lambda machine, _: machine._push([]),
    "EMPTY_TUPLE": lambda machine, _: machine._push(()),
    "EMPTY_SET": lambda machine, _: machine._push(Stranger("builtins.set")),
    "LIST": lambda machine, _: machine._push(machine._marked()),
    "TUPLE": lambda machine, _: machine._push(tuple(machine._marked())),
    "DICT": _Machine._dict,
    "FROZENSET": _Machine._frozenset,
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
    "APPEND": lambda machine, _: machine._append(machine._last(1)),
    "APPENDS": lambda machine, _: machine._append(machine._marked()),
    "ADDITEMS": lambda machine, _: machine._append(machine._marked()),
    "SETITEM": lambda machine, _: machine._set(machine._last(2)),
    "SETITEMS": lambda machine, _: machine._set(machine._marked()),
    "GLOBAL": lambda machine, argument: machine._global(*argument.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine._global(machine._stack.pop(-2), machine._stack.pop()),
    "INST": _Machine._inst,
    "OBJ": _Machine._obj,
    "REDUCE": _Machine._reduce,
    "NEWOBJ": _Machine._reduce,
    "NEWOBJ_EX": _Machine._new,
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._storage,
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine._get),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine._put),
}
