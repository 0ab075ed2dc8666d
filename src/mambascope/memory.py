"""How much memory is free, and refusing what would not fit before it is taken."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

from mambascope.errors import MapTooLargeError

#: Where Linux shows the limits of control groups, and which groups this process belongs to.
GROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")

#: The files of a control group of version 2 and 1: its limits and its use, in bytes.
VERSIONS = ((("memory.max", "memory.high"), "memory.current"), (("memory.limit_in_bytes",), "memory.usage_in_bytes"))


def require_room(shape: tuple[int, ...], like: torch.Tensor, way_out: str, copies: int = 1) -> None:
    """Raise MapTooLargeError, with the size and the way out, if a map of this shape would not fit in free memory.

    Args:
        shape: Shape of the map.
        like: A tensor of its dtype and device.
        way_out: What to do instead, as a clause.
        copies: How many such maps are held at once while it is made.
    """
    require_bytes(math.prod(shape) * like.element_size() * copies, like.device, f"a map of shape {shape}", way_out)


def require_bytes(needed: int, device: torch.device, what: str, way_out: str) -> None:
    """Raise MapTooLargeError, with the numbers and the way out, if so many bytes are not free.

    Args:
        needed: The number of bytes.
        device: Where they are taken.
        what: What takes them.
        way_out: What to do instead, as a clause.
    """
    free = available_bytes(device)
    if needed > free:
        raise MapTooLargeError(f"{what} needs {in_words(needed)}, but only {in_words(free)} are free; {way_out}")


def available_bytes(device: torch.device) -> int:
    """Return how many bytes a new tensor on this device could take.

    On the CPU that is the least of the machine's free memory, what the process's control groups leave, and what its
    own limits leave (`ulimit -v`, `ulimit -d`).
    """
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, for new tensors
        return torch.cuda.mem_get_info(device)[0] + kept
    return max(0, min([psutil.virtual_memory().available, *_left_by_groups(), *_left_by_limits()]))


def in_words(count: int) -> str:
    """Return a number of bytes as text."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.3g} MiB"


def _left_by_groups() -> Iterator[int]:
    """Yield what each control group of this process leaves, from its own up to the root, on Linux."""
    try:
        lines = OWN_GROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        limits, used = VERSIONS[controllers == "memory"]
        root = GROUPS / controllers
        group = root / path.lstrip("/")
        for place in (group, *group.parents):  # in a container the root is often the only group that can be seen
            yield from (left for limit in limits if (left := _left(place, limit, used)) is not None)
            if place == root:
                break


def _left(place: Path, limit: str, used: str) -> int | None:
    """Return what one limit of a group leaves; files that the system keeps in memory can be dropped, and count as free.

    None if the group has no such limit.
    """
    try:
        most = (place / limit).read_text().strip()
        if most == "max":
            return None
        stat = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
        dropped = stat.get("total_inactive_file", stat.get("inactive_file", 0))
        return int(most) - int((place / used).read_text()) + int(dropped)
    except (OSError, ValueError):
        return None


def _left_by_limits() -> Iterator[int]:
    """Yield what the limits of this process on its address space and its data leave, on Unix."""
    try:
        resource = importlib.import_module("resource")
    except ImportError:
        return
    held = psutil.Process().memory_info()
    for limit, used in (("RLIMIT_AS", held.vms), ("RLIMIT_DATA", getattr(held, "data", held.vms))):
        most, _ = resource.getrlimit(getattr(resource, limit))
        if most != resource.RLIM_INFINITY:
            yield most - used
