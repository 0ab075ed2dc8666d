"""What the fuzzer finds: one record per fault, small enough to be kept in the repository and run again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

#: The cases that once failed; an ordinary test runs them again.
KEPT = Path(__file__).with_name("kept.json")

#: The largest case that is kept, in characters.
LARGEST = 4000

#: A case: what a target drew, as values that JSON can hold.
Case = dict[str, Any]


class BrokenError(Exception):
    """A property that does not hold; `kind` names the property."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(f"{kind}: {what}")
        self.kind, self.what = kind, what


class StaleError(Exception):
    """A kept case that cannot be made again, because the good file that it changes is no longer the same."""


@dataclass(frozen=True)
class Finding:
    """One fault.

    Attributes:
        target: The target's name.
        seed: The seed that the case was drawn from.
        kind: The class of fault: "foreign exception", the name of a property, "memory", "time" or "crash".
        what: What is the same in every finding of one fault, such as the exception and the line that raised it.
        detail: The message and the end of the traceback.
        case: The case.
    """

    target: str
    seed: int
    kind: str
    what: str
    detail: str
    case: Case

    @property
    def signature(self) -> tuple[str, str]:
        """The same for findings of one fault, whichever target met it."""
        return self.kind, self.what

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def stored(path: Path) -> list[Finding]:
    """Return the findings in a file; none if there is no file."""
    return [Finding(**one) for one in json.loads(path.read_text())] if path.exists() else []


def store(path: Path, findings: Iterable[Finding]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(one.to_dict(), sort_keys=True) for one in findings)
    path.write_text(f"[\n{lines}\n]\n")


def keep(findings: Iterable[Finding], path: Path = KEPT) -> int:
    """Add findings to the kept ones, one per fault, and return how many are new; the largest cases are left out."""
    kept = stored(path)
    known = {(one.target, *one.signature) for one in kept}
    found = {(one.target, *one.signature): one for one in findings}
    new = [one for key, one in found.items() if key not in known and len(json.dumps(one.case)) <= LARGEST]
    new = [replace(one, detail="") for one in new]  # tracebacks are full of the paths of a machine
    store(path, sorted([*kept, *new], key=lambda one: (one.target, one.kind, one.what)))
    return len(new)
