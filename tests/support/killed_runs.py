"""Runs of the toy task in a process of their own that is killed at random points and started again.

The processes are forked from one that has imported the package and does nothing else, which saves each the seconds that
the imports take.
"""

import multiprocessing
import random
import signal
import time

import toy_task
from mambascope.cli import take_signals
from mambascope.evaluate import results
from mambascope.evaluate.results import read_run
from mambascope.evaluate.run import run
from toy_task import logged

STARTS = multiprocessing.get_context("forkserver")
STARTS.set_forkserver_preload([run.__module__])


def run_killed_thrice(out, log, **options):
    """Return the stored run after three kills and a last start that ends; checks on the way that nothing is lost."""
    draw, stored = random.Random(), set()
    for end in (12, 24, 36):
        before = len(logged(log))
        process = started(out, log, **options)
        target = max(draw.randrange(end - 10, end), before + 1)
        while len(logged(log)) < target:
            assert process.exitcode is None, "it ended before it could be killed"
            time.sleep(0.001)
        time.sleep(draw.random() * 0.02)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not set(logged(log)[before:]) & stored, "a stored sample was run again"
        now = set(read_run(out).done)
        assert now >= stored, "a stored sample was lost"
        stored = now
    process = started(out, log, **options)
    process.join()
    assert process.exitcode == 0
    return read_run(out)


def started(out, log, **options):
    """Return a process that runs the toy task; `as_command` has it take signals as the command does."""
    process = STARTS.Process(target=_run, args=(out, log, options))
    process.start()
    return process


def _run(out, log, options):
    if options.pop("as_command", False):
        take_signals()
    if options.get("engine") == "ray":
        import ray.cloudpickle

        ray.cloudpickle.register_pickle_by_value(toy_task)
    results.SHARD_SAMPLES = 3
    task = toy_task.ToyTask(log=log, seconds=0.02)
    run(task, None, toy_task.METHODS, out, load=toy_task.load, fingerprint=toy_task.fingerprint, resume=True, **options)
