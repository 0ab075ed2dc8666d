"""What Rust prints of a panic stays off standard error; everything else comes out."""

import os

import pytest

from mambascope.panics import panics_unprinted

SHORT = b"""
thread '<unnamed>' (12993) panicked at tokenizers/src/models/wordpiece/mod.rs:10:5:
called `Option::unwrap()` on a `None` value
note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace
"""
LONG = b"""
thread 'main' panicked at src/lib.rs:1:1:
a reason
of two lines
stack backtrace:
   0: rust_begin_unwind
             at /rustc/library/std/src/panicking.rs:1:1
   1: PyEval_EvalCode
note: Some details are omitted, run with `RUST_BACKTRACE=full` for a verbose backtrace.
"""


@pytest.mark.parametrize("panic", [SHORT, LONG, SHORT.removeprefix(b"\n"), SHORT + LONG])
def test_a_panic_is_left_out_and_the_rest_is_printed(panic, capfd):
    def crash():
        with panics_unprinted():
            os.write(2, b"before\n" + panic + b"after\n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        crash()
    assert capfd.readouterr().err == "before\nafter\n"


def test_a_panic_without_a_note_is_left_out_to_its_end(capfd):
    with panics_unprinted():
        os.write(2, b"before\n" + LONG.partition(b"note: ")[0])
    assert capfd.readouterr().err == "before\n"


def test_blocks_may_be_nested(capfd):
    with panics_unprinted():
        with panics_unprinted():
            os.write(2, b"inner\n" + SHORT)
        os.write(2, b"outer\n")
    os.write(2, b"out\n")
    assert capfd.readouterr().err == "inner\nouter\nout\n"
