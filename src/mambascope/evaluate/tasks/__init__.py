"""The tasks by name. To add one, write its file and list it here; `register` takes one from outside the package."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

from mambascope.errors import InputError
from mambascope.evaluate.task import Task
from mambascope.evaluate.tasks.alignment import Alignment
from mambascope.evaluate.tasks.constructed import Constructed
from mambascope.evaluate.tasks.copying import Copying
from mambascope.evaluate.tasks.frequent_words import FrequentWords
from mambascope.evaluate.tasks.induction import Induction
from mambascope.evaluate.tasks.perturbation import Perturbation
from mambascope.evaluate.tasks.retrieval import Retrieval
from mambascope.evaluate.tasks.segmentation import Segmentation
from mambascope.evaluate.tasks.sentiment import Sentiment
from mambascope.numbering import shown
from mambascope.registry import Registry


def models_of(pictures: str) -> tuple[str, ...]:
    """Return where `python -m training.vision.export` puts models that cannot ship because of their data's licence."""
    return tuple(f"runs/vision-{pictures}-{model}/model" for model in ("vim", "vit"))


TASKS: Registry[Task] = Registry(
    "task",
    Task,
    (
        Copying(),
        Copying(name="copying-dev", per_length=5, seed=1),
        Induction(),
        Constructed(),
        Alignment(),
        Alignment(name="alignment-dev", gold="hansards-dev"),
        Alignment(name="alignment-de-en", gold="bicici", default_models=("zoo:translation-de-en-mamba2",)),
        Retrieval(),
        Retrieval(name="passkey", needles=(1,), each=20),
        FrequentWords(),
        Sentiment(),
        Sentiment(name="sentiment-long", texts="reviews", reach=448),
        Perturbation(),
        Perturbation(name="perturbation-cifar10", pictures="cifar10", default_models=models_of("cifar10")),
        Segmentation(),
        Segmentation(name="segmentation-camvid", pictures="camvid", default_models=models_of("camvid"), most=100),
    ),
)

register = TASKS.register


def find_task(name: str, source: str | None = None) -> Task:
    """Return the task of this name, on its own data or on a user's data of the same kind.

    Args:
        name: The task's name.
        source: A path or a hub id, see the task's `source`; None for the data in the data folder.

    Raises:
        InputError: if there is no such task, or it makes its own samples and a source is given.
    """
    if name not in TASKS:
        raise InputError(f"unknown task {shown(name)}; choose one of {', '.join(TASKS) or 'none in this installation'}")
    task = TASKS[name]
    if source is None:
        return task
    if not any(field.name == "source" for field in dataclasses.fields(cast(Any, task))):
        raise InputError(f"the task {name} makes its own samples and reads no data; leave --data out")
    return cast(Task, dataclasses.replace(cast(Any, task), source=source))
