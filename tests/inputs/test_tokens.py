"""Text to tokens and back: pieces that add up to the text, whatever kind of tokenizer made them."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from mambascope.errors import InputError
from mambascope.inputs.tokens import check_ids, decode_token, encode, single_token
from small_tokenizers import SIZE, byte_level, sentencepiece, word_pieces

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

TEXTS = [
    "When Mary and John went to the store",
    "  two spaces, then\n\ta tab and trailing ones   ",
    "naïve café — “quoted”",
    "smile 😀 twice 😀😀 and 漢字 end",
    "\n",
    " ",
    "a",
    "x <|end|> y",
]


FAST = {
    "byte-level": byte_level(),
    "byte-level-untrimmed": byte_level(trim=False),
    "byte-level-prefix": byte_level(prefix=True),
    "bytes": byte_level(merges=False),
    "sentencepiece": sentencepiece(),
}


@pytest.mark.parametrize("text", TEXTS, ids=repr)
@pytest.mark.parametrize("tokenizer", FAST.values(), ids=FAST.keys())
def test_pieces_add_up_to_the_text(tokenizer, text):
    ids, pieces = encode(tokenizer, text, vocab_size=SIZE)
    assert ids.shape == (1, len(pieces))
    assert ids.dtype == torch.long
    assert ids[0].tolist() == tokenizer(text)["input_ids"]
    assert "".join(pieces) == text


def test_pieces_keep_the_space_before_a_word():
    _, pieces = encode(FAST["byte-level"], "a Mary the", vocab_size=SIZE)
    assert pieces == ("a", " M", "ary", " the")


def test_a_split_character_belongs_to_its_first_token():
    ids, pieces = encode(FAST["byte-level"], "a😀é", vocab_size=SIZE)
    assert pieces == ("a", "😀", "", "", "", "é")
    shown = [decode_token(FAST["byte-level"], token) for token in ids[0].tolist()]
    assert shown == ["a", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "é"]


def test_tokens_that_were_added_show_their_name():
    _, pieces = encode(byte_level(template=True), "a the ", vocab_size=SIZE)
    assert pieces == ("<s>", "a", " the", " ", "<|end|>")


def test_special_tokens_written_in_the_text_are_part_of_it():
    tokenizer = byte_level()
    ids, pieces = encode(tokenizer, "a<|end|>b", vocab_size=SIZE)
    assert ids[0, 1] == 0
    assert pieces == ("a", "<|end|>", "b")
    assert encode(tokenizer, "<|end|>", vocab_size=SIZE)[1] == ("<|end|>",)


def test_pieces_are_of_the_text_and_not_of_its_normal_form():
    _, pieces = encode(word_pieces(), "When Mary went, CAFÉ store  ", vocab_size=SIZE)
    assert pieces == ("[CLS]", "When", " Mary", " went", ",", " CAFÉ", " st", "ore  ", "[SEP]")


def test_without_character_positions():
    ids, pieces = encode(ByT5Tokenizer(), "hé", vocab_size=SIZE)
    assert ids.shape == (1, len(pieces))
    assert pieces[0] == "h"


def test_decode_keeps_the_leading_space():
    tokenizer = sentencepiece()
    assert decode_token(tokenizer, tokenizer.convert_tokens_to_ids("▁Mary")) == " Mary"
    assert decode_token(tokenizer, tokenizer.convert_tokens_to_ids("store")) == "store"
    assert decode_token(tokenizer, tokenizer.convert_tokens_to_ids("▁")) == " "
    tokenizer = byte_level()
    assert decode_token(tokenizer, tokenizer.convert_tokens_to_ids("Ġthe")) == " the"
    assert decode_token(tokenizer, 0) == "<|end|>"


def test_decode_shows_loose_bytes():
    tokenizer = sentencepiece()
    assert decode_token(tokenizer, tokenizer.convert_tokens_to_ids("<0xE2>")) == "<0xE2>"
    assert decode_token(tokenizer, tokenizer.convert_tokens_to_ids("<0x41>")) == "A"


def test_decode_keeps_a_real_replacement_character():
    inner = Tokenizer(models.WordLevel({"\N{REPLACEMENT CHARACTER}": 0, "漢\N{REPLACEMENT CHARACTER}": 1}))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    assert decode_token(tokenizer, 0) == "\N{REPLACEMENT CHARACTER}"
    assert decode_token(tokenizer, 1) == "漢\N{REPLACEMENT CHARACTER}"


def test_decode_of_a_padding_row():
    tokenizer = byte_level()
    assert decode_token(tokenizer, len(tokenizer) + 3) == f"<{len(tokenizer) + 3}>"


def fails(match, function, *args, **kwargs):
    with pytest.raises(InputError, match=match) as raised:
        function(*args, **kwargs)
    assert "\n" not in str(raised.value)


def test_no_tokenizer():
    fails("this model has no tokenizer; load it with tokenizer=", encode, None, "a", vocab_size=SIZE)


def test_nothing_to_encode():
    fails("the text is empty", encode, byte_level(), "", vocab_size=SIZE)
    fails("yields no token", encode, word_pieces(), " \n", vocab_size=SIZE)


def without_unknown():
    """Whole words and no token for others, as the zoo's copying models have for letters."""
    inner = Tokenizer(models.WordLevel({"when": 0, "mary": 1, "<|end|>": 2}))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>")


def test_what_the_tokenizer_raises_is_one_sentence():
    words = r"tokenizer cannot read 'when the' \(it has no token 'the'\); it knows 2 tokens, such as 'mary', 'when'"
    fails(words, encode, without_unknown(), "when the", vocab_size=SIZE)
    fails("cannot read 'the'", single_token, without_unknown(), "the", "foil")
    fails("cannot read ' mary when'|is 2 tokens", single_token, without_unknown(), "mary when")
    assert encode(without_unknown(), "when mary", vocab_size=SIZE)[1] == ("when", " mary")


class PanicException(BaseException):
    """What the tokenizers library raises when its Rust code panics: named so, and no `Exception`."""


@pytest.mark.parametrize("error", [PanicException("index out of\nbounds"), KeyError("x"), TypeError()], ids=repr)
def test_whatever_it_raises_is_one_sentence(error, monkeypatch):
    tokenizer = byte_level()

    def broken(*_, **__):
        raise error

    monkeypatch.setattr(type(tokenizer), "__call__", broken)
    fails(r"this model's tokenizer cannot read 'some words' \(", encode, tokenizer, "some words", vocab_size=SIZE)
    fails(r"this model's tokenizer cannot read 'some words' \(", single_token, tokenizer, "some words")
    monkeypatch.undo()
    for verb in ("convert_ids_to_tokens", "decode"):
        with monkeypatch.context() as patch:
            patch.setattr(type(tokenizer), verb, broken)
            assert decode_token(tokenizer, 5) == "<5>"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()], ids=repr)
def test_interruptions_and_want_of_memory_are_no_fault_of_the_tokenizer(error, monkeypatch):
    def stopped(*_, **__):
        raise error

    tokenizer = byte_level()
    monkeypatch.setattr(type(tokenizer), "__call__", stopped)
    with pytest.raises(type(error)):
        encode(tokenizer, "some words", vocab_size=SIZE)
    monkeypatch.setattr(type(tokenizer), "decode", stopped)
    with pytest.raises(type(error)):
        decode_token(tokenizer, 5)


def test_ids_that_no_tokenizer_counts_to_are_named_by_number():
    assert decode_token(byte_level(), 10**12) == "<1000000000000>"
    assert decode_token(byte_level(), -3) == "<-3>"


def test_lone_surrogate():
    fails("not valid Unicode: character 1", encode, byte_level(), "a\ud83d", vocab_size=SIZE)


def test_id_outside_the_vocabulary():
    fails(r"token id \d+ is outside the model's vocabulary of 8 tokens", encode, byte_level(), "þ", vocab_size=8)


def test_check_ids():
    for ids in ([1, 2, 3], torch.tensor([1, 2, 3], dtype=torch.int32), torch.tensor([[1, 2, 3]])):
        row = check_ids(ids, 4)
        assert row.dtype == torch.long
        assert row.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("ids", "match"),
    [
        ([], "there are no token ids"),
        ([1, 4, 9], r"token id 4 is outside the model's vocabulary of 4 tokens \(ids 0 to 3\)"),
        ([1, -1], "token id -1 is outside"),
        (torch.zeros(2, 3, dtype=torch.long), r"found torch.int64 of shape \(2, 3\)"),
    ],
)
def test_ids_that_cannot_be_used(ids, match):
    fails(match, check_ids, ids, 4)
