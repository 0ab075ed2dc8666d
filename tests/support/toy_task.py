"""A task without a model of torch: its rows depend on the sample, the method, the model and the seed alone."""

import json
import os
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from mambascope.errors import InputError, UnsupportedModelError
from mambascope.evaluate.fingerprint import Fingerprint
from mambascope.evaluate.task import MainTable, Row, Sample

METHODS = ("latim", "rollout")
MODELS = ("small", "large")


def load(name):
    """Stands for a model: its name is its weights."""
    return {"name": name}


def fingerprint(loaded):
    return Fingerprint(weights=loaded["name"], config="none")


@dataclass(frozen=True)
class ToyTask:
    """Evaluates methods by a random number.

    Attributes:
        count: How many samples there are.
        log: A file that gets one line per sample run.
        seconds: How long one sample takes.
        killer: A sample that kills its process, as long as no file `killed` lies beside the log.
        deadly: Whether it does so every time.
        data: The data's hash.
    """

    count: int = 23
    log: Path | None = None
    seconds: float = 0.0
    killer: str | None = None
    deadly: bool = False
    data: str = "toy"
    name: str = "toy"
    default_models: tuple = MODELS
    metrics: tuple = ("roc_auc", "conservation_error")
    main: tuple = (MainTable(("roc_auc", "conservation_error")),)

    def samples(self, limit):
        return [Sample(f"toy-{k}", {"k": k, "text": "é"}) for k in range(self.count)][:limit]

    def data_hash(self):
        return self.data

    def check(self, loaded, methods):
        unable = [name for name in methods if name not in METHODS]
        if unable:
            raise UnsupportedModelError(f"{', '.join(unable)} cannot read {loaded['name']}; these can: {METHODS}")

    def evaluate(self, loaded, sample, methods, seed):
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(json.dumps([loaded["name"], sample.id]) + "\n")
        time.sleep(self.seconds)
        if sample.id == self.killer:
            self._kill()
        draw = random.Random(f"{seed} {loaded['name']} {sample.data['k']}")
        rows = []
        for method in methods:
            rows.append(Row(method, "roc_auc", draw.random(), extra={"é": sample.data["text"]}))
            rows += [Row(method, "conservation_error", draw.random(), layer=layer) for layer in range(2)]
        rows.append(Row(methods[0], "conservation_error", float("nan")))
        return rows if sample.data["k"] % 7 else []

    def _kill(self):
        killed = self.log.with_name("killed")
        if self.deadly or not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class FailingTask(ToyTask):
    """Refuses one sample."""

    def evaluate(self, loaded, sample, methods, seed):
        if sample.data["k"] == 11:
            raise InputError(f"sample {sample.id} cannot be judged")
        return super().evaluate(loaded, sample, methods, seed)


def logged(log):
    """The (model, sample) pairs in a log, in order."""
    return [tuple(json.loads(line)) for line in log.read_text().splitlines()] if log.exists() else []


def rows(run):
    """The rows of a stored run as text, in which NaN equals NaN."""
    return [json.dumps(row) for row in run.table.to_pylist()]
