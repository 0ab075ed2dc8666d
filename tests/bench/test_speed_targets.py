"""The command that measures the speed that is aimed at: it runs, and says of each aim whether it is met."""

import contextlib
import dataclasses
import types

import pytest

from benchmarks import speed_targets
from benchmarks.speed_targets import TARGETS, at_least, at_most
from mambascope.bench import measuring, settings


class Here:
    """What stands for processes of their own, in this one."""

    @staticmethod
    def get_context(_):
        return Here

    @staticmethod
    @contextlib.contextmanager
    def Pool(_):
        yield types.SimpleNamespace(apply=lambda call, arguments: call(*arguments))


def test_an_aim_is_met_at_its_bound_and_missed_beyond_it():
    assert at_most("map", 4, 2.0, 0.5, "times the floor").met
    assert not at_most("map", 4, 2.1, 0.5, "times the floor").met
    assert at_least("map", 20, 0.1, 2.0).met
    assert not at_least("map", 20, 0.11, 2.0).met
    assert at_least("map", 20, 0.1, 2.0).found == "20.0 times faster (0.1 s and 2 s)"


@pytest.fixture
def small_settings(monkeypatch):
    """Settings of little work in place of those of the released sizes."""

    def small(shape, length, device):
        shape = dataclasses.replace(shape, layers=min(shape.layers, 2), width=32, vocabulary=50)
        return settings.setting(shape, min(length, 24), device)

    monkeypatch.setattr(speed_targets, "setting", small)
    monkeypatch.setattr(speed_targets, "multiprocessing", Here)
    monkeypatch.setattr(speed_targets, "REPEATS", 1)
    monkeypatch.setitem(measuring.PRODUCT, "cpu", 64)


@pytest.mark.parametrize("name", TARGETS)
def test_every_aim_is_measured(name, small_settings, monkeypatch):
    monkeypatch.setattr(speed_targets, "multiplies", lambda *_: True)
    found = list(TARGETS[name]())
    assert found
    for one in found:
        assert one.what
        assert any(figure.isdigit() for figure in one.found)
        assert isinstance(one.met, bool)


def test_without_products_in_bfloat16_their_aim_is_open(small_settings, monkeypatch):
    monkeypatch.setattr(speed_targets, "multiplies", lambda *_: False)
    assert [one.met for one in TARGETS["contributions"]() if "bfloat16" in one.what] == [None, None]


def test_the_page_has_a_line_for_every_aim(tmp_path, monkeypatch, capsys):
    one = at_most("Capture", 0.55, 1.0, 2.0, "of the stock pass")
    monkeypatch.setattr(speed_targets, "TARGETS", {"capture": lambda: iter([one])})
    monkeypatch.setattr("sys.argv", ["speed_targets", "--page", str(tmp_path / "page.md")])
    speed_targets.main()
    written = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "| Capture | at most 0.55 of the stock pass | 0.50 (1 s and 2 s) | met |" in written
    assert capsys.readouterr().out.startswith("met")
