"""Texts whose answers come from one token, models that learn them, and the page of which method names that token."""

import numpy as np
import pytest
import torch

from benchmarks import trained_seeds
from mambascope.evaluate.score_rows import ScoredRows
from mambascope.evaluate.tasks import constructed
from training.known_sources import ARCHITECTURES, LONG, TASKS, Recall, accuracy, build, train
from training.running.loop import masked_loss
from training.running.scans import fast_scans


@pytest.mark.parametrize("questions", [1, 5])
def test_an_answer_of_induction_followed_its_question_before_and_stands_nowhere_else(questions):
    texts = TASKS["induction"].texts(np.random.default_rng(0), 50, LONG, questions)
    for row, sources, guides in zip(texts.rows.tolist(), texts.sources.tolist(), texts.guides.tolist(), strict=True):
        body, pairs = row[:LONG], row[LONG:]
        assert len(set(body)) == LONG
        for k, (source, guide) in enumerate(zip(sources, guides, strict=True)):
            asked, answer = pairs[2 * k : 2 * k + 2]
            assert (body[guide], body[source], source) == (asked, answer, guide + 1)
            assert asked not in pairs[: 2 * k], "what was said of it since would be a source too"
            assert answer not in pairs[: 2 * k]
    asked = {int(place) for place in texts.guides.ravel()}
    assert asked == set(range(LONG - 2)), "places next to each other are not both asked, so the last is not"


@pytest.mark.parametrize("questions", [1, 5])
def test_an_answer_of_recall_is_the_value_of_the_key_that_was_assigned_once(questions):
    task = Recall()
    texts = task.texts(np.random.default_rng(0), 50, LONG, questions)
    first_question, first_value = task.keys * task.values, task.keys * task.values + task.keys
    for row, sources in zip(texts.rows.tolist(), texts.sources.tolist(), strict=True):
        body, pairs = row[:LONG], row[LONG:]
        keys = [token // task.values for token in body if token < first_question]
        assert len(set(keys)) == len(keys) > 1, "distractors are other keys"
        for k, source in enumerate(sources):
            asked, answer = pairs[2 * k : 2 * k + 2]
            assert body[source] == (asked - first_question) * task.values + answer - first_value
    assert (texts.rows < task.vocabulary).all()
    assert (texts.guides == -1).all()


def test_answers_alone_are_learnt():
    texts = TASKS["induction"].texts(np.random.default_rng(0), 3, 7, 2)
    rows, learnt = texts.batch
    assert rows[:, 1:][learnt].reshape(3, 2).tolist() == [[row[8], row[10]] for row in texts.rows.tolist()]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_seed_gives_the_same_stock_model_with_gradients_everywhere(architecture):
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(build(architecture, 24))
    assert type(models[0]).__module__.startswith("transformers.models.")
    pairs = zip(models[0].state_dict().values(), models[1].state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    with fast_scans():
        masked_loss(models[0], TASKS["induction"].texts(np.random.default_rng(0), 4, LONG, 3).batch).backward()
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in models[0].parameters())
    with pytest.raises(ValueError, match="which is none of mamba, "):
        build("lstm", 24)


def test_training_ends_where_nearly_all_is_right():
    task = Recall(keys=3, values=3)
    found = train(task, "softmax", 0, most=600)
    assert found.accuracy >= 0.99, f"{found.steps} steps"
    assert found.steps < 600
    assert accuracy(found.model, task, (5, 5), 300) > 0.97
    assert train(task, "softmax", 0, most=1).accuracy < 0.6


def _one(architecture, seed, right, places):
    rows = [("latim", "span_rank", float(1 + place)) for place in places]
    rows += [("latim", "recall_at_k", float(place == 0)) for place in places]
    rows += [("latim", "span_mass", 0.25) for _ in places]
    return {
        "task": "recall",
        "architecture": architecture,
        "seed": seed,
        "accuracy": right,
        "steps": 100 * (seed + 1),
        "rows": rows,
    }


def test_the_page_has_means_and_ranges_over_seeds_and_names_who_did_not_learn():
    page = trained_seeds.written(
        [_one("mamba", 0, 1.0, (0, 0)), _one("mamba", 1, 0.995, (0, 2)), _one("mamba", 2, 0.5, ())], 3, 2
    )
    assert "| latim | 0.75 | 0.75 (0.50–1.00) 25 % |" in page
    assert "| latim | 0.75 | 0.75 (0.50–1.00) |" in page
    assert "Left out, as they did not get to 99 %: recall, mamba, seed 2 (50.0 %)." in page
    assert "| recall, mamba | 50.0 % to 100.0 % | 100 to 300 |" in page


def test_a_score_on_the_source_is_judged_first_and_one_on_a_distractor_last(monkeypatch):
    task, model = TASKS["induction"], build("softmax", 24).eval().requires_grad_(False)
    ids, case = trained_seeds.cases(task, 1)[0]
    (source,) = case.signs
    assert ids[source] == ids[-1]
    assert ids[source - 1] == ids[-2]
    assert case.guides == {source - 1, LONG}
    for place, due in ((source, 1.0), ((source + 3) % LONG, 0.0)):
        scores = torch.zeros(1, len(ids) - 1)
        scores[0, place], scores[0, LONG] = 1, 5
        made = ScoredRows("latim", -1, scores)
        monkeypatch.setattr(constructed, "score_rows", lambda *_, made=made: [made])
        rows = {row.metric: row.value for row in constructed.judge(model, ids[:-1], ids[-1], case, ["latim"])}
        assert rows["recall_at_k"] == due
        assert rows["span_rank"] > 1, "the question has the highest score"
