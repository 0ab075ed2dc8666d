"""Retrieval and sentiment: needles stand where the gold says, curves are the model's own, damage is refused."""

import itertools
import tarfile
import zipfile

import pytest
import torch

import mambascope
from mambascope.errors import InputError
from mambascope.evaluate.data import novels
from mambascope.evaluate.data.film_reviews import test_sentences as held_out_sentences
from mambascope.evaluate.score_rows import ScoredRows
from mambascope.evaluate.task import Sample
from mambascope.evaluate.tasks import retrieval as retrieval_module
from mambascope.evaluate.tasks import sentiment as sentiment_module
from mambascope.evaluate.tasks.retrieval import DIGITS, Retrieval
from mambascope.evaluate.tasks.sentiment import CUE, LABELS, Sentiment

HAY = "It was late. He went home and slept. " * 60


@pytest.fixture(scope="module")
def loaded():
    return mambascope.load("tiny-mamba2")


def needle_sample(count=3, asked=1, length=160):
    secrets = [["doctor", "01234"], ["table", "56789"], ["woman", "02468"]][:count]
    data = {"hay": HAY, "length": length, "secrets": secrets, "asked": asked, "places": [0.1, 0.5, 0.9][:count]}
    return Sample("160-3-0", data)


def test_the_span_holds_the_digits_that_are_asked_for(loaded):
    _, tokenizer = loaded
    ids, span, asked = Retrieval().text(tokenizer, needle_sample())
    assert len(ids) == 160
    text = tokenizer.decode(ids)
    assert text.count("The secret of the table is") == 2
    assert text.count("The secret of the doctor is") == text.count("The secret of the woman is") == 1
    assert "".join(tokenizer.decode([ids[place]]) for place in span) == "56789"
    assert [ids[place] for place in span] == [ids[place] for place in asked]
    assert asked[-1] == len(ids) - 2, "the digits asked for end the text, before its stop"
    assert span[-1] < asked[0]


def test_a_score_that_lies_on_the_span_has_all_the_mass(loaded, monkeypatch):
    sample = needle_sample()
    ids, span, asked = Retrieval().text(loaded[1], sample)
    prefix = loaded[1](" The secret of the table is", add_special_tokens=False)["input_ids"]

    def oracle(model, inputs, methods, targets, readouts, trace):
        assert targets == [place - 1 for place in asked], "each digit is predicted by the position before it"
        assert [readout.terms[0].entry for readout in readouts] == [ids[place] for place in asked]
        rows = torch.zeros(DIGITS, len(ids))
        rows[:, span] = -1.0  # sizes count
        rows[:, asked[0] - len(prefix) :] = 50.0  # the question itself is no candidate
        yield ScoredRows("latim", -1, rows)

    monkeypatch.setattr(retrieval_module, "score_rows", oracle)
    found = {row.metric: row.value for row in Retrieval().evaluate(loaded, sample, ["latim"], 0)}
    assert found["span_mass"] == pytest.approx(1)
    assert found["span_rank"] == 1
    assert 0 <= found["accuracy"] <= 1


def test_flipping_asks_the_model_about_texts_without_the_tokens(loaded, monkeypatch):
    """The curve's values are the stock model's leads on texts that were really shortened."""
    model, tokenizer = loaded
    sample = Sample("0", {"text": "a warm and funny film that bores nobody", "good": True})
    text = tokenizer(" " + sample.data["text"], add_special_tokens=False)["input_ids"]
    cue = tokenizer(CUE, add_special_tokens=False)["input_ids"]
    labels = [tokenizer(label, add_special_tokens=False)["input_ids"][0] for label in LABELS]

    def lead(ids):
        with torch.no_grad():
            logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
        return float(logits[labels[1]] - logits[labels[0]])

    whole = lead(text + cue)
    sign = 1 if whole > 0 else -1
    scores = torch.linspace(1, 0, len(text) + len(cue))  # first tokens first

    def oracle(model, inputs, methods, targets, readouts, trace):
        assert targets == [len(text) + len(cue) - 1]
        yield ScoredRows("latim", -1, scores[None])

    monkeypatch.setattr(sentiment_module, "score_rows", oracle)
    found = {row.metric: row.value for row in Sentiment().evaluate(loaded, sample, ["latim"], 0)}
    values = []
    for step in range(11):
        gone = int(step / 10 * len(text) + 0.5)
        values.append(sign * lead(text[gone:] + cue))
    expected = sum((a + b) / 2 for a, b in itertools.pairwise(values)) / 10
    assert found["flipping_area_most_first"] == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert found["flipping_gap"] == pytest.approx(
        found["flipping_area_least_first"] - found["flipping_area_most_first"], abs=1e-6
    )
    assert found["accuracy"] == float(whole > 0)


def test_archives_that_cannot_be_read_are_refused(tmp_path):
    for path in (tmp_path / "absent.zip", tmp_path / "novels.tar.xz"):
        if path.suffix == ".xz":
            path.write_bytes(b"not an archive")
    with pytest.raises(InputError, match="could not be read"):
        held_out_sentences(tmp_path / "absent.zip")
    with pytest.raises(InputError, match="could not be read"):
        novels.held_out_novels(tmp_path / "novels.tar.xz")
    with zipfile.ZipFile(tmp_path / "half.zip", "w") as archive:
        archive.writestr("sentence_polarity/rt-polarity.neg", "dull .\n")
    with pytest.raises(InputError, match=r"could not be read: .*rt-polarity\.pos"):
        held_out_sentences(tmp_path / "half.zip")
    with tarfile.open(tmp_path / "empty.tar.xz", "w:xz"):
        pass
    with pytest.raises(InputError, match="holds no novel Bennet_Babylon_1902"):
        novels.held_out_novels(tmp_path / "empty.tar.xz")


@pytest.mark.data
def test_samples_are_held_out_and_the_same_in_every_run(data, monkeypatch):
    monkeypatch.setenv("MAMBASCOPE_DATA", str(data))
    reviews, needles = Sentiment().samples(None), Retrieval().samples(None)
    assert len(reviews) == 1033
    assert 450 < sum(sample.data["good"] for sample in reviews) < 580
    assert reviews == Sentiment().samples(None)
    assert needles == Retrieval().samples(None)
    assert len(needles) == 90
    assert {sample.id.rpartition("-")[0] for sample in needles[:9]} == {
        f"{length}-{count}" for length in (128, 256, 512) for count in (1, 2, 4)
    }
