"""What a library in Rust prints of its own crash: it is raised as an exception too, which we put into a sentence."""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: A panic as Rust prints it, to its last line: a note, or without one everything that follows.
PANIC = re.compile(
    rb"(?:(?:\A|(?<=\n))\n)?thread '[^\n]*' (?:\(\d+\) )?panicked at .*?(?:\nnote: [^\n]*\n|\Z)", re.DOTALL
)

#: Standard error is the whole process's.
_ONE = threading.RLock()


@contextmanager
def panics_unprinted() -> Iterator[None]:
    """Keep what is printed of a panic inside the block off standard error.

    Rust prints it beneath Python, before there is an exception to catch. Whatever else is printed meanwhile, by this
    thread or another, is printed when the block ends.
    """
    with _ONE:
        try:
            usual = os.dup(2)
        except OSError:  # there is no standard error
            yield
            return
        with tempfile.TemporaryFile() as held:
            os.dup2(held.fileno(), 2)
            try:
                yield
            finally:
                os.dup2(usual, 2)
                os.close(usual)
                held.seek(0)
                rest = PANIC.sub(b"", held.read())
                if rest:
                    os.write(2, rest)
