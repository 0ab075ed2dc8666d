"""What a page holds that nobody asked for: only what its estimate puts below a second, and the map below five."""

import dataclasses
import time

import pytest

from mambascope.explanation import views
from mambascope.explanation.question import Question
from mambascope.explanation.subject import Subject
from mambascope.explanation.views import MAP_SECONDS, METHOD_SECONDS
from mambascope.methods.registry import METHODS
from models import stock_model
from show_results import result


@pytest.fixture
def views_of(monkeypatch):
    """Return what gives (methods, every position?) of every call for more results."""

    def found(first, seconds_capture):
        asked = []

        def answered(_, methods, question, **__):
            asked.append(([one.name for one in methods], question.positions == "all"))
            return [dataclasses.replace(result(), method=one.name) for one in methods]

        monkeypatch.setattr(views, "answer", answered)
        monkeypatch.setattr(views, "viewable", lambda *_: list(METHODS.values()))
        first = dataclasses.replace(first, diagnostics={**first.diagnostics, "seconds_capture": seconds_capture})
        question = Question(positions=None if len(first.axes["target"]) == 1 else "all")
        subject = Subject(stock_model("mamba"), None, {})
        results = views.with_views(subject, first, question, started=time.perf_counter())
        assert results[0].method == first.method
        assert results[0].diagnostics["seconds_in_all"] >= 0
        return asked

    return found


def test_a_quick_model_gets_the_map_and_every_method_that_is_no_variant(views_of):
    (names, every), *others = views_of(result(single=True, method="mamba-lrp"), 1e-4)
    assert (names, every) == (["latim"], True)
    offered = {name for names, every in others for name in names if not every}
    assert offered == {one.name for one in METHODS.values() if one.offered} - {"mamba-lrp", "latim"}


def test_methods_that_explain_a_number_are_asked_together_and_apart_from_the_others(views_of):
    _, numbers, positions = views_of(result(single=True, method="mamba-lrp"), 1e-4)
    assert all(METHODS[name].asks for name in numbers[0])
    assert not any(METHODS[name].asks for name in positions[0])


@pytest.mark.parametrize("seconds_capture", [0.02, 0.1, 0.3])
def test_what_is_added_stays_within_its_second(views_of, seconds_capture):
    asked = views_of(result(single=True, method="mamba-lrp"), seconds_capture)
    tokens = len(result().tokens)
    methods = [METHODS[name] for names, every in asked if not every for name in names]
    assert methods
    assert sum(one.passes + one.growth * tokens for one in methods) * seconds_capture < METHOD_SECONDS


def test_a_slow_model_gets_nothing_that_was_not_asked_for(views_of):
    assert views_of(result(single=True, method="mamba-lrp"), MAP_SECONDS) == []


def test_a_result_of_every_position_gets_other_maps_and_no_second_one(views_of):
    asked = views_of(result(method="latim"), 1e-4)
    assert all(every for _, every in asked)
    names = {name for names, _ in asked for name in names}
    assert names
    assert all(METHODS[name].map or METHODS[name].whole_map for name in names)
