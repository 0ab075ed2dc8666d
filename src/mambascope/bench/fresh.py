"""Memory of a process in which nothing ran before: a process that has imported everything forks one for each case.

    python -m mambascope.bench.fresh

reads a case as JSON from every line, and answers each with a line. Where processes cannot fork, the one that answers
ends, and the next case has another.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import IO, Any

import torch
import transformers

from mambascope.bench.cases import CASES
from mambascope.bench.measuring import measured
from mambascope.bench.settings import Shape, setting
from mambascope.errors import MambascopeError, MapTooLargeError

#: Tokens of the text that warms up the process.
WARM = 16
#: Given a case, what is beside it (None for ours), the model's shape, the number of tokens and the device: MiB.
Ask = Callable[[str, str | None, Shape, int, str], float]


def growth(name: str, beside: str | None, shape: Shape, length: int, device: str, threads: int) -> float:
    """Return the MiB by which this process grows while it runs a case, or what is beside it, for the first time."""
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(threads)
    case = CASES[name]

    def call(tokens: int) -> Callable[[], Any]:
        chosen = setting(shape, tokens, device)
        others = (one.call(chosen)[0] for one in case.beside if one.name == beside)
        made = case.ours(chosen) if beside is None else next(others)
        if name != "capture":
            _ = chosen.operator
        return made

    call(min(WARM, length))()
    return measured(call(length), device)[2] / 2**20


@contextmanager
def fresh_processes() -> Iterator[Ask]:
    """Yield a function that measures a case in a process of its own.

    It raises MapTooLargeError if that process does not end well, as when memory runs out.
    """
    servers: list[subprocess.Popen[str]] = []

    def ask(name: str, beside: str | None, shape: Shape, length: int, device: str) -> float:
        if not servers or servers[-1].poll() is not None:
            servers.append(_started())
        given = {"name": name, "beside": beside, "shape": asdict(shape), "length": length, "device": device}
        told = _told(servers[-1], json.dumps(given | {"threads": torch.get_num_threads()}))
        if "mib" not in told:
            raise MapTooLargeError(
                f"the process that measured the memory of {name} at {length} tokens ended early "
                f"({told.get('error', 'killed, as when memory runs out')}); choose a smaller --size or --length"
            )
        return float(told["mib"])

    try:
        yield ask
    finally:
        for server in servers:
            server.communicate()


def _started() -> subprocess.Popen[str]:
    path = os.environ | {"PYTHONPATH": os.pathsep.join(place or os.curdir for place in sys.path)}
    return subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=path,
    )


def _told(server: subprocess.Popen[str], line: str) -> dict[str, Any]:
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        server.stdin.write(line + "\n")
        server.stdin.flush()
        return dict(json.loads(server.stdout.readline() or "{}"))
    except BrokenPipeError:
        return {}


def serve(questions: IO[str], answers: IO[str]) -> None:
    """Answer every line of questions, each by a forked process."""
    for line in questions:
        if not hasattr(os, "fork"):
            print(_answered(line), file=answers, flush=True)
            return
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            os.write(writing, _answered(line).encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as told:
            answer = told.read()
        os.waitpid(child, 0)
        print(answer or "{}", file=answers, flush=True)


def _answered(line: str) -> str:
    given = json.loads(line)
    try:
        return json.dumps({"mib": growth(**given | {"shape": Shape(**given["shape"])})})
    except (MambascopeError, RuntimeError, MemoryError) as error:
        return json.dumps({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout)
