"""Damaged run folders: read, reported, resumed. A resumed run has the rows of a run that nothing happened to."""

from __future__ import annotations

import contextlib
from pathlib import Path
from random import Random

import toy_task
from mambascope import MambascopeError
from mambascope.evaluate.report import write_report
from mambascope.evaluate.results import read_run
from mambascope.evaluate.run import run

from .. import originals
from ..findings import Case
from ..mutation import changed, difference, mutated
from ..properties import require
from ..running import Target

#: What may happen to one file of the folder.
FATES = (
    "changed",
    "changed",
    "changed",
    "removed",
    "copied",
    "renamed",
    "emptied",
    "a folder",
    "a link",
    "linked away",
)


def _draw(rng: Random) -> Case:
    files = originals.run_folder()
    steps = []
    for _ in range(rng.choice((1, 1, 1, 2))):
        place = rng.randrange(len(files))
        step = {"file": place, "fate": rng.choice(FATES)}
        if step["fate"] == "changed":
            name = sorted(files)[place]
            step["change"] = difference(files[name], mutated(rng, name, files[name]))
        steps.append(step)
    return {"steps": steps, "report": rng.random() < 0.03, "overwrite": rng.random() < 0.2}


def _check(case: Case, folder: Path) -> None:
    place = folder / "run"
    files = originals.run_folder()
    for name, content in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    for step in case["steps"]:
        _befall(place / sorted(files)[step["file"]], files[sorted(files)[step["file"]]], step)
    expected = set(originals.toy_rows())
    with contextlib.suppress(MambascopeError):
        stored = read_run(place)
        require(set(toy_task.rows(stored)) <= expected, "wrong rows", "read_run")
        require(stored.missing >= 0, "wrong rows", "fewer than none are missing")
        if case["report"]:
            write_report(stored.table, folder / "report")
    how = {"overwrite": True} if case["overwrite"] else {"resume": True}
    run(toy_task.ToyTask(count=9), None, toy_task.METHODS, place, **how, **originals.TOY)
    require(originals.run_table(place) == originals.toy_rows(), "wrong rows", f"after {'/'.join(how)}")


def _befall(path: Path, content: bytes, step: Case) -> None:
    fate = step["fate"]
    if path.is_symlink() or path.is_dir():
        return  # of what an earlier step made of it
    if fate == "changed":
        path.write_bytes(changed(content, step["change"]))
    elif fate == "copied":
        path.with_name(f"copy-{path.name}").write_bytes(content)
        path.with_name(path.name.replace("0-of-1", "1-of-2")).write_bytes(content)
    elif fate == "renamed" and path.exists():
        path.rename(path.with_name(f"{path.name}.old"))
    elif path.exists() or path.is_symlink():
        path.unlink()
        if fate == "emptied":
            path.touch()
        elif fate == "a folder":
            path.mkdir()
        elif fate == "a link":
            path.symlink_to(path.name)
        elif fate == "linked away":
            path.symlink_to("/dev/null")


def _smaller(case: Case) -> list[Case]:
    return [case | {"steps": [step]} for step in case["steps"]] if len(case["steps"]) > 1 else []


TARGETS = [Target("run folder", _draw, _check, _smaller)]
