"""The Ray engine: the same work on the machines of a Ray cluster, by Ray Data.

Each actor holds one model and takes blocks of a few samples as it gets free. Verdicts travel back to the driver, which
alone writes parts, so that no shared disk is needed. Ray gives the block of an actor that died to another one and hands
the driver each verdict once; the driver counts them all the same.
"""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from mambascope import errors
from mambascope.errors import InputError, MambascopeError
from mambascope.evaluate.crash_counter import CrashCounter
from mambascope.evaluate.fingerprint import versions
from mambascope.evaluate.sample_runner import Verdict, Work, judge
from mambascope.evaluate.task import Row, Sample

if TYPE_CHECKING:
    import pyarrow
    import ray.data

#: Samples in a block: what is computed again when an actor dies, and what one actor may be left with at the end.
BLOCK_SAMPLES = 4

#: How many actors may die at one and the same sample before the run gives up. Ray itself would start them for ever.
DEATHS = 5


def ray_engine(address: str | None, gpus: float) -> Callable[[Work], Generator[Verdict, None, None]]:
    """Return an engine that runs on a Ray cluster.

    Args:
        address: The cluster's address; without one, the cluster of the environment or else this machine.
        gpus: GPUs that each actor takes.

    Raises:
        InputError: if Ray is not installed.
    """
    try:
        importlib.import_module("ray.data")
    except ImportError as error:
        raise InputError(f"the engine ray needs Ray Data ({error}); pip install mambascope[evaluate,ray]") from error

    def judge_on_ray(work: Work) -> Generator[Verdict, None, None]:
        with _cluster(address), _quiet():
            for model, samples in work.todo.items():
                if samples:
                    yield from _judge_model(replace(work, todo={}), model, samples, gpus)

    return judge_on_ray


class Judge:
    """The actor: loads its model once, then judges samples one by one.

    What it refuses travels to the driver like a verdict: Ray would wrap an exception and add to its words.
    """

    def __init__(self, work: Work, model: str, driver: dict[str, str], unfinished: Any) -> None:
        self._work, self._model, self._driver, self._unfinished = work, model, driver, unfinished
        self._loaded: Any = None

    def __call__(self, block: pyarrow.Table) -> Iterator[dict[str, list[str]]]:
        """Yield the verdict on each sample of a block: its rows, or the class and words of a refusal, as JSON."""
        for name, data in zip(block["sample"].to_pylist(), block["data"].to_pylist(), strict=True):
            try:
                rows = self._judge(Sample(name, json.loads(data)))
            except MambascopeError as error:
                yield {"sample": [name], "rows": [""], "refusal": [json.dumps([type(error).__name__, str(error)])]}
                return
            yield {"sample": [name], "rows": [json.dumps([asdict(row) for row in rows])], "refusal": [""]}

    def _judge(self, sample: Sample) -> tuple[Row, ...]:
        if self._loaded is None:  # here and not above: Ray tells why a call failed, and not why a birth did
            self._check_versions()
            self._loaded = self._work.loaded(self._model)
        self._begin(sample.id)
        verdict = judge(self._work, self._model, self._loaded, sample)
        self._unfinished.end.remote(sample.id)
        return verdict.rows

    def _begin(self, sample: str) -> None:
        import ray

        deaths = ray.get(self._unfinished.begin.remote(sample))
        if deaths >= DEATHS:
            raise MambascopeError(
                f"{deaths} actors died at sample {sample} of {self._model}, perhaps for want of memory; leave it out, "
                f"or give actors more room"
            )

    def _check_versions(self) -> None:
        here = versions()
        differ = [
            f"{name} {here[name]} in place of {there}" for name, there in self._driver.items() if here[name] != there
        ]
        if differ:
            raise InputError(f"a machine of the cluster has {', '.join(differ)}; install the same versions everywhere")


def _judge_model(work: Work, model: str, samples: Sequence[Sample], gpus: float) -> Iterator[Verdict]:
    """Yield the verdicts on one model, in whichever order they come.

    Raises:
        MambascopeError: as the task raises it on an actor; or if actors died too often, or a verdict is missing.
    """
    import ray
    from ray.data import ActorPoolStrategy

    items = [{"sample": sample.id, "data": json.dumps(dict(sample.data))} for sample in samples]
    unfinished = ray.remote(num_cpus=0)(CrashCounter).remote()
    blocks = -(-len(items) // BLOCK_SAMPLES)
    judged = ray.data.from_items(items, override_num_blocks=blocks).map_batches(
        Judge,
        fn_constructor_args=(work, model, versions(), unfinished),
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(min_size=1, max_size=blocks),
        num_gpus=gpus or None,
    )
    waiting, refusal = {sample.id for sample in samples}, ""
    try:
        for line in _lines(judged):
            if line["refusal"]:
                refusal = line["refusal"]
                break  # an exception would hold the loop's frame, and with it the actors
            if line["sample"] in waiting:
                waiting.remove(line["sample"])
                yield Verdict(model, line["sample"], tuple(Row(**row) for row in json.loads(line["rows"])))
    except ray.exceptions.RayTaskError:
        raise  # a mistake in the task, with its traceback
    except ray.exceptions.RayError as error:
        raise MambascopeError(f"Ray gave up ({' '.join(str(error).split())}); continue with --resume") from error
    finally:
        ray.kill(unfinished)
    if refusal:
        kind, words = json.loads(refusal)
        raise getattr(errors, kind, MambascopeError)(words)
    if waiting:
        raise MambascopeError(f"Ray returned no results for {len(waiting)} samples of {model}; continue with --resume")


def _lines(judged: ray.data.Dataset) -> Iterator[dict[str, str]]:
    for block in judged.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from block.to_pylist()


@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """Connect to a cluster, or make this machine one, unless the caller's process is connected already."""
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
    """Silence Ray Data's bars and reports; the run shows its own, and raises what went wrong."""
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
