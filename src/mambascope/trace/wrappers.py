"""Models inside wrappers, and layers inside adapters: what PyTorch and PEFT wrap a model in, taken off again.

Classes are known by their full names, so that none of these libraries is imported for it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

from mambascope.errors import UnsupportedModelError

#: Classes that only wrap a model, with the name under which they hold it.
WRAPPERS = {
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch.optim.swa_utils.AveragedModel": "module",
    "deepspeed.runtime.engine.DeepSpeedEngine": "module",
    "deepspeed.inference.engine.InferenceEngine": "module",
    "torch.distributed.algorithms._checkpoint.checkpoint_wrapper.CheckpointWrapper": "_checkpoint_wrapped_module",
    "peft.peft_model.PeftModel": "base_model",
    "peft.mixed_model.PeftMixedModel": "base_model",
    "peft.tuners.tuners_utils.BaseTuner": "model",
}

#: Classes of layers that adapt the layer inside them.
ADAPTERS = {"peft.tuners.tuners_utils.BaseTunerLayer", "peft.utils.other.AuxiliaryTrainingWrapper"}

#: Classes of models whose weights are split over processes, with the name of what splits them. While such a model is
#: used its weights may be whole for a moment, so the weights do not tell.
SHARDED = {
    "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel": "FullyShardedDataParallel",
    "torch.distributed.fsdp.FSDPModule": "fully_shard",
    "torch.distributed.fsdp._fully_shard._fully_shard.FSDPModule": "fully_shard",  # its home, which some releases name
}

#: Kinds of adapter that change how the model runs rather than its weights, besides PEFT's prompt learning.
ROUTED = {"XLORA"}

HOOKS = tuple(name for name, value in vars(nn.Module()).items() if isinstance(value, dict) and "_hooks" in name)


@cache
def _names(kind: type) -> frozenset[str]:
    """Return the full names of a class and of its bases."""
    return frozenset(f"{base.__module__}.{base.__name__}" for base in kind.__mro__)


@cache
def _attribute(kind: type) -> str | None:
    known: Any = kind
    return next((WRAPPERS[name] for name in WRAPPERS if name in _names(known)), None)


def inside(module: nn.Module) -> nn.Module | None:
    """Return the module that a wrapper holds; None if this is no wrapper.

    Raises:
        UnsupportedModelError: if the model runs otherwise without the wrapper.
    """
    kind: Any = type(module)
    attribute = _attribute(kind)
    if attribute is not None:
        _refuse_prompts(module)
        return getattr(module, attribute)
    by = next((SHARDED[name] for name in SHARDED if name in _names(kind)), None)
    if by is not None:
        raise UnsupportedModelError(
            f"this model is split into shards by {by}, so no process has its weights as a whole; save it, and load it "
            "in one process"
        )
    return None


def _refuse_prompts(module: Any) -> None:
    """Refuse a PeftModel whose adapter is no change of weights."""
    configurations = getattr(module, "peft_config", None)
    if not isinstance(configurations, dict):
        return
    for name in getattr(module, "active_adapters", configurations):
        found = configurations.get(name)
        kind = getattr(found, "peft_type", None)
        kind = getattr(kind, "value", kind)
        if found is not None and (found.is_prompt_learning or kind in ROUTED):
            raise UnsupportedModelError(
                f"the adapter {name!r} of this {type(module).__name__} is of kind {kind}, which cannot be merged into "
                "the model's weights; explain the model without it (get_base_model()), or with an adapter that "
                "merge_and_unload() merges, such as LoRA"
            )


@cache
def _adapts(kind: type) -> bool:
    return not ADAPTERS.isdisjoint(_names(kind))


def adapts(module: nn.Module) -> bool:
    """Return whether a module is an adapter around a layer."""
    kind: Any = type(module)
    return _adapts(kind)


def merged(adapter: Any, name: Callable[[], str]) -> nn.Module:
    """Return the layer that computes what an adapter does: with merged weights, or the one that the adapter chooses.

    Args:
        adapter: A private copy of the adapter.
        name: Returns its name in the model, for messages.

    Raises:
        UnsupportedModelError: if PEFT cannot merge it.
    """
    if not hasattr(adapter, "base_layer"):
        return _chosen(adapter)
    layer = adapter.get_base_layer()
    if any(getattr(layer, hooks) for hooks in HOOKS if hooks.startswith("_forward")):
        raise _unmerged(adapter, name(), "the layer inside it has hooks of its own")
    _own_state(adapter, layer)
    try:
        with torch.no_grad():
            _merge(adapter)
    except Exception as error:  # PEFT raises whatever suits it
        raise _unmerged(adapter, name(), str(error)) from error
    return adapter.get_base_layer()


def _chosen(wrapper: Any) -> nn.Module:
    """Return the module that a wrapper of PEFT runs in place of the one in it."""
    parts, active = wrapper._modules, wrapper.active_adapters
    if "token_adapter" in parts:
        return parts["token_adapter"]
    if wrapper.disable_adapters or not active or active[0] not in parts["modules_to_save"]:
        return parts["original_module"]
    return parts["modules_to_save"][active[0]]


def _own_state(adapter: nn.Module, layer: nn.Module) -> None:
    """Give a private copy of an adapter what merging changes: weights, and the lists in which PEFT notes it."""
    state = vars(adapter)
    state.update({key: copy.copy(value) for key, value in state.items() if isinstance(value, (list, dict, set))})
    for part in layer.modules():
        weights = {key: value for key, value in part._parameters.items() if value is not None}
        part._parameters.update({key: nn.Parameter(value.clone(), False) for key, value in weights.items()})


def _merge(adapter: Any) -> None:
    """Bring the weights of the layer in an adapter to what the adapter computes."""
    if adapter.disable_adapters and adapter.merged:
        adapter.unmerge()
    elif not adapter.disable_adapters and not adapter.merged:
        adapter.merge()


def check_unwrapped(model: nn.Module) -> None:
    """Raise UnsupportedModelError if anything of PEFT is left in a model."""
    for name, module in model.named_modules():
        if type(module).__module__.startswith("peft."):
            raise _unmerged(module, name, "it is no layer around a layer")


def _unmerged(adapter: nn.Module, name: str, reason: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"the adapter {name} ({type(adapter).__name__}) cannot be merged into the model for this pass: {reason}; call "
        "merge_and_unload() and pass the model that it returns, or explain the model without the adapter"
    )
