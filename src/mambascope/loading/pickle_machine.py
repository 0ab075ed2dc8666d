"""The stack machine of a pickle, run on inert values: nothing is imported, called, or asked for an attribute.

A global is only its name, an object of any class is a `Stranger` that keeps what it was given, and a tensor is a
`Record` of where its values are. Opcodes: `pickletools`.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mambascope.errors import CheckpointError
from mambascope.numbering import shown

#: Storage classes of torch, with the type of their values; an untyped one is bytes.
STORAGES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128, "UntypedStorage": torch.uint8,
}  # fmt: skip

#: Types of values, by their names in torch.
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}

#: Modules and functions that no saved model needs. A file that names one was made to run code: it would not run here,
#: but it is refused, so that its reader knows.
HARMFUL_MODULES = {
    "os", "posix", "nt", "sys", "subprocess", "shutil", "socket", "ctypes", "importlib", "runpy", "pty", "webbrowser",
    "commands",  # what subprocess is called in old protocols
}  # fmt: skip
HARMFUL = {f"builtins.{name}" for name in ("eval", "exec", "compile", "open", "__import__", "input", "breakpoint")} | {
    "io.open", "_io.open", "io.FileIO", "_io.FileIO",
}  # fmt: skip

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


class Machine:
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

_STEPS: dict[str, Callable[[Machine, Any], object]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "MARK": Machine._mark,
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
    "DICT": Machine._dict,
    "FROZENSET": Machine._frozenset,
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
    "INST": Machine._inst,
    "OBJ": Machine._obj,
    "REDUCE": Machine._reduce,
    "NEWOBJ": Machine._reduce,
    "NEWOBJ_EX": Machine._new,
    "BUILD": Machine._build,
    "BINPERSID": Machine._storage,
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), Machine._get),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), Machine._put),
}
