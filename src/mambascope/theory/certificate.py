"""Why an attention head without softmax cannot count in row: finitely many equations that have no solution.

Let q, k and v be any functions of the token at their position. The head's output, read by any linear map u and added to
anything that the target's own token says, is

    y_i = r(x_i) + Σ_{j≤i} w(x_i, x_j) ,     w(a, b) = (q_a · k_b) (u · v_b)

Over binary strings r and w are six unknown numbers, and a string x_1 … x_i gives one linear equation in them: y_i is
the length of the run of ones at its end (`mambascope.theory.count_in_row`). With `positions`, q, k, v and r may depend
on the position too, as with rotary or learned positions, or decays as in RetNet: r(i, a) and w(i, a, j, b) are then
unknown numbers, one for every pair of tokens and positions.

`solve` finds numbers that satisfy a system, or a certificate that there are none: factors with which its equations add
up to 0 = 1. All of it is rational arithmetic without rounding (Gaussian elimination over `fractions.Fraction`).

The systems up to length 2 have solutions; that of length 3 has none, with positions or without. So no such head counts
in row from length 3 on (the case without positions is the theorem of Ali, Zimerman & Wolf, arXiv 2403.01590). As w is
any function of two tokens, this holds for heads of any width, for the sum of any number of heads, and for targets that
see later tokens.

* Without positions, 011 and 101 are the same tokens before the same target, so their outputs are equal, but their
  counts are 2 and 1. This has nothing to do with the softmax: it holds for every head without positions.
* With positions, y is a sum of functions of one earlier token each, so what x_1 adds does not depend on x_2. Of 101 and
  001 it adds nothing, of 111 and 011 one. A softmax escapes, as its divisor mixes all tokens: `normalised_head`.

Not covered: a divisor (softmax, normalised linear attention), a decay that tokens set (GLA, Mamba-2), a readout that is
not linear, such as an MLP, and tokens that were mixed before the head, by a convolution or another layer.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

from mambascope.errors import InputError
from mambascope.files import write_whole

Key = TypeVar("Key", str, int)


@dataclass(frozen=True)
class Equation:
    """What one string demands of a head: that its output at the last position is the count there.

    Attributes:
        string: The bits.
        terms: How often each unknown is added up.
        value: The count.
    """

    string: tuple[int, ...]
    terms: Mapping[str, int]
    value: int

    def __str__(self) -> str:
        return f"{_sum(self.terms)} = {self.value}"


@dataclass(frozen=True)
class Solution:
    """Numbers that satisfy a system."""

    values: Mapping[str, Fraction]

    def __str__(self) -> str:
        return ", ".join(f"{name} = {value}" for name, value in self.values.items())


@dataclass(frozen=True)
class Certificate:
    """Equations of a system and their factors, whose sum reads 0 = 1; without one of them, there is none.

    Attributes:
        parts: Factors and equations.
    """

    parts: tuple[tuple[Fraction, Equation], ...]

    @property
    def total(self) -> tuple[Mapping[str, Fraction], Fraction]:
        """What is left of the unknowns in the sum, without those whose factor is 0, and its right-hand side."""
        left: dict[str, Fraction] = {}
        for factor, equation in self.parts:
            for name, times in equation.terms.items():
                left[name] = left.get(name, Fraction(0)) + factor * times
        value = sum((factor * equation.value for factor, equation in self.parts), Fraction(0))
        return {name: times for name, times in left.items() if times}, value

    def __str__(self) -> str:
        width = max(len(f"{factor}") for factor, _ in self.parts)
        strings = max(len(equation.string) for _, equation in self.parts)
        lines = [
            f"{factor!s:>{width}} × [{''.join(map(str, equation.string)):>{strings}}]  {equation}"
            for factor, equation in self.parts
        ]
        left, value = self.total
        return "\n".join([*lines, f"{'sum':>{width + strings + 5}}  {_sum(left)} = {value}"])


def equations(length: int, *, positions: bool = False) -> list[Equation]:
    """Return the equations of all binary strings up to a length, shorter ones first.

    Args:
        length: The greatest length.
        positions: Whether q, k, v and r may depend on the position.

    Raises:
        InputError: if the length is not positive.
    """
    if length < 1:
        raise InputError(f"length must be at least 1, found {length}")
    strings = (string for n in range(1, length + 1) for string in itertools.product((0, 1), repeat=n))
    return [Equation(string, _terms(string, positions), count_at_end(string)) for string in strings]


def count_at_end(string: Sequence[int]) -> int:
    """Return the length of the run of ones at a string's end."""
    return sum(1 for _ in itertools.takewhile(lambda bit: bit == 1, reversed(string)))


def solve(system: Sequence[Equation]) -> Solution | Certificate:
    """Return numbers that satisfy all equations, or a certificate that there are none.

    Unknowns that the equations leave free are 0. A certificate needs all of its equations: leaving out any one of them
    makes the rest solvable.
    """
    found = _eliminate(system)
    if isinstance(found, Solution):
        return found
    needed = [equation for _, equation in found.parts]
    for equation in tuple(needed):
        fewer = [other for other in needed if other is not equation]
        if isinstance(_eliminate(fewer), Certificate):
            needed = fewer
    found = _eliminate(needed)
    assert isinstance(found, Certificate)
    return found


def write_system(system: Sequence[Equation], path: str | Path) -> Path:
    """Write a system to a file, one equation a line as `r_1 + w_1_0 + w_1_1 = 1`, and return its path.

    Unknowns are `r_a` and `w_a_b` for target token a and source token b; with positions `r_i_a` and `w_i_a_j_b`,
    counted from 1. sympy reads both sides of a line as they are. Lines are in the order of `equations`.

    Raises:
        OutputError: if the file cannot be written.
    """
    write_whole(Path(path), "".join(f"{equation}\n" for equation in system).encode())
    return Path(path)


def normalised_head(string: Sequence[int]) -> Fraction:
    """Return what one softmax head with positions puts out at the end of a string: the count, to within a half.

    y_i = i - Σ_j p_ij v_j ,     p_ij ∝ exp(s_j) ,     s_j = j log(8 L) and v_j = j at zeros, s_j = v_j = 0 at ones

    for strings up to some length L, here the string's own. The last zero outweighs all that comes before it, and the
    count is how far away it is. Computed without rounding, as exp(s_j) is a whole number.
    """
    base = 8 * len(string)
    weights = [1 if bit else base**j for j, bit in enumerate(string, start=1)]
    drawn = sum(
        weight * (0 if bit else j) for j, (bit, weight) in enumerate(zip(string, weights, strict=True), start=1)
    )
    return len(string) - Fraction(drawn, sum(weights))


def _terms(string: tuple[int, ...], positions: bool) -> Mapping[str, int]:
    """Return the unknowns that a string's last position adds up."""
    i, a = len(string), string[-1]
    if positions:
        names = [f"r_{i}_{a}", *(f"w_{i}_{a}_{j}_{b}" for j, b in enumerate(string, start=1))]
    else:
        names = [f"r_{a}", *sorted(f"w_{a}_{b}" for b in string)]
    return Counter(names)


def _eliminate(system: Sequence[Equation]) -> Solution | Certificate:
    """Reduce equation by equation, remembering which were added up, until one reads 0 = c or all are used.

    The last come first: those of the longest strings, which ask the most of the same unknowns, contradict soonest.
    """
    pivots: dict[str, _Row] = {}
    for number in reversed(range(len(system))):
        terms = {name: Fraction(times) for name, times in system[number].terms.items()}
        row = _Row(terms, Fraction(system[number].value), {number: Fraction(1)})
        for name, pivot in pivots.items():
            row = row.plus(pivot, -row.left.get(name, Fraction(0)))
        if row.left:
            name = next(iter(row.left))
            pivots[name] = row.times(1 / row.left[name])
        elif row.value:
            used = row.times(1 / row.value).used
            return Certificate(tuple((factor, system[n]) for n, factor in sorted(used.items())))
    values = {name: Fraction(0) for equation in system for name in equation.terms}
    for name, pivot in reversed(pivots.items()):
        others = sum((times * values[other] for other, times in pivot.left.items() if other != name), Fraction(0))
        values[name] = pivot.value - others
    return Solution(values)


@dataclass(frozen=True)
class _Row:
    """A sum of equations.

    Attributes:
        left: Its unknowns and their factors, without zeros.
        value: Its right-hand side.
        used: The factor of every equation in it, by its number.
    """

    left: Mapping[str, Fraction]
    value: Fraction
    used: Mapping[int, Fraction]

    def plus(self, other: _Row, factor: Fraction) -> _Row:
        """Return this row with another one added, times a factor."""
        return _Row(
            _added(self.left, other.left, factor),
            self.value + factor * other.value,
            _added(self.used, other.used, factor),
        )

    def times(self, factor: Fraction) -> _Row:
        """Return this row times a factor other than 0."""
        return _Row(_added({}, self.left, factor), factor * self.value, _added({}, self.used, factor))


def _added(mine: Mapping[Key, Fraction], theirs: Mapping[Key, Fraction], factor: Fraction) -> dict[Key, Fraction]:
    """Return mine + factor · theirs, without zeros."""
    total = dict(mine)
    for key, value in theirs.items():
        total[key] = total.get(key, Fraction(0)) + factor * value
    return {key: value for key, value in total.items() if value}


def _sum(terms: Mapping[str, int] | Mapping[str, Fraction]) -> str:
    """Return a sum as text, as `r_1 + 2*w_1_1`."""
    return " + ".join(name if times == 1 else f"{times}*{name}" for name, times in terms.items()) or "0"
