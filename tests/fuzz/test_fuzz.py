"""What the fuzzer once found stays mended, and a short run finds nothing new. `make fuzz` is the long run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mambascope

pytestmark = pytest.mark.fuzz


@pytest.mark.parametrize("arguments", [["replay"], ["run", "--minutes", "0.35", "--seed", "1"]], ids=["kept", "short"])
def test_nothing_is_found(arguments, tmp_path):
    """In a process of its own, as users run the package: here annotations are checked before any code runs."""
    paths = [str(Path(mambascope.__file__).parents[1]), str(Path(__file__).parents[1])]
    done = subprocess.run(
        [sys.executable, "-m", "fuzz", *arguments],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
