"""`mambascope evaluate`: check the options, run the task, print the means."""

from __future__ import annotations

import functools
import json
import sys
import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
import transformers

from mambascope.cli.loading import check_size, size_for
from mambascope.cli.means import averages, means_table
from mambascope.errors import InputError
from mambascope.evaluate.run import RunResult, run
from mambascope.evaluate.task import Task
from mambascope.evaluate.tasks import find_task
from mambascope.loading.load import load as load_model
from mambascope.numbering import shown
from mambascope.progress import LateProgress


def evaluate(
    task: str,
    *,
    methods: str,
    models: str | None,
    data: str | None,
    limit: int | None,
    out: Path | None,
    resume: bool,
    overwrite: bool,
    engine: Literal["local", "ray"],
    address: str | None,
    gpus: float,
    shard: str | None,
    seed: int,
    tokenizer: str | None,
    dtype: str,
    device: str,
    image_size: int | None,
    trust_remote_code: bool,
    all_metrics: bool,
    as_json: bool,
) -> None:
    """Run a task and print the means; without a folder nothing is kept."""
    chosen = find_task(task, data)
    if out is None and (resume or overwrite or shard):
        raise InputError("--resume, --overwrite and --shard apply to stored results; name their folder with --out")
    names = None if models is None else _names(models)
    check_size(image_size, names or ())
    load = functools.partial(
        _load,
        tokenizer=tokenizer,
        dtype=dtype,
        device=device,
        image_size=image_size,
        trust_remote_code=trust_remote_code,
    )
    place: AbstractContextManager[Any] = tempfile.TemporaryDirectory() if out is None else nullcontext(out)
    with place as folder:
        try:
            with LateProgress(f"evaluating {task}") as progress:
                result = run(
                    chosen,
                    names,
                    _names(methods),
                    folder,
                    limit=limit,
                    seed=seed,
                    engine=engine,
                    address=address,
                    gpus=gpus,
                    resume=resume,
                    overwrite=overwrite,
                    shard=(0, 1) if shard is None else _shard(shard),
                    options={"dtype": dtype} | ({} if image_size is None else {"image_size": image_size}),
                    load=load,
                    progress=progress,
                )
        except KeyboardInterrupt:
            if out is not None:
                print(f"mambascope: the results so far are in {out}; use --resume to continue", file=sys.stderr)
            raise
        _report(chosen, result, out, all_metrics=all_metrics, as_json=as_json)


def _report(task: Task, result: RunResult, out: Path | None, *, all_metrics: bool, as_json: bool) -> None:
    for one in result.damaged:
        print(f"mambascope: result shard {one.shard} was computed again: {one.reason}", file=sys.stderr)
    stored = result.read()
    means = averages(task, stored)
    if as_json:
        facts = {
            "out": None if out is None else str(out),
            "found": result.found,
            "computed": result.computed,
            "missing": stored.missing,
            "damaged": [one.shard for one in result.damaged],
            "manifest": result.manifest.to_dict(),
            "means": [] if means is None else means.means,
        }
        print(json.dumps(facts))
        return
    if means is not None:
        print(means_table(means, task, all_metrics=all_metrics))
    before = f", {result.found:,} stored before" if result.found else ""
    print(f"judged    {result.computed:,} samples{before}")
    if stored.missing:
        print(f"missing   {stored.missing:,} samples, in other subsets or left for --resume")
    print("kept      nothing; --out DIR keeps every result" if out is None else f"kept      {out}")


def _load(
    name: str,
    *,
    tokenizer: str | None,
    dtype: str,
    device: str,
    image_size: int | None,
    trust_remote_code: bool,
) -> Any:
    """Return a model and its tokenizer, printing nothing: the run shows its own progress bar."""
    transformers.logging.set_verbosity_error()
    return load_model(
        name,
        dtype=getattr(torch, dtype),
        device=device,
        tokenizer=tokenizer,
        image_size=size_for(name, image_size),
        trust_remote_code=trust_remote_code,
    )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _shard(text: str) -> tuple[int, int]:
    k, slash, n = text.partition("/")
    if not (slash and k.isdecimal() and n.isdecimal()):
        raise InputError(f"--shard {shown(text)} is not of the form K/N, such as 0/4 for the first of four")
    return int(k), int(n)
