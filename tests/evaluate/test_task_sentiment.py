"""Sentiment: curves are the model's own on texts really shortened, long texts are cut, and data may be the user's."""

import itertools
import json
import zipfile

import pytest
import torch

import mambascope
from mambascope.errors import InputError
from mambascope.evaluate import shortened_texts
from mambascope.evaluate.data import labelled_texts
from mambascope.evaluate.score_rows import ScoredRows
from mambascope.evaluate.shortened_texts import ShortenedTexts
from mambascope.evaluate.task import Sample
from mambascope.evaluate.tasks import find_task
from mambascope.evaluate.tasks import sentiment as sentiment_module
from mambascope.evaluate.tasks.sentiment import CUE, LABELS, Sentiment


@pytest.fixture(scope="module")
def loaded():
    return mambascope.load("tiny-mamba2")


@pytest.fixture(scope="module")
def labels(loaded):
    return [loaded[1](label, add_special_tokens=False)["input_ids"][0] for label in LABELS]


def lead(model, ids, labels):
    with torch.no_grad():
        logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
    return float(logits[labels[1]] - logits[labels[0]])


@pytest.mark.parametrize("reach", [None, 5])
def test_flipping_asks_the_model_about_texts_without_the_tokens(loaded, labels, monkeypatch, reach):
    """The curve's values are the stock model's leads on texts that were really shortened."""
    model, tokenizer = loaded
    sample = Sample("0", {"text": "a warm and funny film that bores nobody", "good": True})
    text = tokenizer(" " + sample.data["text"], add_special_tokens=False)["input_ids"]
    text = text[-reach:] if reach else text
    cue = tokenizer(CUE, add_special_tokens=False)["input_ids"]
    whole = lead(model, text + cue, labels)
    sign = 1 if whole > 0 else -1
    scores = torch.linspace(1, 0, len(text) + len(cue))  # first tokens first

    def oracle(model, inputs, methods, readouts, trace):
        targets = [readout.positions[0] for readout in readouts]
        assert inputs["input_ids"].tolist() == [text + cue]
        assert targets == [len(text) + len(cue) - 1]
        yield ScoredRows("latim", 0, -scores[None])  # layers are not judged
        yield ScoredRows("latim", -1, scores[None])

    monkeypatch.setattr(sentiment_module, "score_rows", oracle)
    rows = Sentiment(reach=reach).evaluate(loaded, sample, ["latim"], 0)
    found = {row.metric: row.value for row in rows}
    values = []
    for step in range(11):
        gone = int(step / 10 * len(text) + 0.5)
        values.append(sign * lead(model, text[gone:] + cue, labels))
    expected = sum((a + b) / 2 for a, b in itertools.pairwise(values)) / 10
    assert found["flipping_area_most_first"] == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert found["flipping_gap"] == pytest.approx(
        found["flipping_area_least_first"] - found["flipping_area_most_first"], abs=1e-6
    )
    assert found["accuracy"] == float(whole > 0)


def test_a_shortened_text_is_asked_once_whatever_stands_beside_it(loaded, labels, monkeypatch):
    model, tokenizer = loaded
    ids = torch.tensor(tokenizer("The film was long and dull and loud.", add_special_tokens=False)["input_ids"])
    asked = []

    def counting(model, inputs):
        asked.append(inputs["input_ids"].shape)
        return model(**inputs, use_cache=False)

    monkeypatch.setattr(shortened_texts, "call", counting)
    monkeypatch.setattr(shortened_texts, "BATCH_TOKENS", 2 * len(ids))
    texts = ShortenedTexts(model, ids, labels[1], labels[0])
    kept = torch.ones(5, len(ids), dtype=torch.bool)
    kept[1, 2:] = False
    kept[2, :3] = False
    kept[3, 1:-1] = False
    found = texts.lead(kept)
    expected = [lead(model, ids[row].tolist(), labels) for row in kept]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-4)
    assert sum(shape[0] for shape in asked) == 4, "rows 0 and 4 are one text"
    assert max(shape.numel() for shape in asked) <= 2 * len(ids)
    assert torch.equal(texts.lead(kept[[2, 0]]), found[[2, 0]])
    assert sum(shape[0] for shape in asked) == 4


def test_long_reviews_are_read_from_their_end():
    task = find_task("sentiment-long")
    assert (task.texts, task.reach) == ("reviews", 448)


def write_reviews(path, count=40):
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(count):
            for kind in ("pos", "neg"):
                archive.writestr(f"movie_reviews/{kind}/cv{number:03}_1.txt", f"a {kind}\nreview , number {number} .\n")
        archive.writestr("movie_reviews/README", "no review")


def test_whole_reviews_are_held_out_by_a_hash_of_their_text(tmp_path):
    write_reviews(tmp_path / "movie_reviews.zip")
    found = labelled_texts.test_reviews(tmp_path / "movie_reviews.zip")
    assert 2 <= len(found) <= 20
    assert all(text.startswith("a pos review , number" if good else "a neg review , number") for text, good in found)
    assert {good for _, good in found} == {True, False}


def test_archives_of_reviews_that_cannot_be_read_are_refused(tmp_path):
    for read in (labelled_texts.test_sentences, labelled_texts.test_reviews):
        with pytest.raises(InputError, match="could not be read"):
            read(tmp_path / "absent.zip")
    with zipfile.ZipFile(tmp_path / "half.zip", "w") as archive:
        archive.writestr("sentence_polarity/rt-polarity.neg", "dull .\n")
    with pytest.raises(InputError, match=r"could not be read: .*rt-polarity\.pos"):
        labelled_texts.test_sentences(tmp_path / "half.zip")
    with pytest.raises(InputError, match="holds no reviews"):
        labelled_texts.test_reviews(tmp_path / "half.zip")


def test_texts_of_ones_own_take_the_place_of_the_bundled_ones(tmp_path):
    path = tmp_path / "mine.jsonl"
    rows = [{"review": f"number  {k}", "label": k % 2} for k in range(5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for name in ("sentiment", "sentiment-long"):
        task = find_task(name, str(path))
        samples = task.samples(None)
        assert sorted((s.data["text"], s.data["good"]) for s in samples) == [
            (f"number {k}", k % 2 == 1) for k in range(5)
        ]
        assert task.samples(2) == samples[:2]
        assert task.data_hash() == find_task(name, str(path)).data_hash()


@pytest.mark.data
def test_samples_are_held_out_and_the_same_in_every_run(data, monkeypatch):
    monkeypatch.setenv("MAMBASCOPE_DATA", str(data))
    sentences, reviews = Sentiment().samples(None), find_task("sentiment-long").samples(None)
    assert (len(sentences), len(reviews)) == (1033, 198)
    assert 450 < sum(sample.data["good"] for sample in sentences) < 580
    assert 80 < sum(sample.data["good"] for sample in reviews) < 120
    assert sentences == Sentiment().samples(None)
    assert reviews == find_task("sentiment-long").samples(None)
