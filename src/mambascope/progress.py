"""A progress bar for work that takes long; work that ends within two seconds shows none."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

#: Seconds before the bar appears.
PATIENCE = 2.0

#: Called with (steps done, steps to do).
Steps = Callable[[int, int], None]


@runtime_checkable
class Bar(Protocol):
    """Anything that can show progress."""

    def show(self, label: str, done: float, total: int) -> None:
        """Show `done` of `total` steps, the last of which may be done in part; `total` is 0 while it is unknown."""

    def clear(self) -> None:
        """Remove the bar."""


class LateProgress:
    """A bar that appears once the work has taken `PATIENCE` seconds, and is removed at the end.

    It is shown on standard error if that is a terminal, or below the cell in a notebook; otherwise not at all.
    """

    def __init__(self, label: str) -> None:
        self._state = (label, 0.0, 0)
        self._bar: Bar | None = None
        self._over = False
        self._lock = threading.Lock()
        self._timer = threading.Timer(PATIENCE, self._appear)
        self._timer.daemon = True

    def __call__(self, done: int, total: int) -> None:
        """Report that `done` of `total` steps are done."""
        self._report(float(done), total)

    def within(self, done: int, total: int) -> None:
        """Report that `done` of `total` parts of the next step are done."""
        _, before, steps = self._state
        self._report(int(before) + min(done / total, 0.999), max(steps, int(before) + 1))

    def __enter__(self) -> LateProgress:
        self._timer.start()
        self._token = _shown.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _shown.reset(self._token)
        self._timer.cancel()
        with self._lock:
            self._over = True
            if self._bar is not None:
                self._bar.clear()

    def _report(self, done: float, total: int) -> None:
        with self._lock:
            self._state = (self._state[0], done, total)
            if self._bar is not None:
                self._bar.show(*self._state)

    def _appear(self) -> None:
        with self._lock:
            if not self._over:
                self._bar = _make_bar()
            if self._bar is not None:
                self._bar.show(*self._state)


#: The bar that this thread's work is shown by.
_shown: ContextVar[LateProgress | None] = ContextVar("shown", default=None)


def within(done: int, total: int) -> None:
    """Report that `done` of `total` parts of a long step are done, to the bar that shows this thread's work."""
    bar = _shown.get()
    if bar is not None:
        bar.within(done, total)


@contextmanager
def told(progress: Steps | bool | None, label: str) -> Iterator[Steps | None]:
    """Yield the function to report steps to: the caller's own, a `LateProgress` (None or True), or None (False)."""
    if progress is None or progress is True:
        with LateProgress(label) as bar:
            yield bar
    else:
        yield progress or None


def _make_bar() -> Bar | None:
    console = Console(stderr=True)
    if console.is_jupyter:
        return _NotebookLine()
    return _TerminalBar(console) if console.is_terminal else None


class _TerminalBar:
    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, transient=True)
        self._task = self._progress.add_task("", total=None)
        self._progress.start()

    def show(self, label: str, done: float, total: int) -> None:
        self._progress.update(self._task, description=label, completed=done, total=total or None)

    def clear(self) -> None:
        self._progress.stop()


class _NotebookLine:
    """One line of text below the cell, which works in notebooks without widgets."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, label: str, done: float, total: int) -> None:
        self._put(f"{label}: {int(done)} of {total} steps" if total else f"{label} …")

    def clear(self) -> None:
        self._put("")

    def _put(self, words: str) -> None:
        from IPython.display import display

        line = {"text/plain": words, "text/markdown": words}
        if self._handle is None:
            self._handle = display(line, raw=True, display_id=True)
        else:
            self._handle.update(line, raw=True)
