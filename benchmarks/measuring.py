"""Seconds and memory of a call, as `mambascope.bench.measuring` has them: for environments without mambascope."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def resident() -> int:
    """Return the bytes of memory that the process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def measured(call: Callable[[], Any]) -> tuple[Any, float, int]:
    """Return a call's result, its seconds, and the largest growth of the process's memory while it ran."""
    before, most, running = resident(), 0, True

    def watch() -> None:
        nonlocal most
        while running:
            most = max(most, resident() - before)
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        started = time.perf_counter()
        result = call()
        seconds = time.perf_counter() - started
    finally:
        running = False
        watcher.join()
    return result, seconds, most
