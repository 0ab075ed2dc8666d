"""Devices that this machine lacks: tensors of the processor that are taken to be on one of several.

Every storage has a place, `xpu:0` or the like. Operations run as they are, on the processor; but as on real devices,
their tensors must be in one place, `tensor.device` names it, and what is made or moved there is in it.
"""

from __future__ import annotations

from contextlib import ExitStack
from operator import attrgetter
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

accelerate = pytest.importorskip("accelerate")

CPU = torch.device("cpu")
#: Two devices of a type for which neither torch nor mambascope has code of its own on a machine without it.
DEVICES = (torch.device("xpu:0"), torch.device("xpu:1"))

DEVICE_OF = torch.Tensor.device.__get__
#: Operations whose indices may be on the processor, whatever is indexed.
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
#: Operations that take a single number from the processor, besides those that go number by number.
FILLING = INDEXING | {"aten::fill_", "aten::fill", "aten::masked_fill", "aten::masked_fill_", "aten::index_fill_"}


#: The places of storages, by number; the references keep the numbers unique. Caches outlive a block, so places do too.
PLACES: dict[int, tuple[StorageWeakRef, torch.device | None]] = {}


class Placed:
    """Inside the block, tensors have places; tensors from elsewhere are on the processor."""

    def __init__(self) -> None:
        self._unknown: torch.device | None = CPU
        self._operations, self._calls, self._stack = _Operations(self), _Calls(self), ExitStack()

    def __enter__(self) -> Placed:
        backward = torch.autograd.graph._engine_run_backward

        def run_backward(*args: Any, **kwargs: Any) -> Any:
            before, self._unknown = self._unknown, None  # torch makes gradients of zero out of sight
            try:
                with self._calls:  # which torch leaves for the time of a call, but backward passes call Python
                    return backward(*args, **kwargs)
            finally:
                self._unknown = before

        self._stack.enter_context(mock.patch.object(torch.autograd, "_engine_run_backward", run_backward))
        self._stack.enter_context(mock.patch.object(torch, "Generator", _Generator))
        self._stack.enter_context(self._operations)
        self._stack.enter_context(self._calls)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def of(self, tensor: Tensor) -> torch.device | None:
        """Return a tensor's place; None for one that torch made on its way, which fits anywhere."""
        if tensor.is_meta:
            return tensor.device
        found = PLACES.get(tensor.untyped_storage()._cdata)
        return self._unknown if found is None else found[1]

    def put(self, value: Any, place: torch.device | None) -> None:
        """Take the tensors in a value to be in a place."""
        for tensor in tensors_in(value):
            if not tensor.is_meta:
                storage = tensor.untyped_storage()
                PLACES[storage._cdata] = (StorageWeakRef(storage), place)

    def moved(self, tensor: Tensor, place: torch.device) -> Tensor:
        """Return a tensor, or a copy of it in another place."""
        return tensor if place.type == "meta" or self.of(tensor) in (place, None) else _Move.apply(tensor, place, self)


class _Generator(torch.Generator):
    """Random numbers of the processor for any place."""

    def __new__(cls, device: Any = None) -> _Generator:
        return super().__new__(cls)

    def __init__(self, device: Any = None) -> None:
        super().__init__()


class _Move(torch.autograd.Function):
    """A copy in another place, whose gradient goes back to where the tensor was."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, place: torch.device, placed: Placed) -> Tensor:
        ctx.back, ctx.placed, copy = placed.of(tensor), placed, tensor.clone()
        placed.put(copy, place)
        return copy

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.placed.moved(gradient, ctx.back), None, None


class _Operations(TorchDispatchMode):
    """Refuses operations between places, and puts what they make where their tensors are."""

    def __init__(self, placed: Placed) -> None:
        super().__init__()
        self._placed = placed

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given, of = tensors_in((args, kwargs)), self._placed.of
        name, numbers = func._schema.name, torch.Tag.pointwise in func.tags or func._schema.name in FILLING
        indices = {id(one) for one in tensors_in(args[1])} if name in INDEXING else set()
        free = {id(one) for one in given if of(one) == CPU and ((one.ndim == 0 and numbers) or id(one) in indices)}
        changed = [one for one, argument in zip(args, func._schema.arguments, strict=False) if _written(argument)]
        bound = {id(one) for one in tensors_in((changed, (kwargs or {}).get("out")))}
        places = {of(one) for one in given if id(one) not in free - bound} - {None}
        if len(places) > 1:
            where = ", ".join(f"{tuple(one.shape)} on {of(one)}" for one in given)
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, found {where}")
        place = next(iter(places), CPU if CPU in map(of, given) else None)
        result, known = func(*args, **(kwargs or {})), set(map(_storage, given))
        self._placed.put([one for one in tensors_in(result) if _storage(one) not in known or of(one) is None], place)
        return result


class _Calls(TorchFunctionMode):
    """Answers and carries out what names a device: `tensor.device`, `.to(…)`, `torch.zeros(…, device=…)`."""

    def __init__(self, placed: Placed) -> None:
        super().__init__()
        self._placed = placed

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, placed, name = dict(kwargs or {}), self._placed, getattr(func, "__name__", "")
        if func == DEVICE_OF:
            return placed.of(args[0]) or CPU
        if name in ("numpy", "__array__") and placed.of(args[0]) not in (CPU, None):
            raise TypeError(f"can't convert a tensor on {placed.of(args[0])} to numpy; use Tensor.cpu() first")
        if name == "copy_" or (name == "__setitem__" and not tensors_in(args[1]) and isinstance(args[2], Tensor)):
            args = (*args[:-1], placed.moved(args[-1], placed.of(args[0]) or CPU))
        place, given = None, tensors_in((args, kwargs))
        if name in ("to", "type_as") and isinstance(args[0], Tensor):
            args, kwargs, place = self._where(args, kwargs)
        elif name == "cpu":
            return placed.moved(args[0], CPU)
        elif name == "new_tensor":
            place = torch.device(kwargs.pop("device", None) or placed.of(args[0]) or CPU)
        elif kwargs.get("device") is not None:
            place = torch.device(kwargs["device"])
            kwargs["device"] = place if place.type == "meta" else CPU
        result = func(*args, **kwargs)
        if place is not None and place.type != "meta":
            if _storage(result) in map(_storage, given):
                return placed.moved(result, place)
            placed.put(result, place)
        elif not given and isinstance(result, Tensor) and placed.of(result) is None:
            placed.put(result, CPU)
        return result

    def _where(self, args: Any, kwargs: Any) -> Any:
        """Return the arguments of `.to(…)` without a device, and the device."""
        tensor, *rest = args
        other = next((one for one in (*rest, kwargs.get("other")) if isinstance(one, Tensor)), None)
        if other is not None:
            return (tensor, other), {}, self._placed.of(other) or CPU
        device, dtype, _, memory_format = torch._C._nn._parse_to(
            *rest, **{key: value for key, value in kwargs.items() if key != "copy"}
        )
        if device is not None and device.type == "meta":
            return args, kwargs, None
        options = {"dtype": dtype or tensor.dtype, "copy": kwargs.get("copy", False), "memory_format": memory_format}
        return (tensor,), {key: one for key, one in options.items() if one is not None}, device


def spread(model: nn.Module, placed: Placed) -> nn.Module:
    """Return a model whose layers accelerate's hooks run on two devices: the first there, the others with what follows.

    A head that is tied to the embeddings stays with them. To be called inside the block of `placed`.
    """
    layers = next(name for name, one in model.named_modules() if isinstance(one, nn.ModuleList))
    body, count = layers.rpartition(".")[0], len(model.get_submodule(layers))
    before, after = DEVICES
    places = {f"{layers}.{number}": before if number < count // 2 else after for number in range(count)}
    parts = [f"{body}.{name}" for name, _ in model.get_submodule(body).named_children()]
    places |= {part: before if number < parts.index(layers) else after for number, part in enumerate(parts)}
    tied = model.config.get_text_config().tie_word_embeddings
    places |= {name: before if tied else after for name, _ in model.named_children() if name != body}
    del places[layers]

    def put(module: nn.Module, name: str, device: torch.device, **_: Any) -> None:
        placed.put(attrgetter(name)(module), torch.device(device))  # where accelerate asks whether there is such a one

    with mock.patch.object(accelerate.hooks, "set_module_tensor_to_device", put):
        return accelerate.dispatch_model(model, places, force_hooks=True)


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors in a value."""
    return [one for one in tree_leaves(value) if isinstance(one, Tensor)]


def _written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _storage(tensor: Tensor) -> int | None:
    return None if tensor.is_meta else tensor.untyped_storage()._cdata
