"""A progress bar for work that turns out to be long; what ends within two seconds shows none."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

#: Seconds before the bar appears.
PATIENCE = 2.0


class LateProgress:
    """A bar on standard error that appears once the work has taken `PATIENCE` seconds, and is gone at the end.

    Where standard error is no terminal there is none.
    """

    def __init__(self, label: str) -> None:
        self._label, self._started = label, time.monotonic()
        self._bar: Progress | None = None

    def __call__(self, done: int, total: int) -> None:
        """Note that `done` of `total` steps are done."""
        if self._bar is None:
            if time.monotonic() - self._started < PATIENCE or done >= total:
                return
            console = Console(stderr=True)
            if not console.is_terminal:
                return
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=console, transient=True)
            self._bar.start()
            self._bar.add_task(self._label, total=total)
        self._bar.update(self._bar.task_ids[0], completed=done)

    def __enter__(self) -> LateProgress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
