"""The command that measures how the cost of every method grows with the text."""

import pytest

from benchmarks import method_growth
from benchmarks.method_growth import CAPTURE, Cost, exponent, grown, line
from mambascope.methods.registry import METHODS


def test_exponents_are_those_of_the_longest_texts():
    costs = [Cost(length, 1e-6 * length**2, 1e-3 * length) for length in (512, 1024, 2048, 4096)]
    assert exponent(costs, "seconds") == pytest.approx(2)
    assert exponent(costs, "mib") == pytest.approx(1), "less than a mebibyte does not count"
    assert exponent([Cost(8, 3.0, 9.0), *costs], "seconds") == pytest.approx(2), "the last four count"
    assert line("rollout", costs[:1]) == ("rollout", "–", "–", "512", "0.26", "1")


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
def test_every_method_explains_one_target_of_the_text(family, monkeypatch):
    monkeypatch.setattr(method_growth, "WIDTH", 32)
    for name in (CAPTURE, *(one.name for one in METHODS.values() if one.offered and one.reads({"scan"}))):
        assert method_growth.calls(family, name, 6)() is not None


def test_the_text_doubles_until_a_run_takes_too_long(monkeypatch):
    monkeypatch.setattr(method_growth, "WIDTH", 32)
    assert [one.length for one in grown("mamba", "rollout", 100.0, 600)] == [256, 512]
    assert [one.length for one in grown("mamba", "rollout", 0.0, 600)] == [256]
