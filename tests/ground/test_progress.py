"""The bar: late, in a terminal, gone at the end, and never where nobody looks."""

import threading
import time

import pytest

import mambascope
from mambascope import progress
from small_checkpoint import make_checkpoint


class Bar:
    """Notes what it is told."""

    def __init__(self):
        self.shown, self.cleared = [], 0

    def show(self, label, done, total):
        self.shown.append((label, done, total))

    def clear(self):
        self.cleared += 1


@pytest.fixture
def bars(monkeypatch):
    made = []
    monkeypatch.setattr(progress, "PATIENCE", 0.05)
    monkeypatch.setattr(progress, "_make_bar", lambda: made.append(Bar()) or made[-1])
    return made


def wait_for(condition):
    """Wait for another thread; a minute is far beyond what the slowest machine needs to start it."""
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_one_long_step_has_a_bar_without_a_word_from_it(bars):
    with progress.LateProgress("explaining") as told:
        wait_for(lambda: bars and bars[0].shown)
        told(3, 7)
    assert bars[0].shown == [("explaining", 0, 0), ("explaining", 3, 7)]
    assert bars[0].cleared == 1


def test_what_ends_in_time_has_none(bars, monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE", 60.0)
    with progress.LateProgress("explaining") as told:
        told(1, 1)
    assert not bars
    wait_for(lambda: not any(isinstance(one, threading.Timer) for one in threading.enumerate()))


def test_where_no_one_looks_there_is_none(capsys):
    assert progress._make_bar() is None


def test_false_silences_a_function_hears_and_nothing_means_a_bar(bars, tmp_path):
    model, tokenizer = mambascope.load(make_checkpoint(tmp_path))
    heard = []
    given = {"method": "latim", "progress": lambda done, total: heard.append((done, total))}
    mambascope.explain(model, tokenizer, "the cat", **given)
    layers = len(model.backbone.layers)
    assert heard == [(done, 2 * layers) for done in range(1, 2 * layers + 1)]
    with progress.told(False, "x") as steps:
        assert steps is None
    with progress.told(None, "x") as steps:
        assert isinstance(steps, progress.LateProgress)
