"""What transformers says while we use it, kept from the reader: in the thread that works, and only while it does.

Whenever a Mamba runs without compiled kernels, transformers advises to install some. In our passes that is false
advice, as our scan runs; in a user's own pass it is not. A filter on the log would not do: transformers says such a
thing once in a process and remembers that it did, so that it would be lost for the user's pass too. So the functions
that say things once are dispatched, as scans are (`families/patch_points.py`): where
something is kept off they do nothing and remember nothing. What is said otherwise is filtered where it would be
written. No level changes, and other threads keep theirs.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import transformers.utils.logging  # noqa: F401 (it gives loggers the methods that say things once)

#: The logger that says which compiled kernels are missing.
KERNELS = "transformers.integrations.hub_kernels"

#: Methods of loggers that remember what they have said.
ONCE = ("warning_once", "info_once")

_kept_off: ContextVar[tuple[str, ...]] = ContextVar("mambascope_kept_off", default=())
_lock = threading.Lock()
_users = 0
_originals: dict[str, Callable[..., Any]] = {}


@contextmanager
def kept_off(*loggers: str) -> Iterator[None]:
    """Keep off what these loggers, and those below them, say in this thread inside the block."""
    heard = _Heard()
    with ExitStack() as stack:
        stack.enter_context(_dispatching())
        for handler in {id(handler): handler for name in loggers for handler in _handlers(name)}.values():
            handler.addFilter(heard)
            stack.callback(handler.removeFilter, heard)
        token = _kept_off.set((*_kept_off.get(), *loggers))
        stack.callback(_kept_off.reset, token)
        yield


def is_kept_off(logger: str) -> bool:
    """Return whether what this logger says in this thread is kept off."""
    return any(logger == name or logger.startswith(f"{name}.") for name in _kept_off.get())


class _Heard(logging.Filter):
    """Lets through what is not kept off."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not is_kept_off(record.name)


def _handlers(name: str) -> Iterator[logging.Handler]:
    """Yield the handlers that what a logger says comes to."""
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None:
        yield from logger.handlers
        logger = logger.parent if logger.propagate else None


@contextmanager
def _dispatching() -> Iterator[None]:
    """Keep the dispatchers in place while anyone uses them; the last user puts the original methods back."""
    global _users
    with _lock:
        if not _users:
            for name in ONCE:
                _originals[name] = getattr(logging.Logger, name)
                setattr(logging.Logger, name, _dispatcher(_originals[name]))
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                for name in ONCE:
                    setattr(logging.Logger, name, _originals.pop(name))


def _dispatcher(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def say(logger: logging.Logger, *args: Any, **kwargs: Any) -> None:
        if not is_kept_off(logger.name):
            original(logger, *args, **kwargs)

    return say
