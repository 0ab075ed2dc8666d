"""What parts of one text's run bring back in another's, as a result: a row of scores for each layer."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

from mambascope.attribution import Attribution
from mambascope.errors import InputError
from mambascope.explanation.question import Question, next_tokens, resolve
from mambascope.explanation.subject import Subject
from mambascope.methods.method import number_of
from mambascope.methods.patching import patching
from mambascope.trace.putting import Part

#: What a result of patching is called; it compares two texts, so it is not among the methods that explain one.
NAME = "patching"


def patched(subjects: Sequence[Subject], question: Question, what: Part, like: Attribution) -> Attribution:
    """Return what a part of the first text's run brings back in the second's, for each layer and position.

    Args:
        subjects: A model with each of both texts.
        question: What is asked about both.
        what: The part, as in `methods.patching`.
        like: A result for the first text by the same model, which says what these are.

    Returns:
        A result whose scores are the shares that come back, 1 for all of it. Its diagnostics have the number in both
        texts, `clean` and `corrupted`; the part, `put_in`; the share for all at once, `together`; the error of the runs
        whose number is known, `patching_error`; and the second text's tokens, `other_tokens`.

    Raises:
        InputError: if the texts are not of the same number of tokens, the number is the same in both, or the model has
            no head.
        UnsupportedModelError, ReconstructionError: as `methods.patching` does.
    """
    first, second = subjects
    if first.tokens is None or second.tokens is None:
        raise InputError("patching compares two texts; pass texts, not inputs")
    trace, other = first.trace(), second.trace()
    started = time.perf_counter()
    resolved = resolve(first, trace, question)
    readout, place = number_of(resolved.readouts[-1]), resolved.places[-1]
    found = patching(trace, other, readout, what=what)
    target = dataclasses.replace(
        like.target,
        position=place,
        token=first.tokens[place],
        next_tokens=next_tokens(first, trace, place),
        asked=readout.label,
        value=found.clean,
        pooled=1,
    )
    evidence = {
        "clean": found.clean,
        "corrupted": found.corrupted,
        "put_in": what,
        "together": found.together,
        "patching_error": found.error,
        "other_tokens": list(second.tokens),
        "seconds": time.perf_counter() - started,
    }
    return dataclasses.replace(
        like,
        scores=found.scores[:, None].cpu(),
        axes={"layer": found.layers, "target": (place,), "source": tuple(range(len(first.tokens)))},
        method=NAME,
        target=target,
        targets=(),
        signed=True,
        diagnostics=evidence,
        over_layers="mean",
    )
