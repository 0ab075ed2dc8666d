"""Settings of the memory allocator, which a process reads only at its start."""

from __future__ import annotations

import os
import sys

#: The allocator keeps the pages it has: fresh ones from the system cost more than the arithmetic done on them.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TRIM_THRESHOLD_": "16000000000",
    "MALLOC_TOP_PAD_": "500000000",
}


def keep_pages(module: str) -> None:
    """Start this process, which runs `python -m module`, again with the allocator's settings."""
    if sys.platform == "linux" and any(name not in os.environ for name in ALLOCATOR):
        os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], {**ALLOCATOR, **os.environ})
