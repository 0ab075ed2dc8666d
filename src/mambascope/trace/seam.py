"""The one place where something global changes: functions of transformers' modelling files, while somebody listens.

A dispatcher takes the place of such a function, a seam, while at least one listener is interested in it anywhere. It
looks at a context variable, which every thread has for itself: calls of a thread that listens go to its listener; all
other calls go to the original function, as if nothing had happened.
"""

from __future__ import annotations

import functools
import importlib
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol, runtime_checkable


class Seam(NamedTuple):
    """A module-level function: the name of its module and its own."""

    module: str
    function: str

    def exists(self) -> bool:
        """Return whether the installed version has it."""
        return hasattr(importlib.import_module(self.module), self.function)


@runtime_checkable
class Listener(Protocol):
    """Whoever listens: it answers every call of its seams in its own thread."""

    def called(self, seam: Seam, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what the call must return; `original` is the function that was meant."""


_listener: ContextVar[Listener | None] = ContextVar("mambascope_listener", default=None)
_lock = threading.Lock()
_users: dict[Seam, int] = {}
_originals: dict[Seam, Callable[..., Any]] = {}


def listener() -> Listener | None:
    """Return whoever listens in this thread, if anyone does."""
    return _listener.get()


@contextmanager
def listening(who: Listener, seams: Iterable[Seam]) -> Iterator[None]:
    """Hand this thread's calls of the seams to `who` inside the block; restore everything after, whatever happens."""
    with ExitStack() as stack:
        for seam in dict.fromkeys(seams):
            stack.enter_context(_dispatching(seam))
        token = _listener.set(who)
        stack.callback(_listener.reset, token)
        yield


@contextmanager
def _dispatching(seam: Seam) -> Iterator[None]:
    """Keep the dispatcher in place while anyone uses it; the last user puts the original back."""
    module = importlib.import_module(seam.module)
    with _lock:
        if not _users.get(seam):
            _originals[seam] = getattr(module, seam.function)
            setattr(module, seam.function, _dispatcher(seam, _originals[seam]))
        _users[seam] = _users.get(seam, 0) + 1
    try:
        yield
    finally:
        with _lock:
            _users[seam] -= 1
            if not _users[seam]:
                setattr(module, seam.function, _originals.pop(seam))


def _dispatcher(seam: Seam, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def dispatch(*args: Any, **kwargs: Any) -> Any:
        who = _listener.get()
        return original(*args, **kwargs) if who is None else who.called(seam, original, args, kwargs)

    return dispatch
