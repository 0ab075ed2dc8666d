"""The Ray engine: runs samples on the machines of a Ray cluster, with Ray Data.

Each actor holds one model and takes blocks of a few samples whenever it is free. Results go back to the driver, which
alone writes result shards, so no shared disk is needed. If an actor dies, Ray gives its block to another one. Ray hands
each result to the driver once; the driver checks this nevertheless.
"""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mambascope import errors
from mambascope.errors import InputError, MambascopeError
from mambascope.evaluate.crash_counter import CrashCounter
from mambascope.evaluate.fingerprint import versions
from mambascope.evaluate.sample_runner import SampleResult, SampleRunner, Samples
from mambascope.evaluate.task import Row, Sample

if TYPE_CHECKING:
    import pyarrow
    import ray.data

#: How many samples make a block. At most so many are computed again if an actor dies, or left to one actor at the end.
BLOCK_SAMPLES = 4

#: How many actors may crash on the same sample before the run gives up; Ray itself would start new ones for ever.
MOST_CRASHES = 5


def ray_engine(
    address: str | None, gpus: float
) -> Callable[[SampleRunner, Samples], Generator[SampleResult, None, None]]:
    """Return an engine that runs on a Ray cluster.

    Args:
        address: The cluster's address; without one, the cluster that the environment names, or else this machine.
        gpus: How many GPUs each actor uses.

    Raises:
        InputError: if Ray is not installed.
    """
    try:
        importlib.import_module("ray.data")
    except ImportError as error:
        raise InputError(f"the engine ray needs Ray Data ({error}); pip install mambascope[evaluate,ray]") from error

    def run_on_ray(runner: SampleRunner, samples: Samples) -> Generator[SampleResult, None, None]:
        with _cluster(address), _quiet():
            for model, of_model in samples.items():
                if of_model:
                    yield from _run_model(runner, model, of_model, gpus)

    return run_on_ray


class SampleActor:
    """The actor: loads its model once, then runs samples one by one.

    Our own errors are sent to the driver like results, because Ray would wrap an exception and change its message.
    """

    def __init__(self, runner: SampleRunner, model: str, driver: dict[str, str], crashes: Any) -> None:
        self._runner, self._model, self._driver, self._crashes = runner, model, driver, crashes
        self._loaded: Any = None

    def __call__(self, block: pyarrow.Table) -> Iterator[dict[str, list[str]]]:
        """Yield the result of each sample of a block: its rows, or the class and message of an error, as JSON."""
        for name, data in zip(block["sample"].to_pylist(), block["data"].to_pylist(), strict=True):
            try:
                rows = self._run(Sample(name, json.loads(data)))
            except MambascopeError as error:
                yield {"sample": [name], "rows": [""], "error": [json.dumps([type(error).__name__, str(error)])]}
                return
            yield {"sample": [name], "rows": [json.dumps([asdict(row) for row in rows])], "error": [""]}

    def _run(self, sample: Sample) -> tuple[Row, ...]:
        if self._loaded is None:  # here and not in __init__: Ray reports why a call failed, but not why a start failed
            self._check_versions()
            self._loaded = self._runner.load_model(self._model)
        self._start(sample.id)
        result = self._runner.run_sample(self._model, self._loaded, sample)
        self._crashes.finish.remote(sample.id)
        return result.rows

    def _start(self, sample: str) -> None:
        import ray

        crashes = ray.get(self._crashes.start.remote(sample))
        if crashes >= MOST_CRASHES:
            raise MambascopeError(
                f"{crashes} actors crashed on sample {sample} of {self._model}, perhaps because memory ran out; leave "
                f"it out, or give actors more memory"
            )

    def _check_versions(self) -> None:
        here = versions()
        differ = [
            f"{name} {here[name]} instead of {there}" for name, there in self._driver.items() if here[name] != there
        ]
        if differ:
            raise InputError(f"a machine of the cluster has {', '.join(differ)}; install the same versions everywhere")


def _run_model(runner: SampleRunner, model: str, samples: Sequence[Sample], gpus: float) -> Iterator[SampleResult]:
    """Yield the results for one model, in any order.

    Raises:
        MambascopeError: as the task raises it on an actor; or if actors crashed too often, or a result is missing.
    """
    import ray
    from ray.data import ActorPoolStrategy

    items = [{"sample": sample.id, "data": json.dumps(dict(sample.data))} for sample in samples]
    crashes = ray.remote(num_cpus=0)(CrashCounter).remote()
    blocks = -(-len(items) // BLOCK_SAMPLES)
    results = ray.data.from_items(items, override_num_blocks=blocks).map_batches(
        SampleActor,
        fn_constructor_args=(runner, model, versions(), crashes),
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(min_size=1, max_size=blocks),
        num_gpus=gpus or None,
    )
    waiting, failure = {sample.id for sample in samples}, ""
    try:
        for line in _lines(results):
            if line["error"]:
                failure = line["error"]
                break  # an exception would keep the loop's frame alive, and with it the actors
            if line["sample"] in waiting:
                waiting.remove(line["sample"])
                yield SampleResult(model, line["sample"], tuple(Row(**row) for row in json.loads(line["rows"])))
    except ray.exceptions.RayTaskError:
        raise  # a mistake in the task, with its traceback
    except ray.exceptions.RayError as error:
        raise MambascopeError(f"Ray gave up ({' '.join(str(error).split())}); continue with --resume") from error
    finally:
        ray.kill(crashes)
    if failure:
        kind, message = json.loads(failure)
        raise getattr(errors, kind, MambascopeError)(message)
    if waiting:
        raise MambascopeError(f"Ray returned no results for {len(waiting)} samples of {model}; continue with --resume")


def _lines(results: ray.data.Dataset) -> Iterator[dict[str, str]]:
    for block in results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from block.to_pylist()


@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start one on this machine, unless this process is connected already."""
    import ray

    if ray.is_initialized():
        yield
        return
    try:
        dashboard = False if address is None else None
        ray.init(address=address, include_dashboard=dashboard, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(f"the Ray cluster at {address or 'this machine'} cannot be reached: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Ray Data's progress bars and reports; the run has its own, and raises errors."""
    import ray

    context, logger = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    bars, level = context.enable_progress_bars, logger.level
    context.enable_progress_bars = False
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        context.enable_progress_bars = bars
        logger.setLevel(level)
