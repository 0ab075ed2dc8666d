"""What the fuzzer once found stays mended, and a short run finds nothing new. `make fuzz` is the long run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mambascope


@pytest.mark.fuzz
def test_nothing_is_found(tmp_path):
    """In a process of its own, as users run the package: here annotations are checked before any code runs."""
    paths = [str(Path(mambascope.__file__).parents[1]), str(Path(__file__).parents[1])]
    done = subprocess.run(
        [sys.executable, "-m", "fuzz", "check", "--cases", "3", "--seed", "1"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
