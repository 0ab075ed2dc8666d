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
from mambascope.trace.footprint import Keep, bytes_of_pass
from mambascope.trace.single_position import hooked

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


def estimate(subject: Subject, methods: Sequence[Method]) -> str:
    """Return how many tokens a long text has, and about how much time and memory it takes; empty for a shorter one.

    The first tokens are captured and timed. Attention takes more than that for later ones.
    """
    text = _tokens(subject)
    if text is None or text.shape[1] <= LONG:
        return ""
    given = subject.inputs.items()
    few: dict[str, Any] = {name: value[:, :TIMED] if isinstance(value, Tensor) else value for name, value in given}
    started = time.perf_counter()
    capture(subject.model, **few)
    passes = 1 + sum(method.passes for method in methods)
    seconds = (time.perf_counter() - started) / TIMED * text.shape[1] * passes
    keep, mixers = what_to_keep(subject, methods), find_mixers(subject.model)
    needed = in_words(bytes_of_pass(subject.model, mixers, subject.inputs, keep=keep))
    bound = "at least" if any(isinstance(family, AttentionFamily) for _, _, family in mixers) else "about"
    return f"{text.shape[1]:,} tokens take {bound} {_lasting(seconds)} and {needed}"


def _tokens(subject: Subject) -> Tensor | None:
    """Return the tokens of one text; None for anything else."""
    found = (subject.inputs.get(name) for name in ("input_ids", "inputs_embeds"))
    text = next((value for value in found if isinstance(value, Tensor)), None)
    return text if text is not None and text.ndim >= 2 else None


def _lasting(seconds: float) -> str:
    """Return a time in words."""
    return f"{seconds / 60:.0f} minutes" if seconds > 90 else f"{seconds:.0f} s"
