"""The Ray engine on a local cluster: the rows of the local engine, also when an actor is killed in the middle."""

import os
import signal
import time

import psutil
import pytest

ray = pytest.importorskip("ray", reason="the engine ray needs Ray: pip install mambascope[evaluate,ray]")
pytest.importorskip("ray.data", reason="the engine ray needs Ray Data: pip install mambascope[evaluate,ray]")

import toy_task
from killed_runs import run_killed_thrice, started
from mambascope.errors import InputError, MambascopeError
from mambascope.evaluate import ray_engine
from mambascope.evaluate.fingerprint import versions
from mambascope.evaluate.results import read_run
from mambascope.evaluate.run import run
from toy_task import METHODS, MODELS, FailingTask, ToyTask, fingerprint, load, logged, rows

# Ray's own processes and sockets outlive a call on purpose; their notices are not ours
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 would starve workers on a busy machine
    ray.cloudpickle.register_pickle_by_value(toy_task)  # workers do not look for modules in this folder
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def toy_run(out, task, models=("small",), **options):
    return run(task, models, METHODS, out, load=load, fingerprint=fingerprint, **options)


def test_the_rows_are_those_of_the_local_engine(tmp_path):
    here = toy_run(tmp_path / "here", ToyTask(), MODELS).read()
    done = []
    there = toy_run(
        tmp_path / "there", ToyTask(), MODELS, engine="ray", progress=lambda k, total: done.append((k, total))
    )
    assert there.computed == 46
    assert rows(there.read()) == rows(here)
    assert there.read().manifest == here.manifest
    assert done == [(k, 46) for k in range(47)]


def test_an_actor_killed_in_the_middle_loses_nothing_and_doubles_nothing(tmp_path):
    log = tmp_path / "log"
    here = toy_run(tmp_path / "here", ToyTask()).read()
    task = ToyTask(log=log, killer="toy-10", seconds=0.05)
    there = toy_run(tmp_path / "there", task, engine="ray").read()
    assert (tmp_path / "killed").exists(), "no actor was killed"
    assert len(logged(log)) > 23, "the sample at which the actor died was run again"
    assert rows(there) == rows(here)
    assert there.table.num_rows == here.table.num_rows


def test_a_run_killed_at_three_random_points_equals_the_uninterrupted_run(tmp_path):
    address = ray.get_runtime_context().gcs_address
    stored = run_killed_thrice(tmp_path / "out", tmp_path / "log", engine="ray", address=address)
    assert rows(stored) == rows(toy_run(tmp_path / "here", ToyTask(), MODELS).read())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_killed_leaves_no_worker_of_the_cluster_that_it_started(tmp_path, number):
    out, log = tmp_path / "out", tmp_path / "log"
    driver = started(out, log, engine="ray", address="local", as_command=True)
    while len(logged(log)) < 10:
        assert driver.exitcode is None, "it ended before it could be killed"
        time.sleep(0.01)
    cluster = psutil.Process(driver.pid).children(recursive=True)
    # Ray's agents, which only watch, may need a minute to notice that nobody is left
    names = ("MapWorker", "raylet", "gcs_server")
    workers = [one for one in cluster if any(name in " ".join(one.cmdline()[:1]) for name in names)]
    assert len(workers) >= 3
    os.kill(driver.pid, number)
    driver.join(60)
    assert driver.exitcode == (-number if number == signal.SIGKILL else number), "Ray's own handler of SIGTERM exits so"
    assert psutil.wait_procs(workers, timeout=60)[1] == []
    found = len(read_run(out).done)
    result = run(ToyTask(), MODELS, METHODS, out, load=load, fingerprint=fingerprint, resume=True)
    assert (result.found, result.computed) == (found, 46 - found)
    assert rows(result.read()) == rows(toy_run(tmp_path / "here", ToyTask(), MODELS).read())


def test_a_run_that_one_engine_began_the_other_finishes(tmp_path):
    log = tmp_path / "log"

    def stop(done, total):
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        toy_run(tmp_path / "out", ToyTask(log=log), engine="ray", progress=stop)
    stored = len(logged(log))
    result = toy_run(tmp_path / "out", ToyTask(), resume=True)
    assert 9 <= result.found < 23
    assert stored >= 9
    assert rows(result.read()) == rows(toy_run(tmp_path / "here", ToyTask()).read())


def test_an_error_on_an_actor_is_the_error_of_the_run(tmp_path):
    with pytest.raises(InputError, match=r"^sample toy-11 cannot be judged$"):
        toy_run(tmp_path, FailingTask(), engine="ray")


def test_a_sample_that_kills_every_actor_ends_the_run(tmp_path):
    task = ToyTask(log=tmp_path / "log", killer="toy-3", deadly=True, count=5)
    with pytest.raises(MambascopeError, match=r"^5 actors crashed on sample toy-3 of small"):
        toy_run(tmp_path / "out", task, engine="ray")
    assert len(logged(tmp_path / "log")) >= 5


def test_a_machine_with_other_versions_is_refused(tmp_path, monkeypatch):
    other = {**versions(), "torch": "1.0"}
    monkeypatch.setattr(ray_engine, "versions", lambda: other)
    with pytest.raises(InputError, match=r"a machine of the cluster has torch .* instead of 1\.0"):
        toy_run(tmp_path, ToyTask(), engine="ray")
