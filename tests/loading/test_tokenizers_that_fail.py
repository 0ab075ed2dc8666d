"""A tokenizer that crashes its library, never ends or grows its text is refused at load, or at the text it fails on."""

import json

import pytest
from transformers import PreTrainedTokenizerFast

from mambascope.errors import InputError
from mambascope.inputs.tokens import encode
from mambascope.loading.load import load
from refusals import refused
from small_checkpoint import make_checkpoint


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = make_checkpoint(tmp_path_factory.mktemp("checkpoint"))
    return folder, (folder / "tokenizer.json").read_text(), (folder / "tokenizer_config.json").read_text()


@pytest.fixture
def folder(made):
    folder, rules, settings = made
    (folder / "tokenizer.json").write_text(rules)
    (folder / "tokenizer_config.json").write_text(settings)
    return folder


def edit(folder, **rules):
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | rules))


def split(pattern):
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


def replace(pattern, content):
    return {"type": "Replace", "pattern": pattern, "content": content}


NO_TOKEN = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [],
    "special_tokens": {},
}
RULES = {
    "a pattern that never ends": {"pre_tokenizer": split({"Regex": "(a+)+$"})},
    "another": {"pre_tokenizer": split({"Regex": "(0+)+x"})},
    "a pattern of a normalizer": {"normalizer": replace({"Regex": "(a+)+$"}, "b")},
    "no pattern": {"pre_tokenizer": split({"Regex": "("})},
    "a crash of the library": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
    "a crash at the first text": {"post_processor": NO_TOKEN},
    "growth": {"normalizer": replace({"String": "a"}, "a" * 10**6)},
    "growth by doubling": {"normalizer": {"type": "Sequence", "normalizers": [replace({"String": "a"}, "aa")] * 60}},
    "growth in front": {"normalizer": {"type": "Prepend", "prepend": "a" * 10**6}},
    "growth when decoded": {"decoder": {"type": "Sequence", "decoders": [replace({"String": "a"}, "aa")] * 60}},
    "another kind of model": {"model": {"type": "evil"}},
    "no model": {"model": None},
    "a list of rules": {"normalizer": [1, 2]},
    "merges of unknown tokens": {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "q"]]}},
}


@pytest.mark.parametrize("rule", RULES)
def test_it_is_refused_when_it_is_loaded(folder, rule):
    edit(folder, **RULES[rule])
    refused(folder, "the tokenizer in .* cannot be read", seconds=30)


TEXTS = {
    "nothing": b"",
    "one byte": b"{",
    "zeros": b"\0" * 10,
    "not UTF-8": b"\xff\xfe{}",
    "deep": b"[" * 10**6,
    "a list": b"[]",
    "twice": b'{"model": {}, "model": {}}',
}


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_damaged_files(folder, text, file):
    (folder / file).write_bytes(TEXTS[text])
    refused(folder, "the tokenizer in .* cannot be read")


@pytest.mark.parametrize(
    "settings",
    [
        {"tokenizer_class": 5},
        {"auto_map": 3},
        {"auto_map": {"AutoTokenizer": ["x.Y"]}},
    ],
)
def test_settings_of_a_tokenizer(folder, settings):
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    refused(folder, "the tokenizer in .* cannot be read")


def test_a_missing_name_for_the_unknown_is_told_at_the_text(folder):
    """Without one a tokenizer may still be all that a model needs: it reads the words that it has."""
    edit(
        folder,
        model={"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "[UNK]"},
        pre_tokenizer={"type": "Whitespace"},
        post_processor=None,
        decoder=None,
    )
    _, tokenizer = load(folder)
    assert encode(tokenizer, "a b", vocab_size=9)[0].tolist() == [[0, 1]]
    with pytest.raises(
        InputError, match=r"cannot read 'a c' \(it has no token 'c'\); it knows 2 tokens, such as 'a', 'b'"
    ):
        encode(tokenizer, "a c", vocab_size=9)


def test_an_empty_pattern_is_harmless(folder):
    edit(folder, pre_tokenizer=split({"String": ""}))
    load(folder)


@pytest.mark.parametrize("rules", [{"pre_tokenizer": split({"Regex": "(a+)+$"})}, {"post_processor": NO_TOKEN}])
def test_a_crash_at_a_text_is_told_there(folder, rules):
    """A tokenizer that did not come through `load`, on a text that its library cannot survive."""
    edit(folder, **rules)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    with pytest.raises(InputError, match="this model's tokenizer cannot read"):
        encode(tokenizer, "a" * 30 + "!", vocab_size=300)
