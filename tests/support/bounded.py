"""What a piece of code takes: seconds, and how far the memory of this process rises above where it stood."""

import time
from contextlib import contextmanager
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _memory(name: str) -> float:
    """Return a line of the kernel's account of this process, in MiB."""
    return next(int(line.split()[1]) / 1024 for line in STATUS.read_text().splitlines() if line.startswith(name))


@contextmanager
def bounded(seconds: float, mebibytes: float):
    """Fail if the block takes longer, or if the peak of its memory is higher; where there is no /proc, time only."""
    measured = CLEAR.exists()
    if measured:
        CLEAR.write_text("5")  # the peak begins anew
        before = _memory("VmRSS")
    start = time.monotonic()
    yield
    taken = time.monotonic() - start
    assert taken < seconds, f"it took {taken:.1f} s"
    if measured:
        risen = _memory("VmHWM") - before
        assert risen < mebibytes, f"it took {risen:.0f} MiB"
