"""Seconds and memory of calls on a device."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import psutil
import torch

#: A call that takes longer than this many seconds is run once, after a first run that does not count.
SLOW = 5.0
#: Rows and columns of a large matrix product on each kind of device, and numbers in a large tensor.
PRODUCT, WRITTEN = {"cpu": 2048, "cuda": 8192}, 1 << 26


def timed(call: Callable[[], Any], device: str = "cpu") -> tuple[Any, float]:
    """Return a call's result and its seconds, until the device has finished."""
    cuda = torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    result = call()
    if cuda:
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - started


def measured(call: Callable[[], Any], device: str = "cpu") -> tuple[Any, float, int]:
    """Return a call's result, its seconds, and the largest growth of memory while it ran: the device's, or ours."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        return *timed(call, device), torch.cuda.max_memory_allocated(device) - held
    process, running = psutil.Process(), True
    before = most = process.memory_info().rss

    def watch() -> None:
        nonlocal most
        while running:
            most = max(most, process.memory_info().rss)
            time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result, seconds = timed(call)
    finally:
        running = False
        watcher.join()
    return result, seconds, most - before


def alternated(calls: Mapping[str, Callable[[], Any]], repeats: int, device: str = "cpu") -> dict[str, float]:
    """Return the median of each call's seconds; the calls take turns, so that a busy machine slows all alike.

    The first round warms up and does not count. A slow call is run once after it.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            if turn < 2 or max(seconds[name]) <= SLOW:
                taken = timed(call, device)[1]
                seconds[name] = [*seconds[name], taken] if turn > 1 else [taken]
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def product_rate(device: str) -> float:
    """Return float32 operations per second of a large matrix product."""
    call, operations = product(device)
    return operations / alternated({"product": call}, 5, device)["product"]


def product(device: str) -> tuple[Callable[[], Any], float]:
    """Return a large float32 matrix product, and its number of operations."""
    size = PRODUCT[torch.device(device).type]
    a, b = torch.randn(2, size, size, device=device)
    out = torch.empty(size, size, device=device)
    return lambda: torch.matmul(a, b, out=out), 2.0 * size**3


def write(device: str) -> tuple[Callable[[], Any], float]:
    """Return a call that writes a large tensor, and its number of bytes."""
    out = torch.empty(WRITTEN, device=device)
    return lambda: out.fill_(1.0), 4.0 * out.numel()
