"""The tasks by name. To add one, write its file and list it here."""

from __future__ import annotations

from mambascope.errors import InputError
from mambascope.evaluate.task import Task
from mambascope.evaluate.tasks.alignment import Alignment
from mambascope.evaluate.tasks.copying import Copying
from mambascope.evaluate.tasks.induction import Induction
from mambascope.evaluate.tasks.retrieval import Retrieval
from mambascope.evaluate.tasks.sentiment import Sentiment

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Copying(),
        Copying(name="copying-dev", per_length=5, seed=1),
        Induction(),
        Alignment(),
        Alignment(name="alignment-dev", part="dev"),
        Retrieval(),
        Sentiment(),
    )
}


def find_task(name: str) -> Task:
    """Return the task of this name, or raise InputError that lists those there are."""
    if name not in TASKS:
        raise InputError(f"unknown task {name!r}; choose one of {', '.join(TASKS) or 'none in this installation'}")
    return TASKS[name]
