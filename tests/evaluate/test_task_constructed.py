"""Constructed models as a task: a score that tells the truth is perfect, and one that does not is not."""

import dataclasses
import pickle

import pytest
import torch

from mambascope.errors import InputError, UnsupportedModelError
from mambascope.evaluate.metrics.registry import listed_metrics
from mambascope.evaluate.metrics.span_mass import sign_agreement
from mambascope.evaluate.run import run
from mambascope.evaluate.score_rows import ScoredRows
from mambascope.evaluate.tasks import constructed, find_task
from mambascope.evaluate.tasks.constructed import Constructed
from mambascope.loading.load import load as load_model
from mambascope.models.constructed import MECHANISMS, constructed_models, mechanism_of
from models import stock_model

TASK = Constructed(lengths=(6,), per_length=1)


def values_of(name, method, monkeypatch=None, scores=None, *, ranks=False):
    """Return the metrics of a method on the whole model, or those of scores made from the case."""
    sample = TASK.samples(None)[0]
    if scores is not None:
        case = TASK._case(mechanism_of(f"constructed:{name}").name, sample)
        made = ScoredRows(method, -1, scores(case)[None])
        monkeypatch.setattr(constructed, "score_rows", lambda *_: [made])
    rows = TASK.evaluate(load_model(f"constructed:{name}"), sample, [method], 0)
    return {row.metric: row.value for row in rows if row.layer == -1 and (ranks or row.metric != "span_rank")}


def truth(case):
    scores = torch.zeros(len(case.tokens))
    for place, sign in case.signs.items():
        scores[place] = sign
    return scores


def test_the_truth_is_perfect_and_its_opposite_is_not(monkeypatch):
    perfect = {"recall_at_k": 1.0, "span_mass": 1.0, "idle_mass": 0.0, "sign_agreement": 1.0}
    for name in ("copy-mamba", "difference-mamba2", "count-mamba", "induction-softmax"):
        assert values_of(name, "alti-logit", monkeypatch, truth) == perfect
        turned = values_of(name, "alti-logit", monkeypatch, lambda case: -truth(case))
        assert turned == perfect | {"sign_agreement": 0.0}
        wrong = values_of(name, "alti-logit", monkeypatch, lambda case: (truth(case) == 0).float())
        assert wrong["recall_at_k"] < 1
        assert wrong["span_mass"] == wrong["sign_agreement"] == 0
        assert wrong["idle_mass"] > 0


def test_what_guides_get_is_not_judged_but_takes_its_share(monkeypatch):
    def half(case):
        scores = truth(case)
        scores[case.target] = scores.abs().sum()
        return scores

    found = values_of("recall-mamba", "alti-logit", monkeypatch, half, ranks=True)
    shares = {"span_mass": 0.5, "idle_mass": 0.0}
    assert found == shares | {"recall_at_k": 1.0, "sign_agreement": 1.0, "span_rank": 2.0}


def test_a_method_that_gives_nothing_has_found_nothing(monkeypatch):
    found = values_of("first-mamba2", "alti-logit", monkeypatch, lambda case: truth(case) * 0)
    assert found["span_mass"] == found["idle_mass"] == found["sign_agreement"] == 0
    assert found["recall_at_k"] < 1


def test_methods_without_signs_have_none():
    found = values_of("recall-delta", "latim")
    assert found == {"recall_at_k": 1.0, "span_mass": pytest.approx(1.0), "idle_mass": pytest.approx(0.0)}


#: What follows from the methods' definitions, by mechanism: it is found, or it is not.
KNOWN = [
    ("copy-mamba", "hidden-attention", "span_mass", 0.0),  # the convolution carries it, which α does not hold
    ("copy-mamba", "implicit-attention", "span_mass", 1.0),
    ("copy-softmax", "hidden-attention", "span_mass", 1.0),
    ("overwrite-mamba", "hidden-attention", "span_mass", 1.0),
    ("gate-mamba", "latim", "span_mass", 1.0),
    ("overwrite-delta", "alti-logit", "span_mass", 1.0),
    ("relay-mamba", "latim", "span_mass", 0.0),  # the mean of layers sees single steps
    ("relay-softmax", "mamba-lrp", "span_mass", 1.0),
    ("recall-mamba", "mamba-lrp", "span_mass", 0.5),  # half goes to the gate, and so to the target
    ("difference-mamba", "alti-logit", "sign_agreement", 1.0),
    ("difference-mamba", "mamba-lrp", "sign_agreement", 1.0),
    ("difference-mamba2", "hidden-attention", "sign_agreement", 0.5),
    ("difference-mamba", "knockout", "sign_agreement", 1.0),
    ("count-mamba", "alti-logit", "recall_at_k", 1.0),
]


def test_attention_without_the_gate_cannot_tell_which_key_is_read():
    task = Constructed(lengths=(10,), per_length=3)
    for name in ("gate-mamba", "gate-mamba2"):
        model = load_model(f"constructed:{name}")
        found = [row for sample in task.samples(None) for row in task.evaluate(model, sample, ["hidden-attention"], 0)]
        assert all(row.value > 0.2 for row in found if row.metric == "idle_mass")


@pytest.mark.parametrize(("name", "method", "metric", "due"), KNOWN)
def test_methods_find_what_their_definitions_can_find(name, method, metric, due):
    # float32: shares of scores of size 1, beside which others are rounding
    assert values_of(name, method)[metric] == pytest.approx(due, abs=1e-5)


def test_every_mechanism_is_judged_layer_by_layer_too():
    for name in ("relay-mamba", "induction-mamba2", "sum-mamba"):
        rows = TASK.evaluate(load_model(f"constructed:{name}"), TASK.samples(None)[0], ["latim", "alti-logit"], 0)
        depth = len(mechanism_of(f"constructed:{name}").machine.layers)
        assert {row.layer for row in rows if row.method == "latim"} == {-1, *range(depth)}
        assert {row.metric for row in rows} == listed_metrics(TASK.metrics).keys()


def test_it_runs_on_all_models_and_leaves_out_what_cannot_read_one(tmp_path):
    models = [name for name in constructed_models() if name.startswith("constructed:recall")]
    assert TASK.default_models == tuple(constructed_models())
    table = run(TASK, models, ["latim", "norm-based"], tmp_path / "out").read().table.to_pylist()
    assert {row["model"] for row in table} == set(models)
    assert {row["model"] for row in table if row["method"] == "norm-based"} == {"constructed:recall-softmax"}


def test_texts_are_the_same_every_time_and_of_every_mechanism():
    task = find_task("constructed")
    assert [sample.id for sample in task.samples(4)] == ["6-0", "8-0", "10-0", "6-1"]
    for name in MECHANISMS:
        first, second = (task._case(name, task.samples(None)[7]) for _ in range(2))
        assert first == second
    small = dataclasses.replace(task, per_length=1)
    assert small.data_hash() == pickle.loads(pickle.dumps(small)).data_hash() != TASK.data_hash()


def test_other_models_and_methods_are_refused():
    with pytest.raises(InputError, match="there is no constructed model ''; they are named constructed:MECH"):
        TASK.check((stock_model("mamba"), None), ["latim"])
    with pytest.raises(InputError, match="unknown method 'latin'"):
        TASK.check(load_model("constructed:copy-mamba"), ["latin"])
    with pytest.raises(UnsupportedModelError, match="norm-based cannot read constructed:copy-mamba; these can: "):
        TASK.check(load_model("constructed:copy-mamba"), ["norm-based"])
    with pytest.raises(InputError, match="there is no constructed model 'constructed:copy'"):
        load_model("constructed:copy")


def test_signs_agree_where_there_is_one():
    signs = torch.tensor([[1, -1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
    scores = torch.tensor([[0.5, -2.0, 9.0, float("nan")], [0.0, -1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    found = sign_agreement(scores, signs)
    assert found[:2].tolist() == [1.0, 0.0]
    assert found[2].isnan()
