"""Runs of the toy task in a process of their own that is killed at random points and started again."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from mambascope.evaluate.results import read_run
from toy_task import judged

SCRIPT = """
import json, sys
from pathlib import Path
import toy_task
from mambascope.evaluate import results
from mambascope.evaluate.run import run
out, log, options = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
if options.get("engine") == "ray":
    import ray.cloudpickle
    ray.cloudpickle.register_pickle_by_value(toy_task)
results.PART_SAMPLES = 3
task = toy_task.ToyTask(log=log, seconds=0.02)
run(task, None, toy_task.METHODS, out, load=toy_task.load, mark=toy_task.mark, resume=True, **options)
"""


def run_killed_thrice(out, log, **options):
    """Return the stored run after three kills and a last start that ends; checks on the way that nothing is lost."""
    draw, stored = random.Random(), set()
    for end in (12, 24, 36):
        before = len(judged(log))
        process = subprocess.Popen(_command(out, log, options), cwd=Path(__file__).parent)
        target = max(draw.randrange(end - 10, end), before + 1)
        while len(judged(log)) < target:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.001)
        time.sleep(draw.random() * 0.02)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not set(judged(log)[before:]) & stored, "a stored sample was judged again"
        now = set(read_run(out).done)
        assert now >= stored, "a stored sample was lost"
        stored = now
    subprocess.run(_command(out, log, options), cwd=Path(__file__).parent, check=True)
    return read_run(out)


def _command(out, log, options):
    return [sys.executable, "-c", SCRIPT, str(out), str(log), json.dumps(options)]
