"""Run one case and watch: what it raises, prints and writes, what it leaves changed, and how long it takes."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import random
import re
import shutil
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers

from mambascope import MambascopeError
from mambascope.families import FAMILIES

from .findings import BrokenError, Case, Finding, StaleError

#: A case that computes for longer is a finding, in seconds of processor time.
SECONDS = 10.0
#: What messages say when an allocation fails.
NO_MEMORY = (
    "allocate memory",
    "not enough memory",
    "bad allocation",
    "std::bad_alloc",
    "unable to mmap",
    "Cannot allocate",
)
#: The longest message that is still one sentence, in characters: several names of files may be in it.
LONGEST = 2000


class Target(NamedTuple):
    """A part of the package to fuzz.

    Attributes:
        name: Its name.
        draw: Returns a random case.
        check: Runs a case, given an empty folder for its files; raises BrokenError if a property does not hold.
        smaller: Yields simpler cases that may show the same fault.
        may_change: The global state that its cases may change: to load a model draws random numbers.
    """

    name: str
    draw: Callable[[random.Random], Case]
    check: Callable[[Case, Path], None]
    smaller: Callable[[Case], Iterable[Case]] = lambda case: ()
    may_change: tuple[str, ...] = ()


#: What the tokenizers library prints beneath Python of a key that it does not know; the file loads all the same.
HARMLESS = re.compile(r"Ignored unknown kwarg option [^\n]*\n?")

#: What drawing random numbers changes.
RANDOM = ("random state of torch",)


class Outcome(NamedTuple):
    """What became of a case: whether it was refused, whether it is stale, and what was found."""

    refused: bool
    stale: bool
    findings: list[Finding]


def drawn(target: Target, seed: int) -> Case:
    """Return the case of a seed; the same in every run."""
    return target.draw(random.Random(f"{target.name} {seed}"))


def run(target: Target, case: Case, seed: int = -1) -> Outcome:
    """Run a case in a folder of its own and return what was found."""
    found: list[tuple[str, str, str]] = []
    refused = stale = False
    before = surroundings()
    here = Path.cwd()
    place = Path(tempfile.mkdtemp(prefix="case-"))
    folders = {name: place / name for name in ("case", "here", "tmp", "home", "cache")}
    for folder in folders.values():
        folder.mkdir()
    printed = io.StringIO()
    started = time.process_time()
    with (
        _in_folders(folders),
        _recorded() as noted,
        _printed_beneath(place / "printed"),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        try:
            target.check(case, folders["case"])
        except MambascopeError as error:
            refused = True
            found += _badly_said(str(error))
        except StaleError:
            stale = True
        except BrokenError as error:
            found.append((error.kind, error.what, str(error)))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of a library in Rust is no Exception
            found.append(_foreign(error))
    seconds = time.process_time() - started
    os.chdir(here)
    found += [("warning", one, one) for one in dict.fromkeys(noted)]
    beneath = (place / "printed").read_text(errors="replace")
    shown = printed.getvalue() + HARMLESS.sub("", beneath)
    if shown.strip():
        found.append(("printed", shown.strip()[:40], shown[-2000:]))
    found += [
        ("file left", f"in {name}", str(left)) for name in ("here", "tmp", "home") if (left := _files(folders[name]))
    ]
    found += [("file left", "unfinished file", str(left)) for left in [_files(place, "*.partial*")] if left]
    _wait_for_threads(before["threads"])
    after = surroundings()
    changed = [name for name in before if before[name] != after[name] and name not in target.may_change]
    found += [("state changed", name, f"{before[name]} -> {after[name]}"[:500]) for name in changed]
    if seconds > SECONDS and not found:
        found.append(("time", "too slow", f"{seconds:.0f} s of processor time"))
    shutil.rmtree(place, ignore_errors=True)
    return Outcome(refused, stale, [Finding(target.name, seed, *one, case) for one in found])


def smallest(target: Target, finding: Finding, tries: int = 30) -> Finding:
    """Return the same fault shown by a simpler case, if one is found in so many tries."""
    deadline = time.monotonic() + 10
    found, going = finding, True
    while going:
        going = False
        for case in target.smaller(found.case):
            tries -= 1
            if tries < 0 or time.monotonic() > deadline:
                return found
            again = [one for one in run(target, case, finding.seed).findings if one.signature == finding.signature]
            if again:
                found, going = again[0], True
                break
    return found


def surroundings() -> dict[str, Any]:
    """Return the global state that no call may leave changed."""
    points = [family.scan_point for family in FAMILIES.values() if hasattr(family, "scan_point")]
    names = ("transformers", "huggingface_hub", "mambascope", "torch")
    return {
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "gradients enabled": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "threads of torch": torch.get_num_threads(),
        "random state of torch": hash(torch.get_rng_state().numpy().tobytes()),
        "random state of numpy": hash(np.random.get_state()[1].tobytes()),
        "random state of Python": hash(random.getstate()),
        "patch points": [id(getattr(sys.modules.get(one.module), one.function, None)) for one in points],
        "warnings": len(warnings.filters),
        "log levels": [(logging.getLogger(one).level, len(logging.getLogger(one).filters)) for one in names],
        "progress bars": transformers.utils.logging.is_progress_bar_enabled(),
        "environment": hash(frozenset(os.environ.items())),
        "import path": list(sys.path),
        "threads": threading.active_count(),
        "standard streams": [id(sys.stdin), id(sys.stdout), id(sys.stderr)],
    }


def _wait_for_threads(count: int, seconds: float = 2.0) -> None:
    """Give a timer that was cancelled the moment that it needs to end."""
    deadline = time.monotonic() + seconds
    while threading.active_count() > count and time.monotonic() < deadline:
        time.sleep(0.01)


@contextlib.contextmanager
def _in_folders(folders: dict[str, Path]) -> Iterator[None]:
    """Work in one of the folders, with homes, caches and temporary files in the others."""
    environment = {"HOME": folders["home"], "TMPDIR": folders["tmp"], "MAMBASCOPE_CACHE": folders["cache"]}
    old = {name: os.environ.get(name) for name in environment}
    os.environ |= {name: str(value) for name, value in environment.items()}
    usual, tempfile.tempdir = tempfile.tempdir, None
    os.chdir(folders["here"])
    try:
        yield
    finally:
        tempfile.tempdir = usual
        for name, value in old.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _recorded() -> Iterator[list[str]]:
    """Collect warnings, and what is logged as one; transformers would print it."""
    noted: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            noted.append(f"{record.name}: {record.getMessage()[:150]}")

    loggers = [logging.getLogger(name) for name in ("transformers", "huggingface_hub", "torch", "mambascope")]
    listener = Listener(logging.WARNING)
    handlers = [list(one.handlers) for one in loggers]
    for one in loggers:
        one.handlers = [listener]
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\.")
            warnings.filterwarnings("ignore", "Full backward hook is firing")  # about the hook, which is the user's
            warnings.filterwarnings("ignore", ".* does not say everything about its model")  # what a user must know
            yield noted
    finally:
        for one, usual in zip(loggers, handlers, strict=True):
            one.handlers = usual
    noted += [f"{one.category.__name__} {Path(one.filename).name}: {str(one.message)[:150]}" for one in caught]


@contextlib.contextmanager
def _printed_beneath(path: Path) -> Iterator[None]:
    """Send to a file what is printed beneath Python, as libraries in C and Rust do."""
    usual = [os.dup(stream) for stream in (1, 2)]
    try:
        with path.open("wb") as file:
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
        yield
    finally:
        for stream, held in zip((1, 2), usual, strict=True):
            os.dup2(held, stream)
            os.close(held)


def _files(folder: Path, pattern: str = "*") -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(pattern))[:5]


def _badly_said(message: str) -> list[tuple[str, str, str]]:
    """Return a finding if a refusal is not one clear sentence."""
    wrong = None
    if len(message) < 15:
        wrong = "nearly nothing is said"
    elif len(message) > LONGEST:
        wrong = "longer than a sentence"
    elif "Traceback" in message or "<object object" in message:
        wrong = "insides are shown"
    return [("badly said", wrong, message[:1000])] if wrong else []


def _foreign(error: BaseException) -> tuple[str, str, str]:
    """Return the finding of an exception that is not of ours, named by the line of ours that let it through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/mambascope/" in frame.filename]
    kind = "foreign exception"
    if isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY):
        kind = "memory"
    if not ours:
        kind = "fault of the fuzzer" if kind != "memory" and "/fuzz/" in frames[-1].filename else kind
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"
    else:
        file = ours[-1].filename.rpartition("/mambascope/")[2]
        where = f"{file}:{ours[-1].lineno} {ours[-1].name}"
        if frames[-1] is not ours[-1]:
            where += f" <- {'/'.join(Path(frames[-1].filename).parts[-2:])} {frames[-1].name}"
    return kind, f"{type(error).__name__} at {where}", _tail(error)


def _tail(error: BaseException, lines: int = 14) -> str:
    return "\n".join("".join(traceback.format_exception(error)).splitlines()[-lines:])[-3000:]
