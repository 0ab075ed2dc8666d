"""The only place where global state changes: functions of modelling files are replaced while calls are intercepted.

Such a function is a patch point. While any thread intercepts its calls, a dispatcher takes its place and looks at a
context variable, of which every thread has its own value: calls from a thread with an interceptor go to the
interceptor; all other calls go to the original function, as if nothing had happened.
"""

from __future__ import annotations

import functools
import importlib
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol, runtime_checkable


class PatchPoint(NamedTuple):
    """A module-level function: the name of its module and its own name."""

    module: str
    function: str

    def exists(self) -> bool:
        """Return whether the installed version of the module has it."""
        return hasattr(importlib.import_module(self.module), self.function)


@runtime_checkable
class Interceptor(Protocol):
    """Handles every call of its patch points in its own thread."""

    def called(
        self, point: PatchPoint, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Return the result of the call; `original` is the function that the caller meant to call."""


#: This thread's interceptor, with the patch points whose calls it handles.
_interceptor: ContextVar[tuple[Interceptor, frozenset[PatchPoint]] | None] = ContextVar("interceptor", default=None)
_lock = threading.Lock()
_users: dict[PatchPoint, int] = {}
_originals: dict[PatchPoint, Callable[..., Any]] = {}


@contextmanager
def intercepting(who: Interceptor, points: Iterable[PatchPoint]) -> Iterator[None]:
    """Send this thread's calls of the patch points to `who` inside the block, and restore everything after it."""
    mine = frozenset(points)
    with ExitStack() as stack:
        for point in mine:
            stack.enter_context(_dispatching(point))
        token = _interceptor.set((who, mine))
        stack.callback(_interceptor.reset, token)
        yield


@contextmanager
def _dispatching(point: PatchPoint) -> Iterator[None]:
    """Keep the dispatcher in place while anyone uses it; the last user restores the original."""
    module = importlib.import_module(point.module)
    with _lock:
        if not _users.get(point):
            _originals[point] = getattr(module, point.function)
            setattr(module, point.function, _dispatcher(point, _originals[point]))
        _users[point] = _users.get(point, 0) + 1
    try:
        yield
    finally:
        with _lock:
            _users[point] -= 1
            if not _users[point]:
                setattr(module, point.function, _originals.pop(point))


def _dispatcher(point: PatchPoint, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def dispatch(*args: Any, **kwargs: Any) -> Any:
        who, points = _interceptor.get() or (None, frozenset())
        if who is None or point not in points:
            return original(*args, **kwargs)
        token = _interceptor.set(None)  # an answer may call the function that it stands for
        try:
            return who.called(point, original, args, kwargs)
        finally:
            _interceptor.reset(token)

    return dispatch
