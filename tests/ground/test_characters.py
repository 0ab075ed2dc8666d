"""Characters that several tokens share are named: in the text, and where one is predicted."""

import pytest
import torch

import mambascope
from mambascope.characters import character_starts, piece_names, predicted_name
from mambascope.errors import InputError
from mambascope.explanation import explain
from mambascope.inputs.tokens import encode
from small_checkpoint import make_checkpoint
from small_tokenizers import SIZE, byte_level, sentencepiece, word_pieces

SMILE = ["😀", "‹2/4 of 😀›", "‹3/4 of 😀›", "‹4/4 of 😀›"]


@pytest.mark.parametrize(
    ("pieces", "names", "starts"),
    [
        ((" a", "b"), [" a", "b"], [0, 1]),
        (("a好", "", "", "b"), ["a好", "‹2/3 of 好›", "‹3/3 of 好›", "b"], [0, 0, 0, 3]),
        (("😀", "", "", "") * 2, SMILE * 2, [0] * 4 + [4] * 4),
        (("é", ""), ["é", "‹2/2 of é›"], [0, 0]),
        (("a😀😀", *[""] * 7), ["a😀😀", *SMILE[1:], "‹1/4 of 😀›", *SMILE[1:]], [0] * 8),
        (("ab好好", "", "", ""), ["ab好好", "‹2/4 of 好好›", "‹3/4 of 好好›", "‹4/4 of 好好›"], [0] * 4),
        (("<0xE5>", "<0xA5>", "<0xBD>", "b"), ["好", "‹2/3 of 好›", "‹3/3 of 好›", "b"], [0, 0, 0, 3]),
        (("<0xE5>", "b", "<0xBD>"), ["<0xE5>", "b", "<0xBD>"], [0, 1, 2]),
        (("<0xC3>", "<0xA9>", "<0xC3>", "<0xA9>"), ["é", "‹2/2 of é›"] * 2, [0, 0, 2, 2]),
        ((), [], []),
    ],
)
def test_parts_of_a_character_are_named_after_it(pieces, names, starts):
    assert piece_names(pieces) == names
    assert character_starts(pieces) == starts


@pytest.mark.parametrize(
    "pieces", [("", "a"), ("<s>", "", "a"), ("x", ""), ("é", "", ""), ("xé", "", "", ""), ("\ud800", "")]
)
def test_an_empty_piece_that_is_no_part_of_a_character_keeps_its_text(pieces):
    """Letters of one byte are never cut, and no character into more parts than it has bytes."""
    assert piece_names(pieces) == list(pieces)
    assert character_starts(pieces) == list(range(len(pieces)))


@pytest.mark.parametrize("tokenizer", [byte_level(), sentencepiece(), word_pieces()], ids=["bytes", "pieces", "words"])
def test_no_token_of_a_text_is_without_a_name(tokenizer):
    _, pieces = encode(tokenizer, "the 好 😀😀", vocab_size=SIZE)
    names = piece_names(pieces)
    assert "" not in names
    assert "".join(name for name in names if "of" not in name) == "".join(pieces)


@pytest.mark.parametrize(
    ("before", "token", "says"),
    [
        ([], " the", " the"),
        (["a"], "<0xCE>", "‹byte CE, 1/2›"),
        (["a"], " <0xE5>", " ‹byte E5, 1/3›"),
        (["<0xE5>"], "<0xA5>", "‹byte A5, 2/3›"),
        (["a", "<0xE5>", "<0xA5>"], "<0xBD>", "‹3/3 of 好›"),
        (["<0xE5><0xA5>"], "<0xBD>", "‹2/2 of 好›"),
        (["<0xF0>", "<0x9F>", "<0x98>"], "<0x80>", "‹4/4 of 😀›"),
        (["<0xE5>"], "<0xA5><0xBD>", "‹2/2 of 好›"),
        ([], "<0xE5><0xA5>", "‹bytes E5 A5, 2/3›"),
        (["<0xE5>", "<0xA5>"], "<0xBD><0xE5>", "‹3/3 of 好›‹byte E5, 1/3›"),
        (["<0xE5>", "<0xA5>", "<0xBD>"], "<0xBD>", "‹byte BD›"),
        (["<0xE5><0xA5>", "<0xBD><0xC3>"], "<0xA9>", "‹2/2 of é›"),
        (["<0xE5>"], "<0xE5>", "‹byte E5›"),
        (["<0xE5>"], "the", "the"),
    ],
)
def test_a_predicted_byte_is_named_after_the_character_that_it_completes(before, token, says):
    assert predicted_name(before, token) == says


def test_a_result_names_the_character_that_a_prediction_completes(tmp_path):
    """The model reads two bytes of 好 and is asked about the third, then one byte and is asked about the second."""
    model, tokenizer = mambascope.load(make_checkpoint(tmp_path, "mamba"))
    ids = tokenizer("好")["input_ids"]
    assert len(ids) == 3
    for known, says in ((2, "‹3/3 of 好›"), (1, "‹byte A5, 2/3›")):
        inputs = {"input_ids": torch.tensor([ids[:known]])}
        result = explain(model, tokenizer, inputs, method="mamba-lrp", target=ids[known])
        assert result.target.asked == f"logit of {says!r}"
    names = [name for name, _ in result.target.next_tokens]
    assert not any("<0x" in name for name in names)


def test_a_target_of_several_tokens_is_told_by_their_names(tmp_path):
    model, tokenizer = mambascope.load(make_checkpoint(tmp_path, "mamba"))
    with pytest.raises(InputError, match="the target '好' is 3 tokens, '好', '‹2/3 of 好›', '‹3/3 of 好›'; name one"):
        mambascope.explain(model, tokenizer, "a", target="好")


def test_the_top_sources_of_a_cut_character_have_names(tmp_path):
    model, tokenizer = mambascope.load(make_checkpoint(tmp_path, "mamba"))
    result = mambascope.explain(model, tokenizer, "a好")
    assert {source.token for source in result.top()} == {"a", "好", "‹2/3 of 好›", "‹3/3 of 好›"}
    assert "".join(result.tokens) == "a好", "the pieces themselves still add up to the text"
