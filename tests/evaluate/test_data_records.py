"""Users' records: every kind of file says the same, and damage is told with file and line."""

import csv
import json
import sys
from types import ModuleType

import pytest

from mambascope.errors import InputError
from mambascope.evaluate.data.labelled_texts import labelled_texts
from mambascope.evaluate.data.records import records

TEXTS = [("a warm film , and funny", True), ('it \'s "dull"', False), ("no , no , no ; déjà vu", False)]


def write(path, kind):
    """Write TEXTS as a file of this kind."""
    lines = {
        ".jsonl": [json.dumps({"text": text, "label": int(good)}) for text, good in TEXTS],
        ".csv": ["label,sentence", *('{},"{}"'.format(int(good), text.replace('"', '""')) for text, good in TEXTS)],
        ".tsv": ["review\tlabel", *(f"{text}\t{int(good)}" for text, good in TEXTS)],
        ".test": [f"{int(good)} {text}" for text, good in TEXTS],
    }
    if kind == ".parquet":
        import pyarrow
        from pyarrow import parquet

        table = pyarrow.table({"text": [text for text, _ in TEXTS], "label": [good for _, good in TEXTS]})
        parquet.write_table(table, path)
    else:
        path.write_text("\n".join(lines[kind]) + "\n", encoding="utf-8")


@pytest.mark.parametrize("kind", [".jsonl", ".csv", ".tsv", ".parquet", ".test"])
def test_every_kind_of_file_says_the_same(tmp_path, kind):
    path = tmp_path / f"texts{kind}"
    write(path, kind)
    assert labelled_texts(str(path)) == TEXTS
    assert len(records(str(path))) == 3
    assert set(records(str(path))[1].values()) in ({TEXTS[1][0], 0}, {TEXTS[1][0], "0"})


def test_a_record_of_a_table_may_go_over_lines(tmp_path):
    path = tmp_path / "texts.csv"
    path.write_bytes(b'\xef\xbb\xbftext,label\r\n"two\r\nlines",1\r\n\r\nbad,7\r\n')
    assert records(str(path)) == [{"text": "two\r\nlines", "label": "1"}, {"text": "bad", "label": "7"}]
    with pytest.raises(InputError, match=r"texts\.csv line 5 must have the label 0 or 1, found '7'"):
        labelled_texts(str(path))
    path.write_bytes(b'text,label\nfine,1\n"two\nlines",8\n')
    with pytest.raises(InputError, match=r"texts\.csv line 3 must have the label 0 or 1, found '8'"):
        labelled_texts(str(path))


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_a_text_of_a_table_may_be_a_book(tmp_path, ending):
    before = csv.field_size_limit()
    path, book = tmp_path / f"books{ending}", "word " * 100_000
    path.write_text(f"text{',' if ending == '.csv' else chr(9)}label\n{book}{',' if ending == '.csv' else chr(9)}1\n")
    assert records(str(path)) == [{"text": book, "label": "1"}]
    assert csv.field_size_limit() == before


def test_no_damage_to_a_parquet_file_is_a_foreign_error(tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path, refused = tmp_path / "x.parquet", 0
    parquet.write_table(pa.table({"text": ["a", "b"], "label": [0, 1]}), path)
    content = path.read_bytes()
    for place in range(0, len(content), 5):
        path.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
        try:
            records(str(path))
        except InputError:
            refused += 1
    assert refused > len(content) / 20


def test_lines_of_mr_are_latin_1_and_not_parted_at_other_line_ends(tmp_path):
    path = tmp_path / "rt-polarity.all"
    path.write_bytes(b"1 caf\xe9 \x85 society .\n0 dull .\n")
    assert labelled_texts(str(path)) == [("café society .", True), ("dull .", False)]
    assert records(str(path))[0]["text"] == "café \x85 society ."


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "x", "label": 1}\n{"text"', r"a\.jsonl line 2 is not valid JSON"),
        ("a.jsonl", "[1]", r"a\.jsonl line 1 is not a JSON object"),
        ("a.jsonl", '\n{"label": 1}', r"a\.jsonl line 2 has none of the columns text, sentence, review: found label"),
        ("a.jsonl", '{"text": " ", "label": 1}', r"a\.jsonl line 1 has no text in its column text"),
        ("a.jsonl", '{"text": "x"}', r"a\.jsonl line 1 must have the label 0 or 1, found None"),
        ("a.csv", "text,label\nx,1,2\n", r"a\.csv line 2 has 3 fields where line 1 names 2"),
        ("a.csv", "text,text\nx,1\n", r"a\.csv line 1 names a column twice"),
        ("a.csv", 'text,label\n"x"y,1\n', r"a\.csv line 2 could not be read as a row of a table"),
        ("a.csv", "text,label\n", r"a\.csv holds no records"),
        ("a.test", "1 good\n4 very good\n", r"a\.test line 2 must have the label 0 or 1, found '4'"),
        ("a.test", "1 good\ngood film\n", r"a\.test line 2 is not of the form 'label text'"),
        ("a.zip", "PK\0\0", r"a\.zip is not a text file"),
        ("a.parquet", "no parquet", r"a\.parquet could not be read"),
    ],
)
def test_damage_is_told_with_file_and_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        labelled_texts(str(tmp_path / name))


def test_what_is_no_file_is_told(tmp_path):
    with pytest.raises(InputError, match=r"absent\.csv does not exist .*name\[:config\]@split"):
        records(str(tmp_path / "absent.csv"))
    with pytest.raises(InputError, match="is a folder"):
        records(str(tmp_path))
    (tmp_path / "latin.csv").write_bytes(b"text,label\ncaf\xe9,1\n")
    with pytest.raises(InputError, match=r"latin\.csv could not be read"):
        records(str(tmp_path / "latin.csv"))


@pytest.fixture
def hub(monkeypatch):
    """A replaced `datasets`, that knows two data sets and notes what it is asked for."""
    module, asked = ModuleType("datasets"), []

    def load_dataset(name, config, *, split):
        asked.append((name, config, split))
        if name == "private":
            raise ConnectionError("no way\n  through.")
        return [{"sentence": "fine .", "label": 1}, {"sentence": "hidden", "label": -1}][: 1 if split == "train" else 2]

    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    return asked


def test_data_sets_of_the_hub_are_read_by_name_configuration_and_split(hub):
    assert labelled_texts("stanfordnlp/sst2@train") == [("fine .", True)]
    assert records("glue:sst2@train[:10]")[0] == {"sentence": "fine .", "label": 1}
    assert hub == [("stanfordnlp/sst2", None, "train"), ("glue", "sst2", "train[:10]")]
    with pytest.raises(InputError, match="glue:sst2@test row 2 must have the label 0 or 1, found -1"):
        labelled_texts("glue:sst2@test")
    with pytest.raises(InputError, match=r"private@train could not be loaded from the .* hub: no way through$"):
        records("private@train")
    with pytest.raises(InputError, match="a data set of the hub"):
        records("a:b:c@train")


def test_the_hub_needs_a_package_that_may_be_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match="pip install datasets"):
        records("glue:sst2@validation")
