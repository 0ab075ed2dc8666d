"""What the targets that damage files share: a set of good files, of which one is changed, and what then uses them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random

from ..findings import Case
from ..mutation import between, changed, difference, mutated
from ..originals import Files
from ..running import Target


def target(
    name: str,
    sets: Callable[[], dict[str, Files]],
    damages: Callable[[str], bool],
    use: Callable[[Path, str, Case], None],
    options: Callable[[Random], Case] = lambda rng: {},
    may_change: tuple[str, ...] = (),
) -> Target:
    """Return a target that changes one file.

    Args:
        name: Its name.
        sets: Returns good files by the name of the set.
        damages: Whether a file, by name, is to be changed.
        use: Given the folder with the files, the name of the set and the case, uses them.
        options: Returns a random choice of how they are used.
        may_change: The global state that using them may change.
    """

    def draw(rng: Random) -> Case:
        chosen = rng.choice(sorted(sets()))
        files = sets()[chosen]
        file = rng.choice(sorted(name for name in files if damages(name)))
        new = mutated(rng, file, files[file])
        return {"set": chosen, "file": file, "change": difference(files[file], new), **options(rng)}

    def check(case: Case, folder: Path) -> None:
        write(sets()[case["set"]], case, folder)
        use(folder, case["set"], case)

    def smaller(case: Case) -> Iterable[Case]:
        return _smaller(case, sets()[case["set"]][case["file"]])

    return Target(name, draw, check, smaller, may_change)


def write(files: Files, case: Case, folder: Path) -> None:
    """Write a set of files to a folder, one of them changed."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(changed(content, case["change"]) if name == case["file"] else content)


def _smaller(case: Case, old: bytes) -> Iterable[Case]:
    """Yield cases in which half of what was changed is as it was, or left out."""
    start, end, _ = case["change"]
    was, new = old[start : len(old) - end], between(old, case["change"])
    if len(new) < 2:
        return
    half = len(new) // 2
    whole = [was[:half] + new[half:], new[:half] + was[half:]] if len(was) == len(new) else [new[half:], new[:half]]
    for part in whole:
        yield case | {"change": difference(old, old[:start] + part + (old[len(old) - end :] if end else b""))}
