"""A private copy of a model for one pass: every module anew, every tensor shared.

A pass needs the model in evaluation mode, without gradients of its weights, with attention in its eager form and with
hooks of its own. All of that is changed on the copy. So nobody else's pass notices: neither another thread's stock
pass, nor its training step, nor another of ours. The model's own hooks act in the copy as well.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mambascope.errors import UnsupportedModelError
from mambascope.families import check_model, unshare
from mambascope.trace.quantised import refuse_quantised
from mambascope.trace.references import References
from mambascope.trace.wrappers import HOOKS, adapts, check_unwrapped, inside, merged


def plain_model(model: Any) -> Any:
    """Return the model inside wrappers; if any wrapper or adapter is further inside, a private copy without them.

    A model without any comes back itself.

    Raises:
        InputError: if this is not a model.
        UnsupportedModelError: as `private_copy` does.
    """
    check_model(model)
    refuse_quantised(model)
    outside = model
    while (wrapped := inside(model)) is not None:
        if any(getattr(model, name) for name in HOOKS):
            return private_copy(outside)
        model = wrapped
    further = any(adapts(part) or inside(part) is not None for part in model.modules())
    return private_copy(model) if further else model


def private_copy(model: nn.Module, *, eager: bool = False) -> nn.Module:
    """Return a copy of a model that shares its tensors, in evaluation mode and with constant weights.

    Wrappers are left out, and adapters are merged into the layers that they adapt, in the copy only. Tensors that the
    model's own code changes in place are copied.

    Args:
        model: The model.
        eager: Run attention in its eager form, which returns its probabilities, and experts in theirs, which knows
            every precision; and make no cache.

    Raises:
        InputError: if this is not a model.
        UnsupportedModelError: if weights are quantised or not in memory as a whole, or an adapter cannot be merged.
    """
    check_model(model)
    refuse_quantised(model)
    copying = _Copying(model, eager)
    twin = copying.module(model)
    copying.rebind()
    check_unwrapped(twin)
    unshare(twin)
    return twin


class _Copying:
    """One copy that is being made."""

    def __init__(self, model: nn.Module, eager: bool) -> None:
        self._references = References(model, eager)
        self._made: list[nn.Module] = []

    def module(self, module: nn.Module) -> nn.Module:
        """Return the copy of a module, of those in it and of their tensors."""
        if module not in self._references:
            self._references.put(module, self._module(module))
        return self._references.of(module)

    def _module(self, module: nn.Module) -> nn.Module:
        wrapped = inside(module)
        if wrapped is not None:
            return _with_hooks(self.module(wrapped), module)
        if isinstance(module, torch.jit.ScriptModule):
            return self._script(module)
        twin: nn.Module = object.__new__(type(module))
        self._references.put(module, twin)  # before its children, which may hold it
        state = vars(twin)
        state.update(vars(module))
        state.update({name: state[name].copy() for name in HOOKS})
        for kind in ("_parameters", "_buffers"):
            state[kind] = {name: self._references.tensor(value) for name, value in state[kind].copy().items()}
        children = state["_modules"].copy().items()
        state["_modules"] = {name: None if child is None else self.module(child) for name, child in children}
        state["training"], state["_compiled_call_impl"] = False, None
        if adapts(module):
            return _with_hooks(merged(twin, lambda: self._references.name(module)), module)
        self._made.append(twin)
        return twin

    def _script(self, module: nn.Module) -> nn.Module:
        """Return a module of TorchScript itself: its mode cannot be changed in a copy that shares its tensors."""
        if module.training:
            raise UnsupportedModelError(
                f"{self._references.name(module)} is a module of TorchScript in training mode, which a pass would have "
                "to change for everybody; call eval() on the model first"
            )
        return module

    def rebind(self) -> None:
        """Let the attributes of the new modules refer to new modules wherever they refer to modules of the model."""
        for twin in self._made:
            self._references.rebind(twin)


def _with_hooks(twin: nn.Module, wrapper: nn.Module) -> nn.Module:
    """Return the copy of what was inside a wrapper, with the hooks of the wrapper after its own."""
    for name in HOOKS:
        getattr(twin, name).update(getattr(wrapper, name))
    return twin
