"""Suppressing what libraries log while we use them: only in the thread that runs, and only while it runs.

Whenever a Mamba runs without compiled kernels, transformers advises installing some. In our passes that is wrong, since
our scan runs; in a user's own pass it is right. A log filter is not enough: transformers logs such a message once per
process and remembers it, so it would be lost for the user's pass too. So the logger methods that log once are replaced
by dispatchers, as scans are (`families/patch_points.py`): where a logger is suppressed, they do nothing and remember
nothing. Other messages are filtered at the handlers. No log level changes, and other threads are unaffected.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import transformers.utils.logging  # noqa: F401 (it gives loggers the methods that log once)

#: The logger that reports missing compiled kernels.
KERNELS = "transformers.integrations.hub_kernels"

#: Methods of loggers that log each message once and remember it.
ONCE = ("warning_once", "info_once")

_kept_off: ContextVar[tuple[str, ...]] = ContextVar("mambascope_kept_off", default=())
_lock = threading.Lock()
_users = 0
_originals: dict[str, Callable[..., Any]] = {}


@contextmanager
def kept_off(*loggers: str) -> Iterator[None]:
    """Suppress the messages of these loggers, and of their children, in this thread inside the block."""
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
    """Return whether this logger's messages are suppressed in this thread."""
    return any(logger == name or logger.startswith(f"{name}.") for name in _kept_off.get())


class _Heard(logging.Filter):
    """Lets through messages that are not suppressed."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not is_kept_off(record.name)


def _handlers(name: str) -> Iterator[logging.Handler]:
    """Yield the handlers that receive a logger's messages; without any, Python has one of last resort."""
    logger: logging.Logger | None = logging.getLogger(name)
    found = []
    while logger is not None:
        found += logger.handlers
        logger = logger.parent if logger.propagate else None
    yield from found or [one for one in (logging.lastResort,) if one is not None]


@contextmanager
def _dispatching() -> Iterator[None]:
    """Keep the dispatchers in place while anyone uses them; the last user restores the original methods."""
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
