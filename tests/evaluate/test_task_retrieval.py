"""Retrieval and frequent words: what is asked for stands where the gold says, and haystacks may be the user's own."""

import itertools
import tarfile
from collections import Counter

import pytest
import torch

import mambascope
from mambascope.errors import InputError
from mambascope.evaluate.data import haystacks
from mambascope.evaluate.data.haystacks import hidden
from mambascope.evaluate.score_rows import ScoredRows
from mambascope.evaluate.task import Sample
from mambascope.evaluate.tasks import find_task
from mambascope.evaluate.tasks import frequent_words as frequent_words_module
from mambascope.evaluate.tasks import retrieval as retrieval_module
from mambascope.evaluate.tasks.frequent_words import FrequentWords
from mambascope.evaluate.tasks.retrieval import DIGITS, Retrieval

HAY = "It was late. He went home and slept. " * 60


@pytest.fixture(scope="module")
def loaded():
    return mambascope.load("tiny-mamba2")


@pytest.fixture
def own_texts(tmp_path):
    (tmp_path / "long.txt").write_text(HAY * 10, encoding="utf-8")
    (tmp_path / "short.txt").write_text("Too short.", encoding="utf-8")
    return tmp_path


def needle_sample(count=3, asked=1, length=160):
    secrets = [["doctor", "01234"], ["table", "56789"], ["woman", "02468"]][:count]
    data = {"hay": HAY, "length": length, "secrets": secrets, "asked": asked, "places": [0.1, 0.5, 0.9][:count]}
    return Sample("160-3-0", data)


def told_sample(told=("table", "child", "table", "table", "child"), length=128):
    words = [word for word, _ in Counter(told).most_common()]
    data = {"hay": HAY, "length": length, "words": words, "told": list(told), "places": [0.0, 0.2, 0.2, 0.5, 0.9]}
    return Sample("128-2-0", data)


def test_sentences_are_hidden_at_their_places_in_order_of_these(loaded):
    _, tokenizer = loaded
    hay = tokenizer(HAY, add_special_tokens=False)["input_ids"][:40]
    sentences = [[7, 7], [8, 8, 8], [9]]
    ids, begins = hidden(tokenizer, HAY, 40, sentences, [0.99, 0.0, 0.5])
    assert [ids[begin] for begin in begins] == [7, 8, 9]
    assert begins[1] == 0
    assert begins[1] < begins[2] < begins[0]
    assert [token for token in ids if token not in (7, 8, 9)] == hay
    assert tokenizer.decode(ids[begins[2] - 1]) == "."


def test_sentences_stand_apart_if_there_is_text_enough(loaded):
    _, tokenizer = loaded
    sentences = [[number] for number in range(7, 12)]
    ids, begins = hidden(tokenizer, HAY, 60, sentences, [0.5, 0.51, 0.52, 0.53, 0.54])
    assert begins == sorted(begins)
    for before, after in itertools.pairwise(begins):
        assert tokenizer.decode(ids[before + 1 : after]).strip() in ("It was late.", "He went home and slept.")
    endless = tokenizer("No end of it " * 20, add_special_tokens=False)["input_ids"]
    ids, begins = hidden(tokenizer, "No end of it " * 20, 60, sentences, [0.5, 0.1, 0.2, 0.3, 0.4])
    assert [token for token in ids if token not in range(7, 12)] == endless[:60]
    assert begins[1] < begins[2] < begins[3] < begins[4] < begins[0]
    assert 5 < begins[1] < 9
    ids, begins = hidden(tokenizer, "", 60, sentences, [0.5, 0.1, 0.2, 0.3, 0.4])
    assert ids == [8, 9, 10, 11, 7]
    assert begins == [4, 0, 1, 2, 3]


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
    question = asked[0] - len(loaded[1](" The secret of the table is ", add_special_tokens=False)["input_ids"])

    def oracle(model, inputs, methods, readouts, trace):
        targets = [readout.positions[0] for readout in readouts]
        assert targets == [place - 1 for place in asked], "each digit is predicted by the position before it"
        assert [readout.terms[0].entry for readout in readouts] == [ids[place] for place in asked]
        rows = torch.zeros(DIGITS, len(ids))
        rows[:, span] = -1.0  # sizes count
        rows[:, question:] = 50.0  # the question itself is no candidate
        yield ScoredRows("latim", -1, rows)
        rows = rows.clone()
        rows[:, question - 1] = -5.0  # what stands right before it is one
        yield ScoredRows("latim", 3, rows)

    monkeypatch.setattr(retrieval_module, "score_rows", oracle)
    rows = Retrieval().evaluate(loaded, sample, ["latim"], 0)
    found = {(row.metric, row.layer): row.value for row in rows}
    assert found["span_mass", -1] == pytest.approx(1)
    assert found["span_mass", 3] == pytest.approx(DIGITS / (DIGITS + 5))
    assert (found["span_rank", -1], found["span_rank", 3]) == (1, 2)
    assert 0 <= found["accuracy", -1] <= 1
    about = {"length": 160, "needles": 3, "distance": question - 1 - span[-1]}
    assert all(row.extra == about for row in rows)


def test_the_needle_that_is_asked_for_moves_evenly_through_the_texts(own_texts, loaded):
    task = Retrieval(lengths=(256,), needles=(3,), each=8, source=str(own_texts))
    samples = task.samples(None)
    assert [sample.id for sample in samples] == [f"256-3-{number}" for number in range(8)]
    places = sorted(sample.data["places"][sample.data["asked"]] for sample in samples)
    assert [int(4 * place) for place in places] == [0, 0, 1, 1, 2, 2, 3, 3], "two in each quarter"
    first = [sample.data["places"][sample.data["asked"]] for sample in samples[:4]]
    assert max(first) - min(first) > 0.5, "a limit leaves near and far ones"
    distances = []
    for sample in samples:
        ids, span, asked = task.text(loaded[1], sample)
        assert len(ids) == 256
        distances.append(asked[0] - span[-1])
    assert max(distances) > 170
    assert min(distances) < 60
    assert all(HAY[:20] in sample.data["hay"] for sample in samples)
    assert task.data_hash() != Retrieval(lengths=(256,), needles=(3,), each=7, source=str(own_texts)).data_hash()


def test_the_most_frequent_word_is_never_the_last_one_told(own_texts):
    samples = FrequentWords(each=6, source=str(own_texts)).samples(None)
    assert len(samples) == 36
    for sample in samples:
        counts = Counter(sample.data["told"])
        assert sorted(counts.values(), reverse=True) == {2: [8, 4], 4: [6, 3, 2, 1]}[int(sample.id.split("-")[1])]
        assert [word for word, _ in counts.most_common()] == sample.data["words"]
        assert sample.data["told"][-1] != sample.data["words"][0]
        assert sample.data["places"] == sorted(sample.data["places"])


@pytest.mark.parametrize("likes", ["table", "child", None])
def test_the_span_is_every_telling_of_the_models_own_answer(loaded, monkeypatch, likes):
    model, tokenizer = loaded
    sample, task = told_sample(), FrequentWords()
    ids, told = task.text(tokenizer, sample)
    assert len(ids) == 128
    assert tokenizer.decode(ids).count("The word is") == 6
    assert tokenizer.decode(ids).endswith("The word is")
    assert [tokenizer.decode([ids[place]]).strip() for place in told] == sample.data["told"]
    liked = tokenizer(" house" if likes is None else f" {likes}", add_special_tokens=False)["input_ids"][0]

    def wishful(outputs):
        logits = torch.zeros(1, len(ids), model.config.vocab_size)
        logits[..., tokenizer(" child", add_special_tokens=False)["input_ids"][0]] = 1.0
        logits[..., liked] = 2.0
        return logits

    answer = likes or "child"  # the likeliest of the told words, though another token is likelier yet

    def oracle(model, inputs, methods, readouts, trace):
        targets = [readout.positions[0] for readout in readouts]
        assert targets == [len(ids) - 1]
        assert tokenizer.decode([readouts[0].terms[0].entry]).strip() == answer
        rows = torch.zeros(1, len(ids))
        rows[0, [place for place, word in zip(told, sample.data["told"], strict=True) if word == answer]] = -2.0
        rows[0, -3:] = 50.0  # the cue is no candidate
        yield ScoredRows("latim", -1, rows)

    monkeypatch.setattr(frequent_words_module, "logits_of", wishful)
    monkeypatch.setattr(frequent_words_module, "score_rows", oracle)
    rows = task.evaluate(loaded, sample, ["latim"], 0)
    found = {row.metric: row.value for row in rows}
    assert found == {"accuracy": float(likes == "table"), "span_mass": pytest.approx(1), "span_rank": 1}
    assert all(row.extra == {"length": 128, "words": 2, "answer": answer} for row in rows)


def test_haystacks_of_ones_own_are_refused_with_a_reason(tmp_path, own_texts):
    for name in ("retrieval", "passkey", "frequent-words"):
        task = find_task(name, str(own_texts))
        assert task.samples(3) == task.samples(None)[:3]
        assert len(find_task(name, str(own_texts / "long.txt")).samples(1)) == 1
    with pytest.raises(InputError, match=r"short\.txt holds texts of at most 10 characters"):
        Retrieval(source=str(own_texts / "short.txt")).samples(1)
    with pytest.raises(InputError, match="does not exist"):
        Retrieval(source=str(tmp_path / "absent")).samples(1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no \.txt files"):
        Retrieval(source=str(tmp_path / "empty")).samples(1)
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1") * 9000)
    with pytest.raises(InputError, match=r"latin\.txt could not be read"):
        Retrieval(source=str(tmp_path / "latin.txt")).samples(1)


def test_archives_of_novels_that_cannot_be_read_are_refused(tmp_path):
    (tmp_path / "novels.tar.xz").write_bytes(b"not an archive")
    with pytest.raises(InputError, match="could not be read"):
        haystacks.held_out_novels(tmp_path / "novels.tar.xz")
    with tarfile.open(tmp_path / "empty.tar.xz", "w:xz"):
        pass
    with pytest.raises(InputError, match="holds no novel Bennet_Babylon_1902"):
        haystacks.held_out_novels(tmp_path / "empty.tar.xz")


def test_a_tokenizer_without_the_words_or_digits_is_refused(loaded, monkeypatch):
    model, tokenizer = loaded
    with pytest.raises(InputError, match="needs a model with a tokenizer"):
        Retrieval().check((model, None), ["latim"])
    with pytest.raises(InputError, match="needs a model with a tokenizer"):
        FrequentWords().check((model, None), ["latim"])
    FrequentWords().check(loaded, ["latim"])
    monkeypatch.setattr(frequent_words_module, "KEYS", ("hippopotamus",))
    with pytest.raises(InputError, match="'hippopotamus' must be one token"):
        FrequentWords().check(loaded, ["latim"])

    class Numberless:
        unk_token_id = 3

        def convert_tokens_to_ids(self, token):
            return 3 if token == "7" else 5

    with pytest.raises(InputError, match="no token for the digit 7"):
        Retrieval().check((model, Numberless()), ["latim"])


@pytest.mark.data
def test_samples_are_of_the_held_out_novels_and_the_same_in_every_run(data, monkeypatch):
    monkeypatch.setenv("MAMBASCOPE_DATA", str(data))
    needles, words = Retrieval().samples(None), FrequentWords().samples(None)
    assert needles == Retrieval().samples(None)
    assert words == FrequentWords().samples(None)
    assert (len(needles), len(find_task("passkey").samples(None)), len(words)) == (90, 60, 90)
    kinds = itertools.product((128, 256, 512), (1, 2, 4))
    assert [sample.id for sample in needles[:9]] == [f"{length}-{count}-0" for length, count in kinds]
    texts = haystacks.held_out_novels(data / "lm_novels" / "novels.tar.xz").values()
    assert all(any(sample.data["hay"] in text for text in texts) for sample in (*needles[:9], *words[:6]))
