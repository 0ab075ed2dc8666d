"""What refers to a module: attributes, containers, bound methods and closures, made to refer to its copy instead.

`model.forward` may be replaced on one object: by accelerate's hooks, mixed precision, torch.compile or a user. Such a
replacement holds the module whose `forward` it replaced, and would run that instead of the copy.
"""

from __future__ import annotations

import copy
import sys
import types
import weakref
from functools import partial, singledispatchmethod
from typing import Any

import torch
from torch import Tensor, nn
from transformers.configuration_utils import PreTrainedConfig

from mambascope.errors import UnsupportedModelError
from mambascope.trace.wrappers import HOOKS

#: Types of values that refer to nothing.
PLAIN = frozenset({bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size})

#: Attributes of a module that its copy has of its own.
OWN = frozenset({"_parameters", "_buffers", "_modules", *HOOKS})

#: The attribute of what torch.compile returns that holds what was compiled.
COMPILED = "_torchdynamo_orig_callable"


class References:
    """What stands in a copy for the parts of the model, by identity.

    Attributes:
        model: The model.
        eager: Whether attention and experts run in their eager form in the copy, and no cache is made.
    """

    def __init__(self, model: nn.Module, eager: bool) -> None:
        self.model, self.eager = model, eager
        self._twins: dict[int, tuple[Any, Any]] = {}  # with the original, whose identity must not pass to another

    def __contains__(self, part: Any) -> bool:
        return id(part) in self._twins

    def put(self, part: Any, twin: Any) -> None:
        """Note what stands for a part of the model."""
        self._twins[id(part)] = (part, twin)

    def of(self, value: Any) -> Any:
        """Return what stands for a value: itself, unless it refers to a part of the model."""
        if type(value) in PLAIN:
            return value
        if value not in self:
            self.put(value, value)  # in case it refers to itself
            self.put(value, self._of(value))
        return self._twins[id(value)][1]

    def tensor(self, tensor: Tensor | None) -> Tensor | None:
        """Return a tensor that shares a parameter's or buffer's storage and asks for no gradient.

        One that was made in inference mode is copied, since backward passes cannot use it.
        """
        if tensor is None:
            return None
        if tensor not in self:
            self._check_whole(tensor)
            twin = tensor.clone() if tensor.is_inference() else tensor.detach() if tensor.requires_grad else tensor
            again = isinstance(tensor, nn.Parameter) and twin is not tensor
            self.put(tensor, nn.Parameter(twin, False) if again else twin)
        return self._twins[id(tensor)][1]

    def _check_whole(self, tensor: Tensor) -> None:
        distributed = sys.modules.get("torch.distributed.tensor")
        if tensor.is_meta or nn.parameter.is_lazy(tensor):
            raise UnsupportedModelError(
                f"{self.name(tensor)} of this {type(self.model).__name__} has no numbers in memory: the model was "
                "made without weights, or they were offloaded; load it as a whole, without device_map, and pass that"
            )
        deepspeed = hasattr(tensor, "ds_tensor") and not tensor.numel()  # stage 3 of ZeRO, between two passes
        if deepspeed or (distributed is not None and isinstance(tensor, distributed.DTensor)):
            raise UnsupportedModelError(
                f"{self.name(tensor)} of this {type(self.model).__name__} is split over several processes; save the "
                "model, and load it in one process"
            )

    def name(self, part: nn.Module | Tensor) -> str:
        """Return the name of a part in the model, for messages."""
        model = self.model
        known = (*model.named_modules(), *model.named_parameters(), *model.named_buffers())
        return next((name for name, one in known if one is part and name), "the model")

    def rebind(self, twin: nn.Module) -> None:
        """Replace what the attributes of a new module, and methods among its hooks, refer to."""
        state = vars(twin)
        for name, value in state.items():
            if type(value) not in PLAIN and name not in OWN:
                state[name] = self.of(value)
        for hooks in (state[name] for name in HOOKS if state[name]):
            methods = {key: hook for key, hook in hooks.items() if isinstance(hook, types.MethodType)}
            hooks.update({key: self.of(hook) for key, hook in methods.items() if hook.__self__ in self})

    @singledispatchmethod
    def _of(self, value: Any) -> Any:
        """Return what stands for an object that is called: its attributes may hold what it calls."""
        return self._with_attributes(value) if callable(value) else value

    def _with_attributes(self, value: Any) -> Any:
        if not hasattr(value, "__dict__"):
            return value
        attributes = {name: self.of(part) for name, part in vars(value).items()}
        if all(attributes[name] is part for name, part in vars(value).items()):
            return value
        twin = copy.copy(value)
        vars(twin).update(attributes)
        return twin

    @_of.register(type)
    @_of.register(nn.Module)
    @_of.register(types.BuiltinFunctionType)
    def _of_itself(self, value: Any) -> Any:
        return value

    @_of.register(Tensor)
    def _of_tensor(self, value: Tensor) -> Any:
        return self.tensor(value)

    @_of.register(PreTrainedConfig)
    def _of_configuration(self, value: PreTrainedConfig) -> PreTrainedConfig:
        if not self.eager:
            return value
        twin = copy.copy(value)
        vars(twin).update({name: self.of(part) for name, part in vars(value).items()})
        vars(twin)["_attn_implementation_internal"] = "eager"
        if "_experts_implementation_internal" in vars(twin):  # the grouped product of experts has no float64 form
            vars(twin)["_experts_implementation_internal"] = "eager"
        if getattr(twin, "use_cache", None):  # inside a module of the user's own, no argument tells the model so
            vars(twin)["use_cache"] = False
        return twin

    @_of.register(list)
    @_of.register(tuple)
    @_of.register(set)
    def _of_sequence(self, value: Any) -> Any:
        parts = [self.of(part) for part in value]
        if all(new is old for new, old in zip(parts, value, strict=True)):
            return value
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)

    @_of.register(dict)
    def _of_dictionary(self, value: dict[Any, Any]) -> Any:
        keys, parts = list(map(self.of, value)), list(map(self.of, value.values()))
        if all(new is old for new, old in zip((*keys, *parts), (*value, *value.values()), strict=True)):
            return value
        twin = copy.copy(value)
        twin.clear()
        twin.update(zip(keys, parts, strict=True))
        return twin

    @_of.register(weakref.ref)
    def _of_weak_reference(self, value: weakref.ref[Any]) -> Any:
        twin = self.of(value())
        return value if twin is value() else weakref.ref(twin)

    @_of.register(types.MethodType)
    def _of_method(self, value: types.MethodType) -> Any:
        owner = value.__self__
        twin = self.of(owner) if owner in self or isinstance(owner, (type, nn.Module)) else self._with_attributes(owner)
        function = self.of(value.__func__)
        return value if twin is owner and function is value.__func__ else types.MethodType(function, twin)

    @_of.register(partial)
    def _of_partial(self, value: partial[Any]) -> Any:
        function, arguments, named = self.of(value.func), self.of(value.args), self.of(value.keywords)
        if function is value.func and arguments is value.args and named is value.keywords:
            return value
        twin = partial(function, *arguments, **named)
        vars(twin).update({name: self.of(part) for name, part in vars(value).items()})
        return twin

    @_of.register(types.FunctionType)
    def _of_function(self, value: types.FunctionType) -> Any:
        compiled = vars(value).get(COMPILED)
        if compiled is not None:
            return self.of(compiled)
        cells = tuple(map(self._of_cell, value.__closure__ or ()))
        if all(new is old for new, old in zip(cells, value.__closure__ or (), strict=True)):
            return value
        twin = types.FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, cells)
        twin.__kwdefaults__ = value.__kwdefaults__
        vars(twin).update({name: self.of(part) for name, part in vars(value).items()})
        return twin

    def _of_cell(self, cell: types.CellType) -> types.CellType:
        """Return the variable of a closure, or one of its own if it refers to another part in the copy."""
        try:
            content = cell.cell_contents
        except ValueError:  # not assigned yet
            return cell
        twin = self.of(content)
        return cell if twin is content else types.CellType(twin)
