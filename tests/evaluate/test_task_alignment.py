"""Word alignment: gold files read to the letter or refused with line and reason; perfect scores give AER 0."""

import dataclasses
import pickle
import zipfile

import pytest
import torch

from mambascope.errors import InputError
from mambascope.evaluate.data.alignment_gold import read_hansards
from mambascope.evaluate.data.pharaoh_gold import BICICI, read_bicici, read_linked_pairs, read_pharaoh
from mambascope.evaluate.metrics.registry import listed_metrics
from mambascope.evaluate.score_rows import ScoredRows
from mambascope.evaluate.task import Sample
from mambascope.evaluate.tasks import alignment as alignment_module
from mambascope.evaluate.tasks import find_task
from mambascope.evaluate.tasks.alignment import Alignment, pieces
from models import stock_model

ENGLISH = "<s snum=0001> the house sleeps . </s>\n<s snum=0002> yes ! </s>\n"
FRENCH = "<s snum=0001> la maison dort . </s>\n<s snum=0002> oui ! </s>\n"
LINKS = "0-0 1-1 2-2-P 3-3\n0-0 1-1-P\n"


class Tokenizer:
    """Every word is its letters."""

    sep_token_id = 49

    def __call__(self, word, add_special_tokens, verbose):
        return {"input_ids": [1 + ord(letter) % 40 for letter in word]}


def write(folder, english=ENGLISH, french=FRENCH, links=LINKS):
    for suffix, content in ((".e", english), (".f", french), (".align", links)):
        (folder / f"gold{suffix}").write_text(content, encoding="utf-8")
    return folder / "gold"


def test_gold_files_are_read_french_first(tmp_path):
    first, second = read_hansards(write(tmp_path, links="0-1 1-1 2-2-P 3-3\n0-0 1-1-P\n"))
    assert (first.number, first.source, first.target) == (
        "0001",
        ("the", "house", "sleeps", "."),
        ("la", "maison", "dort", "."),
    )
    assert first.sure == {(0, 1), (1, 1), (3, 3)}
    assert first.possible == {(0, 1), (1, 1), (2, 2), (3, 3)}
    assert second.possible - second.sure == {(1, 1)}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"links": "0-0 1x1\n0-0\n"}, "gold.align line 1: '1x1' is not a link"),
        ({"links": "0-0\n0-2\n"}, "gold.align line 2: link 0-2 is outside sentences of 2 target and 2 source words"),
        ({"links": "0-0\n"}, "must have as many lines as each other, but have 2, 2 and 1"),
        ({"english": "<s snum=0001> a b c d </s>\nno marks\n"}, "gold.e line 2 is not a sentence"),
        ({"french": "<s snum=0001> a b c d </s>\n<s snum=0003> a b </s>\n"}, "gold.f line 2 is sentence 0003 where"),
        ({"french": "<s snum=0001>  </s>\n"}, "must have as many lines as each other|is not a sentence"),
    ],
)
def test_damaged_gold_is_refused_with_file_line_and_reason(tmp_path, damage, words):
    with pytest.raises(InputError, match=words) as caught:
        read_hansards(write(tmp_path, **damage))
    assert "\n" not in str(caught.value)


def test_an_absent_file_or_data_folder_is_said(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"gold\.e could not be read"):
        read_hansards(tmp_path / "gold")
    monkeypatch.delenv("MAMBASCOPE_DATA", raising=False)
    with pytest.raises(InputError, match="say where that is in MAMBASCOPE_DATA"):
        Alignment().samples(1)
    monkeypatch.setenv("MAMBASCOPE_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"holds no align_enfr_hansards/test/test\.align"):
        Alignment().samples(1)


def write_plain(folder, source="das haus schläft .\nja !\n", target="the house sleeps .\nyes !\n", links="0-0 3-3\n\n"):
    for suffix, content in ((".src", source), (".tgt", target), (".links", links)):
        (folder / f"own.v1{suffix}").write_bytes(content.encode())
    return folder / "own.v1"


def test_plain_gold_is_read_source_first(tmp_path):
    links = "0-1 1-2-P 2?3 0-3-P 3-0-S 1-2 \n\t\n"
    first, second = read_pharaoh(
        write_plain(tmp_path, source="\ufeffdas haus\u00a0x schläft\t.\r\nja !\r\n", links=links)
    )
    assert first.source == ("das", "haus\u00a0x", "schläft", ".")
    assert first.target == ("the", "house", "sleeps", ".")
    assert first.sure == {(1, 0), (0, 3), (2, 1)}, "what is sure once is sure"
    assert first.possible - first.sure == {(3, 2), (3, 0)}
    assert (second.number, second.possible, second.left_out) == ("2", frozenset(), ())


def test_a_possible_link_may_be_marked_by_a_letter(tmp_path):
    """As in the gold standards of SimAlign and awesome-align: `0-0 1p1`."""
    first, _ = read_pharaoh(write_plain(tmp_path, links="0-0 1p1 2p3\n\n"))
    assert first.sure == {(0, 0)}
    assert first.possible == {(0, 0), (1, 1), (3, 2)}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"links": "0-0 1q1\n\n"}, r"own\.v1\.links line 1: '1q1' is not a link '1-2', nor a possible one"),
        ({"links": "0-" + "9" * 5000 + "\n\n"}, r"own\.v1\.links line 1: '0-9+… is not a link"),
        ({"links": "0-0\n0~0\n"}, r"own\.v1\.links line 2: '0~0' is not a link"),
        ({"links": "0-0-Q\n\n"}, r"own\.v1\.links line 1: '0-0-Q' is not a link"),
        ({"links": "3-2 4-0\n\n"}, r"own\.v1\.links line 1: link 4-0 is outside sentences of 4 target and 4 source"),
        ({"links": "0-0\n0-2\n"}, r"own\.v1\.links line 2: link 0-2 is outside"),
        ({"links": "0-0\n"}, r"own\.v1\.src has 2, .*own\.v1\.tgt has 2, .*own\.v1\.links has 1"),
        ({"target": "the house sleeps .\n \n"}, r"own\.v1\.tgt line 2 is empty"),
        ({"source": "", "target": "", "links": ""}, r"own\.v1\.src holds no sentences"),
    ],
)
def test_damaged_plain_gold_is_refused_with_file_line_and_reason(tmp_path, damage, words):
    with pytest.raises(InputError, match=words) as caught:
        read_linked_pairs(write_plain(tmp_path, **damage))
    assert "\n" not in str(caught.value)


def test_a_task_reads_the_users_own_pairs_of_either_kind(tmp_path, monkeypatch):
    monkeypatch.delenv("MAMBASCOPE_DATA", raising=False)
    plain, hansards = str(write_plain(tmp_path)), str(write(tmp_path))
    task = dataclasses.replace(Alignment(), source=plain)
    assert [one.id for one in task.samples(None)] == ["1", "2"]
    assert task.samples(1)[0].data["source"] == ["das", "haus", "schläft", "."]
    other = find_task("alignment-de-en", hansards)
    assert other.samples(1)[0].data["source"] == ["the", "house", "sleeps", "."]
    assert task.data_hash() == pickle.loads(pickle.dumps(task)).data_hash() != other.data_hash()
    with pytest.raises(InputError, match=r"but neither \.links nor \.align exists"):
        dataclasses.replace(task, source=str(tmp_path / "absent")).samples(None)
    for suffix in (".e", ".f", ".align"):
        (tmp_path / f"gold{suffix}").rename(tmp_path / f"own.v1{suffix}")
    with pytest.raises(InputError, match="but both kinds exist"):
        task.samples(None)


def write_zip(path, links="0-0 1-1\n0-0\n", english="yes !\nno\n"):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in zip(BICICI, ("\ufeffja !\nnein\n", english, links), strict=True):
            archive.writestr(name, content)
    return path


def test_only_the_link_that_is_known_to_be_damaged_is_dropped(tmp_path):
    path = write_zip(tmp_path / "gold.zip", "0-0 1-2\n0-0\n")
    with pytest.raises(
        InputError, match=r"gold\.zip/German-English_WordAlignment/de-en\.wa line 1: link 1-2 is outside"
    ):
        read_bicici(path)
    with pytest.raises(InputError, match="link 1-2 is outside"):
        read_bicici(path, {2: frozenset({"1-2"})})
    first, second = read_bicici(path, {1: frozenset({"1-2", "0-0"})})
    assert first.source == ("ja", "!"), "without the byte-order mark"
    assert (first.sure, first.left_out) == (frozenset({(0, 0)}), ("1-2",)), (
        "a link that is there is kept, listed or not"
    )
    assert (second.sure, second.left_out) == (frozenset({(0, 0)}), ())


def test_a_zip_that_is_none_or_lacks_a_file_is_refused(tmp_path):
    (tmp_path / "none.zip").write_text("no zip")
    with zipfile.ZipFile(tmp_path / "part.zip", "w") as archive:
        archive.writestr(BICICI[0], "ja")
    for name in ("none", "part", "absent"):
        with pytest.raises(InputError, match=rf"{name}\.zip could not be read: .*\w") as caught:
            read_bicici(tmp_path / f"{name}.zip")
        assert "\n" not in str(caught.value)


def sample(tmp_path):
    pair = read_hansards(write(tmp_path))[0]
    return Sample(
        pair.number,
        {"source": list(pair.source), "target": list(pair.target), "sure": sorted(map(list, pair.sure)),
         "possible": sorted(map(list, pair.possible))},
    )  # fmt: skip


def test_rows_that_follow_the_gold_give_an_error_rate_of_zero(tmp_path, monkeypatch):
    """Pieces of a word point at the pieces of its gold word; the places asked about are those of either reading."""
    seen = []

    def oracle(model, inputs, methods, readouts, trace):
        if not methods:
            return
        places = [readout.positions[0] for readout in readouts]
        ids = inputs["input_ids"][0].tolist()
        separator = ids.index(49)
        words = [k for k, word in enumerate(["la", "maison", "dort", "."]) for _ in word]
        seen.extend(place - separator for place in places[:: len(words)])
        words, entries = 2 * words, 2 * ids[separator + 1 :]  # one reading after the other
        sources = [k for k, word in enumerate(["the", "house", "sleeps", "."]) for _ in word]
        rows = torch.zeros(len(places), len(ids))
        for row, (word, readout) in enumerate(zip(words, readouts, strict=True)):
            assert readout.terms[0].entry == entries[row], "the token asked about is the target's"
            rows[row, : len(sources)] = torch.tensor([float(source == word) for source in sources])
        yield ScoredRows("latim", -1, rows)

    monkeypatch.setattr(alignment_module, "score_rows", oracle)
    found = Alignment().evaluate((stock_model("mamba"), Tokenizer()), sample(tmp_path), ["latim"], 0)
    assert seen == [0, 1], "predicted after the separator, standing one further"
    counts = {row.metric: row.value for row in found}
    for variant in ("predicts-target", "stands-target", "predicts-intersection"):
        assert counts[f"aer_links:{variant}"] == counts[f"aer_intersection_possible:{variant}"] == 4
        assert counts[f"aer_sure:{variant}"] == counts[f"aer_intersection_sure:{variant}"] == 3


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
def test_every_method_is_judged_and_logits_only_where_they_are_predicted(tmp_path, family):
    methods = ["latim", "rollout", "mamba-lrp"]
    found = Alignment().evaluate((stock_model(family), Tokenizer()), sample(tmp_path), methods, 0)
    names = {count for metric in listed_metrics(Alignment().metrics).values() for count in metric.counts}
    assert len(names) == 16
    assert {row.metric for row in found} == names
    assert all("predicts" in row.metric for row in found if row.method == "mamba-lrp")
    assert {row.layer for row in found if row.method == "latim"} == {-1, 0, 1}
    assert all(row.value == 3 for row in found if row.metric.startswith("aer_sure"))


def test_words_that_make_no_token_are_refused():
    class Nothing:
        def __call__(self, word, add_special_tokens, verbose):
            return {"input_ids": []}

    with pytest.raises(InputError, match="has no token for the word 'a'"):
        pieces(Nothing(), ["a"])

    class Other:
        """One that cannot read words it does not know."""

        def __call__(self, word, add_special_tokens, verbose):
            raise Exception("Missing [UNK] token")

    with pytest.raises(InputError, match=r"this model's tokenizer cannot read 'a' \(Missing \[UNK\] token\)"):
        pieces(Other(), ["a"])
    with pytest.raises(InputError, match="read `source <sep> target`"):
        Alignment().check((stock_model("mamba"), None), ["latim"])


@pytest.mark.data
def test_the_hansards_are_complete(data, monkeypatch):
    monkeypatch.setenv("MAMBASCOPE_DATA", str(data))
    test, dev = Alignment().samples(None), Alignment(gold="hansards-dev").samples(None)
    assert (len(test), len(dev)) == (447, 37)
    assert sum(len(one.data["sure"]) for one in test) == 4038
    assert sum(len(one.data["possible"]) for one in test) == 4038 + 13400


@pytest.mark.data
def test_the_german_english_gold_is_complete_but_for_one_link(data, monkeypatch):
    monkeypatch.setenv("MAMBASCOPE_DATA", str(data))
    samples = find_task("alignment-de-en").samples(None)
    assert (samples[0].data["source"][:2], samples[0].data["target"][:2]) == (
        ["herr", "präsident"],
        ["mr", "president"],
    )
    assert len(samples) == 100
    assert sum(len(one.data["sure"]) for one in samples) == 1232
    assert all(one.data["sure"] == one.data["possible"] for one in samples)
    assert {one.id: one.data["left_out"] for one in samples if "left_out" in one.data} == {"63": ["12-16"]}
    path = data / "align_deen_bicici" / "German-English_WordAlignment.zip"
    with pytest.raises(
        InputError, match=r"de-en\.wa line 63: link 12-16 is outside sentences of 13 target and 13 source"
    ):
        read_bicici(path, {})
