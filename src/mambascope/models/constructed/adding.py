"""The mechanisms that add up: counting ones in a row, and the sum over a span, each forgetting what was before."""

from __future__ import annotations

from mambascope.models.constructed.machine import ALWAYS, Address, Carry, Layer, Machine
from mambascope.models.constructed.mechanism import Architecture, Case, Mechanism

#: Those whose memory adds up: softmax takes means, and the norm of a delta net's head divides a lone sum by itself.
ADDING: tuple[Architecture, ...] = ("mamba", "mamba2")
NUMBERS = ("1", "2", "3")


def _decoded(most: int) -> dict[str, dict[str, float]]:
    """Return readouts of a number n: 2kn - k² is highest for k = n, and stays so if both are divided by anything."""
    return {f"={k}": {"total": 2.0 * k, "unit": -float(k * k)} for k in range(most + 1)}


def _counted(text: tuple[str, ...]) -> Case | None:
    target = len(text) - 1
    begin = target
    while begin > 0 and text[begin - 1] == "1":
        begin -= 1
    if begin == target:
        return None
    guides = {target, begin - 1} if begin else {target}
    count = target - begin
    return Case(text, f"={count}", dict.fromkeys(range(begin, target), 1), frozenset(guides), ({"one": count},))


COUNT = Mechanism(
    "count",
    "counts the ones in a row at the end",
    Machine(
        {"0": ("zero",), "1": ("one",), "?": ("asks",), **dict.fromkeys(_decoded(15), ())},
        _decoded(15),
        (Layer((Carry("one", "total"),), (Address("one", ALWAYS),), forgets="zero", reference="unit"),),
    ),
    ("0", "1"),
    ("?",),
    _counted,
    ADDING,
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
            **dict.fromkeys(_decoded(30), ()),
        },
        _decoded(30),
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
