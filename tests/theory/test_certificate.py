"""No head without softmax counts in row: the certificate, checked from its file with fractions and with sympy."""

import itertools
from fractions import Fraction

import pytest
import sympy
import torch

from mambascope.errors import InputError
from mambascope.operators.decayed_attention import DecayedAttention
from mambascope.operators.softmax_attention import SoftmaxAttention
from mambascope.theory.certificate import (
    Certificate,
    Equation,
    Solution,
    count_at_end,
    equations,
    normalised_head,
    solve,
    write_system,
)
from mambascope.theory.count_in_row import run_lengths

BOTH = pytest.mark.parametrize("positions", [False, True], ids=["tokens alone", "with positions"])


def strings_up_to(length):
    return [string for n in range(1, length + 1) for string in itertools.product((0, 1), repeat=n)]


def parsed(line):
    """Return the factors of a line's unknowns and its right-hand side, read with `fractions` alone."""
    left, right = line.split("=")
    factors = {}
    for term in left.split("+"):
        *times, name = term.strip().split("*")
        factors[name] = factors.get(name, 0) + Fraction(times[0] if times else 1)
    return factors, Fraction(right.strip())


def symbolic(line):
    left, right = line.split("=")
    return sympy.sympify(left) - sympy.sympify(right)


@BOTH
@pytest.mark.parametrize("length", [3, 4])
def test_the_certificate_proves_it_by_the_file_alone(tmp_path, positions, length):
    """Only the file's lines and the certificate's factors are used here; the lines are added up to 0 = 1."""
    system = equations(length, positions=positions)
    lines = write_system(system, tmp_path / "system.txt").read_text().splitlines()
    certificate = solve(system)
    assert isinstance(certificate, Certificate)
    left, right = {}, Fraction(0)
    for factor, equation in certificate.parts:
        factors, value = parsed(lines[system.index(equation)])
        right += factor * value
        for name, times in factors.items():
            left[name] = left.get(name, 0) + factor * times
    assert (set(left.values()), right) == ({0}, 1)
    assert certificate.total == ({}, 1)
    assert sum(factor * symbolic(lines[system.index(equation)]) for factor, equation in certificate.parts) == -1


@BOTH
def test_sympy_finds_no_solution_at_length_3_and_one_at_length_2(tmp_path, positions):
    for length, possible in ((1, True), (2, True), (3, False)):
        path = write_system(equations(length, positions=positions), tmp_path / f"{length}.txt")
        residuals = [symbolic(line) for line in path.read_text().splitlines()]
        unknowns = sorted(set().union(*(residual.free_symbols for residual in residuals)), key=str)
        assert bool(sympy.linsolve(residuals, unknowns)) == possible


@BOTH
@pytest.mark.parametrize("length", [1, 2])
def test_shorter_lengths_have_solutions_that_satisfy_every_equation(positions, length):
    system = equations(length, positions=positions)
    solution = solve(system)
    assert isinstance(solution, Solution)
    for equation in system:
        assert sum(times * solution.values[name] for name, times in equation.terms.items()) == equation.value


@BOTH
def test_every_equation_of_the_certificate_is_needed(positions):
    certificate = solve(equations(3, positions=positions))
    parts = [equation for _, equation in certificate.parts]
    assert len(parts) == (4 if positions else 2)
    for left_out in parts:
        assert isinstance(solve([equation for equation in parts if equation is not left_out]), Solution)


def test_the_certificates_as_printed():
    assert str(solve(equations(3))).splitlines() == [
        " 1 × [011]  r_1 + w_1_0 + 2*w_1_1 = 2",
        "-1 × [101]  r_1 + w_1_0 + 2*w_1_1 = 1",
        "       sum  0 = 1",
    ]
    strings = ["".join(map(str, part.string)) for _, part in solve(equations(3, positions=True)).parts]
    assert strings == ["001", "011", "101", "111"]


@BOTH
def test_the_equations_are_what_heads_compute(positions):
    """Random heads, by the operator of attention without softmax: every output is what its terms add up to."""
    torch.manual_seed(0)
    places = 4 if positions else 1
    q, k = torch.randn(2, places, 2, 3, dtype=torch.float64)
    v, r = torch.randn(2, places, 2, dtype=torch.float64)
    for equation in equations(4, positions=positions):
        bits = torch.tensor(equation.string)
        where = torch.arange(len(bits)) if positions else torch.zeros_like(bits)
        read, write, value = q[where, bits], k[where, bits], v[where, bits]
        head = DecayedAttention(
            fall=torch.zeros(1, len(bits), 1, dtype=torch.float64),
            write=write[None, :, None], read=read[None, :, None], skip=torch.zeros(1, dtype=torch.float64),
        )  # fmt: skip
        output = head.apply(value[None, :, None])[0, -1, 0] + r[where[-1], bits[-1]]
        total = 0.0
        for name, times in equation.terms.items():
            kind, *numbers = name.split("_")
            numbers = [int(number) for number in numbers]
            if not positions:
                numbers = [n for token in numbers for n in (1, token)]
            i, a, j, b = (*numbers, 1, 0)[:4]
            pair = (q[i - 1, a] @ k[j - 1, b]) * v[j - 1, b]
            total += times * float(r[i - 1, a] if kind == "r" else pair)
        assert output.item() == pytest.approx(total, abs=1e-12)  # a few roundings of numbers of order 1


def test_the_values_are_the_counts():
    for equation in equations(6):
        assert equation.value == run_lengths(torch.tensor([equation.string]))[0, -1]


def test_another_function_has_a_solution():
    """The sum of the ones is what such a head can compute: the method does not say no to everything."""
    system = [Equation(one.string, one.terms, one.string[-1] * sum(one.string)) for one in equations(5)]
    assert isinstance(solve(system), Solution)


def test_softmax_with_positions_escapes():
    """To within a half for all strings up to length 12, in exact fractions; and by the operator of softmax."""
    for string in strings_up_to(12):
        assert abs(normalised_head(string) - count_at_end(string)) < Fraction(1, 2)
    bits = torch.tensor([0, 1, 1, 0, 1, 1, 1], dtype=torch.float64)
    places = torch.arange(1, 8, dtype=torch.float64)
    p = ((1 - bits) * places * torch.tensor(56.0).log()).softmax(dim=0).expand(1, 1, 7, 7)
    drawn = SoftmaxAttention(p=p, skip=torch.zeros(1)).apply(((1 - bits) * places)[None, :, None])[0, -1, 0]
    assert 7 - drawn.item() == pytest.approx(float(normalised_head(bits.int().tolist())), abs=1e-5)  # log in float32


def test_softmax_without_positions_does_not():
    """Any head without positions sees 011 and 101 alike; here a softmax head over random tables, in both orders."""
    torch.manual_seed(0)
    score, value = torch.randn(2, 2, dtype=torch.float64)
    outputs = [score[torch.tensor(s)].softmax(0) @ value[torch.tensor(s)] for s in ((0, 1, 1), (1, 0, 1))]
    assert outputs[0].item() == pytest.approx(outputs[1].item(), abs=1e-15)


def test_a_length_that_is_not_positive_is_refused():
    with pytest.raises(InputError, match="length must be at least 1, found 0"):
        equations(0)
