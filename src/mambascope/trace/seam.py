"""The one place where something global changes: the scan functions of transformers, for the time of a capture.

A dispatcher takes the place of each family's scan function while at least one capture runs anywhere. It looks at a
context variable, which every thread has for itself: a thread that captures has its calls recorded; all other calls go
to the original function, as if nothing had happened.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from mambascope.errors import InputError
from mambascope.trace.families import Family


@runtime_checkable
class Recorder(Protocol):
    """Whoever captures: it is handed every scan call of its own thread."""

    def record(self, family: Family, consumed: dict[str, Tensor], scan_error: float) -> None:
        """Take the tensors that one call consumed, and how far our scan was from the model's own on the first ones."""


#: Tokens on which every captured scan is held against the model's own reference.
PREFIX = 8

_recorder: ContextVar[Recorder | None] = ContextVar("mambascope_recorder", default=None)
_lock = threading.Lock()
_users: dict[str, int] = {}
_originals: dict[str, Callable[..., Any]] = {}


def listener() -> Recorder | None:
    """Return whoever captures in this thread, if anyone does."""
    return _recorder.get()


@contextmanager
def listening(recorder: Recorder, families: Iterable[Family]) -> Iterator[None]:
    """Hand this thread's scan calls to `recorder` inside the block; restore everything after it, whatever happens."""
    with ExitStack() as stack:
        for family in families:
            stack.enter_context(_dispatching(family))
        token = _recorder.set(recorder)
        stack.callback(_recorder.reset, token)
        yield


@contextmanager
def _dispatching(family: Family) -> Iterator[None]:
    """Keep the dispatcher in place while anyone uses it; the last user puts the original back."""
    module = family.source()
    with _lock:
        if not _users.get(family.module):
            _originals[family.module] = getattr(module, family.seam)
            setattr(module, family.seam, _dispatcher(family, _originals[family.module]))
        _users[family.module] = _users.get(family.module, 0) + 1
    try:
        yield
    finally:
        with _lock:
            _users[family.module] -= 1
            if not _users[family.module]:
                setattr(module, family.seam, _originals.pop(family.module))


def _dispatcher(family: Family, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def dispatch(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        recorder = _recorder.get()
        if recorder is None:
            return original(hidden_states, *args, **kwargs)
        if (
            kwargs.get("return_last_state")
            or kwargs.get("return_final_states")
            or kwargs.get("initial_states") is not None
        ):
            raise InputError("a capture reads a whole text at once; pass no cache (use_cache=False, no cache_params)")
        fast = not has_kernel(hidden_states)
        output, consumed = family.intercept(original, fast, hidden_states, *args, **kwargs)
        error = _prefix_error(family, original, output, hidden_states, *args, **kwargs) if fast else 0.0
        recorder.record(family, consumed, error)
        return output

    return dispatch


def _prefix_error(
    family: Family,
    original: Callable[..., Any],
    output: Tensor,
    s: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    **kwargs: Any,
) -> float:
    """Return the relative error of our scan on the first tokens against the model's own, which is too slow for all."""

    def cut(tensor: Tensor) -> Tensor:
        return tensor.narrow(family.token_axis, 0, min(PREFIX, tensor.shape[family.token_axis]))

    if kwargs.get("z") is not None:
        kwargs["z"] = cut(kwargs["z"])
    if "chunk_size" in kwargs:
        kwargs["chunk_size"] = PREFIX
    reference = inspect.unwrap(original)  # past the wrapper that looks for kernels and warns when there is none
    theirs = reference(cut(s), cut(dt), A, cut(B), cut(C), **kwargs)
    return relative_error(cut(output), theirs)


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Return ‖ours - theirs‖ / ‖theirs‖ in float64; infinite when it is not a number."""
    difference, size = (torch.linalg.vector_norm(t, dtype=torch.float64) for t in (ours - theirs, theirs))
    error = float(difference / size.clamp_min(1e-300))
    return error if error == error else float("inf")


def has_kernel(tensor: Tensor) -> bool:
    """Return whether the model itself would run a compiled scan kernel on this tensor's device."""
    return tensor.is_cuda and importlib.util.find_spec("mamba_ssm") is not None
