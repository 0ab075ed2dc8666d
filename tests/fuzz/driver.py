"""Run targets in turn, each slice in a process of its own, so that a crash, a hang or lack of memory is a finding.

The process is forked from this one, which has imported everything, and may take `ROOM` more memory than this one has.
It writes a line for each case that begins and each that ends; a case that neither ends nor crashes is ended by
`faulthandler`, which says where it was.
"""

from __future__ import annotations

import faulthandler
import itertools
import json
import multiprocessing
import os
import resource
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .findings import Case, Finding
from .running import Target, drawn, run, smallest

#: How much more memory a process may take than it begins with, in bytes of address space.
ROOM = 3 * 2**30
#: A case that has not ended after so many seconds hangs. Far more than `running.SECONDS`: the machine may be busy.
HANGS = 60.0
#: How long one target runs before the next has its turn.
SLICE = 8.0

FORK = multiprocessing.get_context("fork")


@dataclass
class Tally:
    """What happened in a run: by target, how many cases ran and were refused; and each fault's first finding."""

    cases: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    stale: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    first: dict[tuple[str, str, str], Finding] = field(default_factory=dict)

    def add(self, finding: Finding) -> None:
        key = (finding.target, *finding.signature)
        self.counts[key] += 1
        self.first.setdefault(key, finding)

    @property
    def findings(self) -> list[Finding]:
        """One finding of each fault."""
        return list(self.first.values())

    def table(self) -> str:
        """Return the counts by target, and by class of fault."""
        lines = [f"{'target':<28}{'cases':>8}{'refused':>9}{'faults':>8}{'found':>8}{'seconds':>9}"]
        for name, cases in sorted(self.cases.items()):
            mine = [key for key in self.counts if key[0] == name]
            found = sum(self.counts[key] for key in mine)
            lines.append(
                f"{name:<28}{cases:>8}{self.refused[name]:>9}{len(mine):>8}{found:>8}{self.seconds[name]:>9.0f}"
            )
        total, refused = self.cases.total(), self.refused.total()
        lines.append(f"{'all':<28}{total:>8}{refused:>9}{len(self.counts):>8}{self.counts.total():>8}")
        kinds = Counter(kind for _, kind, _ in self.counts)
        found = Counter(dict.fromkeys(kinds, 0))
        for (_, kind, _), count in self.counts.items():
            found[kind] += count
        lines += ["", f"{'class of fault':<44}{'faults':>8}{'found':>8}"]
        lines += [f"{kind:<44}{kinds[kind]:>8}{found[kind]:>8}" for kind in sorted(kinds)]
        stale = ", ".join(f"{count} of {name}" for name, count in self.stale.items() if count)
        return "\n".join([*lines, *([f"stale     {stale}: find and keep them anew"] if stale else [])])


def run_for(
    targets: Sequence[Target], seconds: float, seed: int, tally: Tally, *, say: Callable[[str], None] = print
) -> None:
    """Run targets in turn for so long, with seeds that count up from `seed`, and add what happens to the tally.

    Every target has a turn, however short the time.
    """
    following = dict.fromkeys((target.name for target in targets), seed)
    turn = min(SLICE, seconds / len(targets))
    deadline = time.monotonic() + seconds
    for turns in itertools.count():
        for target in targets:
            if turns and time.monotonic() >= deadline:
                return
            cases = iter(range(following[target.name], 2**62))
            following[target.name] += run_slice(target, cases, turn, tally, minimise=True, say=say)


def run_slice(
    target: Target,
    seeds: Iterable[int],
    seconds: float,
    tally: Tally,
    *,
    cases: Sequence[Case] | None = None,
    minimise: bool = False,
    say: Callable[[str], None] = print,
) -> int:
    """Run cases of one target in a process of its own until the time is over; return how many began.

    Args:
        target: The target.
        seeds: The seeds of the cases.
        seconds: The time.
        tally: What happened is added to it.
        cases: The cases themselves, if they are not to be drawn from the seeds.
        minimise: Whether to look for simpler cases of what is found.
        say: Called with a line for each new fault.
    """
    known = {key[1:] for key in tally.counts if key[0] == target.name}
    began, started = 0, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        trace = Path(folder, "trace")
        reading, writing = os.pipe()
        process = FORK.Process(
            target=_work, args=(target, seeds, seconds, cases, known if minimise else None, writing, trace, folder)
        )
        process.start()
        os.close(writing)
        last: dict[str, object] | None = None
        with os.fdopen(reading, encoding="utf-8") as lines:
            for line in lines:
                told = json.loads(line)
                if "begin" in told:
                    began, last = began + 1, told
                    continue
                if "simpler" in told:
                    simpler = Finding(**told["simpler"])
                    tally.first[(simpler.target, *simpler.signature)] = simpler
                    continue
                tally.cases[target.name] += 1
                tally.refused[target.name] += told["refused"]
                tally.stale[target.name] += told["stale"]
                last = None
                for one in told["findings"]:
                    _note(Finding(**one), tally, say)
        process.join()
        if last is not None:
            seed = int(str(last["begin"]))
            case = cases[seed] if cases is not None else drawn(target, seed)
            tally.cases[target.name] += 1
            _note(_ended(target, seed, case, process.exitcode, trace), tally, say)
    tally.seconds[target.name] += time.monotonic() - started
    return began


def _note(finding: Finding, tally: Tally, say: Callable[[str], None]) -> None:
    if (finding.target, *finding.signature) not in tally.counts:
        say(f"found     {finding.target} seed {finding.seed}: {finding.kind}: {finding.what}")
    tally.add(finding)


def _ended(target: Target, seed: int, case: Case, code: int | None, trace: Path) -> Finding:
    """Return the finding of a case in which the process ended."""
    dumped = trace.read_text(errors="replace") if trace.exists() else ""
    ours = [line.strip() for line in dumped.splitlines() if "/mambascope/" in line]
    where = ours[0].rpartition("/mambascope/")[2].replace('"', "") if ours else "unknown"
    if "Timeout" in dumped:
        return Finding(target.name, seed, "time", f"hangs at {where}", dumped[-3000:], case)
    name = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
    return Finding(target.name, seed, "crash", f"{name} at {where}", dumped[-3000:], case)


def _work(
    target: Target,
    seeds: Iterable[int],
    seconds: float,
    cases: Sequence[Case] | None,
    known: set[tuple[str, str]] | None,
    pipe: int,
    trace: Path,
    folder: str,
) -> None:
    """Run cases in a process of its own."""
    tempfile.tempdir = folder
    limit = _address_space() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    deadline = time.monotonic() + seconds
    with open(trace, "w") as dumped, os.fdopen(pipe, "w", encoding="utf-8") as told:
        faulthandler.enable(dumped)
        for seed in seeds:
            case = cases[seed] if cases is not None else drawn(target, seed)
            print(json.dumps({"begin": seed}), file=told, flush=True)
            faulthandler.dump_traceback_later(HANGS, exit=True, file=dumped)
            refused, stale, findings = run(target, case, seed)
            outcome = {"refused": refused, "stale": stale, "findings": [one.to_dict() for one in findings]}
            print(json.dumps(outcome), file=told, flush=True)
            fresh = [one for one in findings if known is not None and one.signature not in known]
            for one in fresh:
                assert known is not None
                known.add(one.signature)
                simpler = smallest(target, one)
                if simpler is not one:
                    print(json.dumps({"simpler": simpler.to_dict()}), file=told, flush=True)
            faulthandler.cancel_dump_traceback_later()
            if time.monotonic() > deadline:
                break
    os._exit(0)


def _address_space() -> int:
    """Return how much address space this process has, in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()
