"""The local engine: one model after the other, one sample after the other, in this process."""

from __future__ import annotations

from collections.abc import Generator

from mambascope.evaluate.sample_runner import Verdict, Work, judge


def judge_here(work: Work) -> Generator[Verdict, None, None]:
    """Yield the verdict on every sample that is left, in order."""
    for model, samples in work.todo.items():
        if samples:
            loaded = work.loaded(model)
            for sample in samples:
                yield judge(work, model, loaded, sample)
            del loaded  # before the next one is loaded
