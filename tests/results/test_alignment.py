"""Tokens of several tokenizers, and of two texts, beside each other."""

import pytest

from mambascope.errors import InputError
from mambascope.inputs.tokens import encode
from mambascope.results.alignment import beside, common_units, unit_names
from small_tokenizers import SIZE, byte_level, sentencepiece, word_pieces

TEXT = "When Mary and John went to the store, Mary"


def pieces_of(tokenizer, text=TEXT):
    return encode(tokenizer, text, vocab_size=SIZE)[1]


@pytest.mark.parametrize("tokenizer", [byte_level(), byte_level(template=True), sentencepiece(), word_pieces()])
def test_one_tokenizer_keeps_its_tokens_but_a_split_character_is_one(tokenizer):
    pieces = pieces_of(tokenizer, "the 😀 store")
    first, second = common_units([pieces, pieces])
    assert first == second
    assert [place for unit in first for place in unit] == list(range(len(pieces)))
    assert "".join(unit_names(pieces, first)) == "".join(pieces)
    assert all(unit_names(pieces, first))
    assert len(first) == sum(map(bool, pieces))


def test_units_are_the_finest_that_all_tokenizers_have_in_common():
    ours = ("When", " Mar", "y", " and", " ", "John", "\n", "went")
    theirs = ("Wh", "en", " Mary", " a", "nd ", "Jo", "hn", "\n", "we", "nt")
    first, second = common_units([ours, theirs])
    assert unit_names(ours, first) == ["When", " Mary", " and", " John", "\n", "went"]
    assert unit_names(theirs, second) == ["When", " Mary", " and ", "John", "\n", "went"]
    assert [len(unit) for unit in first] == [1, 2, 1, 2, 1, 1]


@pytest.mark.parametrize("others", [(sentencepiece(),), (word_pieces(),), (sentencepiece(), word_pieces())])
def test_real_tokenizers_agree_on_every_unit(others):
    tokenizers = (byte_level(template=True), *others)
    pieces = [pieces_of(tokenizer) for tokenizer in tokenizers]
    units = common_units(pieces)
    assert len(set(map(len, units))) == 1
    for own, runs in zip(pieces, units, strict=True):
        assert [place for unit in runs for place in unit] == list(range(len(own))), "each token is in one unit"
    named = [unit_names(own, runs) for own, runs in zip(pieces, units, strict=True)]
    for names in list(zip(*named, strict=True))[1:-1]:
        assert len({name.strip() for name in names}) == 1, names
    assert named[0][0] == "<s>"
    assert named[0][-1] == "<|end|>"


def test_what_a_tokenizer_adds_stands_beside_nothing():
    ours, theirs = ("<s>", "When", " Mary", "<|end|>"), ("When", " Mary")
    first, second = common_units([ours, theirs])
    assert [len(unit) for unit in first] == [1, 1, 1, 1]
    assert [len(unit) for unit in second] == [0, 1, 1, 0]
    assert second[-1].start == 2


def test_a_special_token_that_all_read_is_aligned():
    first, second = common_units([("<s>", "a", " bc"), ("<s>", "a", " b", "c")])
    assert [len(unit) for unit in first] == [1, 1, 1]
    assert [len(unit) for unit in second] == [1, 1, 2]


def test_texts_that_differ_are_refused():
    with pytest.raises(InputError, match="change the text, each in its own way"):
        common_units([("When", " Mary"), ("when", " mary")])


def test_two_texts_stand_beside_each_other():
    def words(first, second):
        first, second = first.split(), second.split()
        pairs = beside(first, second)
        for k, whole in enumerate((first, second)):
            assert [place for pair in pairs for place in pair[k]] == list(range(len(whole)))
        return ["/".join(["+".join(first[j] for j in a), "+".join(second[j] for j in b)]) for a, b in pairs]

    assert words("a b c", "a x c") == ["a/a", "b/x", "c/c"]
    assert words("a b c", "a x y c") == ["a/a", "b/x+y", "c/c"]
    assert words("a c", "a x y c") == ["a/a", "/x", "/y", "c/c"]
    assert words("a b b c", "c") == ["a/", "b/", "b/", "c/c"]
    assert beside(["a", " E", "very"], ["E", "very"])[:2] == [(range(1), range(0)), (range(1, 2), range(1))]
