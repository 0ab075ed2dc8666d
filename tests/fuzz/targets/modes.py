"""What a user's program may have turned on, wrapped or hung on a model when it calls the library."""

from __future__ import annotations

import contextlib
import copy
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils._python_dispatch import TorchDispatchMode

import mambascope


class HookError(Exception):
    """What another's hook raises; it must come through."""


Mode = Callable[[Any], contextlib.AbstractContextManager[Any]]


@contextlib.contextmanager
def _plain(model: Any) -> Iterator[Any]:
    yield model


@contextlib.contextmanager
def _training(model: Any, share: int = 1) -> Iterator[Any]:
    for module in list(model.modules())[::share]:
        module.training = True
    yield model
    model.eval()


@contextlib.contextmanager
def _inside(context: Callable[[], contextlib.AbstractContextManager[Any]], model: Any) -> Iterator[Any]:
    with context():
        yield model


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype, model: Any) -> Iterator[Any]:
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield model
    finally:
        torch.set_default_dtype(usual)


@contextlib.contextmanager
def _requiring_gradients(model: Any) -> Iterator[Any]:
    needed = [one.requires_grad for one in model.parameters()]
    for k, one in enumerate(model.parameters()):
        one.requires_grad_(k % 2 == 0)
    yield model
    for one, need in zip(model.parameters(), needed, strict=True):
        one.requires_grad_(need)


@contextlib.contextmanager
def _hooks(register: Callable[[nn.Module], list[Any]], model: Any) -> Iterator[Any]:
    handles = [handle for module in model.modules() for handle in register(module)]
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()


def _idle(module: nn.Module) -> list[Any]:
    return [
        module.register_forward_pre_hook(lambda *_: None),
        module.register_forward_hook(lambda *_: None, prepend=True),
        module.register_forward_hook(lambda *_, **__: None, with_kwargs=True, always_call=True),
    ]


def _watching_gradients(module: nn.Module) -> list[Any]:
    return [module.register_full_backward_hook(lambda *_: None)] if not list(module.children()) else []


def _raising(module: nn.Module) -> list[Any]:
    def fail(*_: Any) -> None:
        raise HookError

    is_deep = not list(module.children()) and isinstance(module, nn.Linear)
    return [module.register_forward_hook(fail)] if is_deep else []


def _halving(module: nn.Module) -> list[Any]:
    def halve(_: Any, __: Any, output: Any) -> Any:
        return output * 0.5

    return [module.register_forward_hook(halve)] if isinstance(module, nn.Linear) else []


@contextlib.contextmanager
def _nested(model: Any) -> Iterator[Any]:
    """Capture another model in a hook of this one."""
    from .. import originals

    other, _ = originals.model("mamba2")
    if other is model:  # a hook that runs its own model would never end
        other, _ = originals.model("mamba")
    mixer = next(module for module in model.modules() if hasattr(module, "out_proj") or not list(module.children()))
    handle = mixer.register_forward_hook(
        lambda *_: mambascope.capture(other, input_ids=torch.tensor([[1, 2, 3]])) and None
    )
    try:
        yield model
    finally:
        handle.remove()


@contextlib.contextmanager
def _any_module_hook(model: Any) -> Iterator[Any]:
    handle = register_module_forward_hook(lambda *_: None)
    try:
        yield model
    finally:
        handle.remove()


@contextlib.contextmanager
def _own_forward(model: Any) -> Iterator[Any]:
    """Replace forward on the instance, as libraries that move weights between devices do."""
    forward = model.forward

    @functools.wraps(forward)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    model.forward = wrapped
    try:
        yield model
    finally:
        del model.forward


@contextlib.contextmanager
def _checkpointing(model: Any) -> Iterator[Any]:
    able = getattr(model, "supports_gradient_checkpointing", False)
    kind = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    if able:
        getattr(model, f"{kind}_checkpointing_enable")()
    try:
        yield model
    finally:
        if able:
            getattr(model, f"{kind}_checkpointing_disable")()


@contextlib.contextmanager
def _deterministic(model: Any) -> Iterator[Any]:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield model
    finally:
        torch.use_deterministic_algorithms(False)


class _Watching(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _of_copy(change: Callable[[Any], Any], model: Any) -> Iterator[Any]:
    yield change(copy.deepcopy(model))


class _Wrapper(nn.Module):
    """Somebody's own module around a model."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, **inputs: Any) -> Any:
        return self.inner(**inputs)


def _with_adapter(model: Any) -> Any:
    import peft

    names = {name.rpartition(".")[2] for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    wanted = sorted(names & {"in_proj", "q_proj", "v_proj", "query", "value"}) or sorted(names)  # not Mamba's out_proj
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft asks transformers in an old way
        return peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=wanted, init_lora_weights=True)).eval()


#: Modes in which results are those of the plain model.
SAME: dict[str, Mode] = {
    "plain": _plain,
    "training": _training,
    "partly training": functools.partial(_training, share=2),
    "inference mode": functools.partial(_inside, torch.inference_mode),
    "no gradients": functools.partial(_inside, torch.no_grad),
    "default float64": functools.partial(_default_dtype, torch.float64),
    "default bfloat16": functools.partial(_default_dtype, torch.bfloat16),
    "requiring gradients": _requiring_gradients,
    "hooks": functools.partial(_hooks, _idle),
    "backward hooks": functools.partial(_hooks, _watching_gradients),
    "hook of every module": _any_module_hook,
    "nested": _nested,
    "own forward": _own_forward,
    "checkpointing": _checkpointing,
    "saved on the CPU": functools.partial(_inside, torch.autograd.graph.save_on_cpu),
    "deterministic": _deterministic,
    "dispatch mode": functools.partial(_inside, _Watching),
    "copied": functools.partial(_of_copy, lambda one: one),
    "in its own wrapper": functools.partial(_of_copy, _Wrapper),
    "with an adapter": functools.partial(_of_copy, _with_adapter),
    "default device cpu": functools.partial(_inside, functools.partial(torch.device, "cpu")),
}

#: Modes in which results are others, or there are none.
OTHER: dict[str, Mode] = {
    "autocast": functools.partial(_inside, functools.partial(torch.autocast, "cpu", torch.bfloat16)),
    "default device meta": functools.partial(_inside, functools.partial(torch.device, "meta")),
    "hook that raises": functools.partial(_hooks, _raising),
    "hook that halves": functools.partial(_hooks, _halving),
    "on meta": functools.partial(_of_copy, lambda one: one.to("meta")),
    "half": functools.partial(_of_copy, lambda one: one.to(torch.float16)),
    "bfloat16": functools.partial(_of_copy, lambda one: one.to(torch.bfloat16)),
}

MODES = SAME | OTHER


def drawn(rng: Any) -> str:
    """Return the name of a mode; the plain one most often."""
    return "plain" if rng.random() < 0.3 else rng.choice(sorted(MODES))
