"""The mechanisms that add up: counting ones in a row, and the sum over a span, each forgetting what was before."""

from __future__ import annotations

from collections.abc import Sequence

from mambascope.models.constructed.machine import ALWAYS, Address, Carry, Layer, Machine
from mambascope.models.constructed.mechanism import Architecture, Case, Mechanism

#: Those whose memory adds up: softmax takes means, and what a delta net writes depends on what it holds.
ADDING: tuple[Architecture, ...] = ("mamba", "mamba2")
NUMBERS = ("1", "2", "3")
#: The part of what is missing to 1 that a delta net writes for each one: n ones make 1 - (1 - STEP)^n.
STEP = 1 / 16
MOST = 15


def _decoded(numbers: Sequence[int] | Sequence[float]) -> dict[str, dict[str, float]]:
    """Return readouts of any numbers x: 2xn - x² is highest for x = n, and stays so if both are divided by anything."""
    return {f"={k}": {"total": 2.0 * x, "unit": -float(x * x)} for k, x in enumerate(numbers)}


def _counted(text: tuple[str, ...]) -> Case | None:
    target = len(text) - 1
    begin = target
    while begin > 0 and text[begin - 1] == "1":
        begin -= 1
    if begin == target:
        return None
    guides = {target, begin - 1} if begin else {target}
    count = target - begin
    held = ({"one": count, "asks": 1},)
    return Case(text, f"={count}", dict.fromkeys(range(begin, target), 1), frozenset(guides), held)


_BITS = {"0": ("zero",), "1": ("one",), "?": ("asks",), **{f"={k}": () for k in range(MOST + 1)}}
#: A delta net that is written into at one address takes steps towards 1; it keeps the question at another.
_COUNT_BY_STEPS = Machine(
    _BITS,
    _decoded([1 - (1 - STEP) ** k for k in range(MOST + 1)]),
    (
        Layer(
            (Carry("one", "total"), Carry("asks", "unit")),
            (Address("one", ALWAYS, STEP), Address("asks", "asks")),
            forgets="zero",
            at_once=2,
        ),
    ),
)
COUNT = Mechanism(
    "count",
    "counts the ones in a row at the end",
    Machine(
        _BITS,
        _decoded(range(MOST + 1)),
        (Layer((Carry("one", "total"),), (Address("one", ALWAYS),), forgets="zero", reference="unit"),),
    ),
    ("0", "1"),
    ("?",),
    _counted,
    (*ADDING, "delta"),
    instead={"delta": _COUNT_BY_STEPS},
)


def _summed(text: tuple[str, ...]) -> Case | None:
    target = len(text) - 1
    opened = max((k for k, token in enumerate(text) if token == "["), default=-1)
    inside = {k: int(text[k]) for k in range(opened + 1, target) if text[k] != "0"}
    if not inside:
        return None
    held = {f"number {value}": list(inside.values()).count(value) for value in set(inside.values())}
    guides = {target} if opened < 0 else {target, opened}
    return Case(text, f"={sum(inside.values())}", dict.fromkeys(inside, 1), frozenset(guides), (held,))


SUM = Mechanism(
    "sum",
    "adds up the numbers from the last opening bracket to the closing one",
    Machine(
        {
            "0": ("number",),
            **{value: ("number", f"number {value}") for value in NUMBERS},
            "[": ("opens",),
            "]": ("closes",),
            **{f"={k}": () for k in range(31)},
        },
        _decoded(range(31)),
        (
            Layer(
                tuple(Carry(f"number {value}", "total", float(value)) for value in NUMBERS),
                (Address("number", ALWAYS),),
                forgets="opens",
                reference="unit",
            ),
        ),
        length=11,
    ),
    ("0", *NUMBERS, "["),
    ("]",),
    _summed,
    ADDING,
    tells=lambda case: len(case.guides) == 2 and bool(case.idle),
)
