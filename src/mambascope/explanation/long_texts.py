"""What is kept of a long text, and about how long it takes, said before it runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mambascope.explanation.subject import Subject
from mambascope.families import AttentionFamily, find_mixers
from mambascope.memory import available_bytes, in_words
from mambascope.methods.method import Method
from mambascope.trace.capture import capture
from mambascope.trace.footprint import Keep, bytes_of_inputs, bytes_of_pass
from mambascope.trace.long_position import bytes_with_states
from mambascope.trace.pieces import BACKWARD, bytes_in_pieces
from mambascope.trace.running import running
from mambascope.trace.single_position import hooked
from mambascope.trace.text_in_pieces import long_text

#: Bytes that the trace of a text may take before its mixers' inputs alone are kept.
ROOM = 1 << 30

#: Tokens from which on a text's time is estimated, and the tokens of it that are timed.
LONG, TIMED = 8192, 512


def what_to_keep(subject: Subject, methods: Sequence[Method]) -> Keep:
    """Return what a capture for these methods keeps: all, or the mixers' inputs where all would take too much."""
    model, mixers = subject.model, find_mixers(subject.model)
    if _tokens(subject) is None or not all(method.from_inputs for method in methods) or hooked(model):
        return "all"
    room = min(ROOM, available_bytes(next(model.parameters()).device))
    return "all" if bytes_of_pass(model, mixers, subject.inputs) <= room else "inputs"


def estimate(subject: Subject, methods: Sequence[Method], spans: int = 0) -> str:
    """Return how many tokens a long text has, and about how much time and memory it takes; empty for a shorter one.

    The first tokens are captured and timed. Attention takes more than that for later ones, and so do interventions on
    every token.

    Args:
        subject: The model and what it reads.
        methods: The methods.
        spans: How many runs of sources are removed, each as a whole; 0 where every token is removed by itself.
    """
    text = _tokens(subject)
    if text is None or text.shape[1] <= LONG:
        return ""
    given = subject.inputs.items()
    few: dict[str, Any] = {name: value[:, :TIMED] if isinstance(value, Tensor) else value for name, value in given}
    started = time.perf_counter()
    capture(subject.model, **few)
    took = time.perf_counter() - started
    keep, mixers = what_to_keep(subject, methods), find_mixers(subject.model)
    passes = 1 + sum(_passes(method, keep, spans) for method in methods)
    seconds = took / TIMED * text.shape[1] * passes
    needed = bytes_of_pass(subject.model, mixers, subject.inputs, keep=keep)
    if keep == "inputs":
        kept = bytes_of_inputs(subject.model, mixers, subject.inputs)
        needed = max(needed, kept + _bytes_after(subject, methods, spans))
    more = any(isinstance(family, AttentionFamily) for _, _, family in mixers)
    more = more or any(method.growth and not spans for method in methods)
    return f"{text.shape[1]:,} tokens take {'at least' if more else 'about'} {_lasting(seconds)} and {in_words(needed)}"


def _passes(method: Method, keep: Keep, spans: int) -> float:
    """Return about how many forward passes a method takes."""
    if spans:
        return 1.0
    if keep == "inputs" and method.needs == "backward":
        return 1.0 + BACKWARD
    return method.passes + (keep == "inputs")  # each mixer runs again


def _bytes_after(subject: Subject, methods: Sequence[Method], spans: int) -> int:
    """Return about how many bytes the passes of methods take that follow a capture of the mixers' inputs."""
    backward = any(method.needs == "backward" for method in methods)
    if not backward and not spans:
        return 0
    with running(subject.model, eager=True) as own:
        text = long_text(own, dict(subject.inputs), backward=backward)
        left = None if text is None else text.tried()
        if text is None or left is None:
            return bytes_of_pass(own, find_mixers(own), subject.inputs, backward=backward)
        return bytes_in_pieces(text, left) if backward else bytes_with_states(text, left, spans)


def _tokens(subject: Subject) -> Tensor | None:
    """Return the tokens of one text; None for anything else."""
    found = (subject.inputs.get(name) for name in ("input_ids", "inputs_embeds"))
    text = next((value for value in found if isinstance(value, Tensor)), None)
    return text if text is not None and text.ndim >= 2 else None


def _lasting(seconds: float) -> str:
    """Return a time in words."""
    return f"{seconds / 60:.0f} minutes" if seconds > 90 else f"{seconds:.0f} s"
