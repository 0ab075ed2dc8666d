"""Models and methods asked one question about one text, or about two."""

import pytest
import torch

import mambascope
from mambascope import readouts
from mambascope.errors import InputError
from mambascope.explanation.comparing_texts import compare_texts
from mambascope.methods import patching
from models import stock_model, stock_transformer
from picture_checkpoints import vim
from small_tokenizers import SIZE, byte_level, sentencepiece, word_pieces

TEXT = "When Mary and John went to the store, the"
OTHER = "When Mary and Anna went to the store, the"


@pytest.fixture(scope="module")
def pairs():
    """Models with tokenizers that cut texts in different places."""
    return {
        "bytes": (stock_model("mamba", vocab_size=SIZE), byte_level(template=True)),
        "pieces": (stock_model("mamba2", vocab_size=SIZE), sentencepiece()),
        "words": (stock_transformer("gpt2", vocab_size=SIZE), word_pieces()),
    }


def test_rows_are_what_explain_says_unit_by_unit(pairs):
    chosen = [pairs["bytes"], pairs["pieces"], pairs["words"]]
    methods = ["mamba-lrp", "latim", "mamba-attribution"]
    comparison = compare_texts(iter(chosen), TEXT, methods=methods)
    assert comparison.merged
    assert [(row.results[0].method, row.results[0].model.family) for row in comparison.rows] == [
        (method, family) for family in ("mamba", "mamba2") for method in methods
    ] + [("mamba-lrp", "gpt2"), ("latim", "gpt2")]
    assert comparison.left_out == (f"mamba-attribution on {comparison.rows[-1].results[0].model.name}: it does not "
                                   "read softmax attention",)  # fmt: skip
    for row, (model, tokenizer) in zip(comparison.rows[::3], chosen, strict=True):
        alone = mambascope.explain(model, tokenizer, TEXT, method="mamba-lrp", progress=False)
        assert float(row.scores.nansum()) == pytest.approx(float(alone.row().sum()), rel=1e-4, abs=1e-5)
        assert row.values == (pytest.approx(alone.target.value, rel=1e-5),)
    assert "".join(comparison.names[0]).replace(" ", "").startswith("<s>WhenMaryand")
    bytes_row, pieces_row = comparison.rows[0], comparison.rows[3]
    mary = comparison.names[0].index(" Mary")
    score = bytes_row.results[0].row()
    at = [k for k, token in enumerate(bytes_row.results[0].tokens) if token in (" M", "ary")]
    assert float(bytes_row.scores[0, mary]) == pytest.approx(float(score[at[:2]].sum()), rel=1e-5)
    assert bytes_row.scores[0, 0].isfinite()
    assert pieces_row.scores[0, 0].isnan(), "it reads no <s>"


def test_by_default_the_methods_that_explain_predictions(pairs):
    comparison = compare_texts([pairs["bytes"]], TEXT)
    assert [row.results[0].method for row in comparison.rows] == ["mamba-lrp", "alti-logit"]
    assert comparison.left_out == ()
    assert not comparison.merged


def test_the_same_number_is_explained_in_both_texts(pairs):
    model, tokenizer = pairs["pieces"]
    comparison = compare_texts([pairs["pieces"]], TEXT, OTHER, methods=["mamba-lrp", "latim"])
    relevance, sizes = comparison.rows
    alone = mambascope.explain(model, tokenizer, TEXT, method="mamba-lrp", progress=False)
    token = int(mambascope.capture(model, **tokenizer([TEXT], return_tensors="pt")).logits[0, -1].argmax())
    other = mambascope.explain(model, tokenizer, OTHER, method="mamba-lrp", target=token, progress=False)
    assert relevance.values == pytest.approx((alone.target.value, other.target.value), rel=1e-5)
    assert [one.target.asked for one in relevance.results] == [alone.target.asked, other.target.asked]
    assert sizes.values == (None, None)
    assert [comparison.named(column) for column in comparison.changed] == [
        "'Joh' → 'A'",
        *["nothing → 'n'", "nothing → 'a'"],
    ]
    assert float(relevance.scores[1].nansum()) == pytest.approx(float(other.row().sum()), rel=1e-4, abs=1e-5)


def test_target_foil_and_position_are_asked_of_all(pairs):
    comparison = compare_texts([pairs["bytes"]], TEXT, OTHER, methods=["mamba-lrp"], target=5, foil=7, position=-3)
    (row,) = comparison.rows
    assert all(one.target.asked.startswith("logit of ") and " minus " in one.target.asked for one in row.results)
    length = len(row.results[0].tokens)
    assert row.results[0].target.position == length - 3


def test_a_position_must_be_the_same_place(pairs):
    both = [pairs["bytes"], pairs["pieces"]]
    with pytest.raises(InputError, match="position 9 is not the same place for all models and texts: it is "):
        compare_texts(both, TEXT, methods=["latim"], position=9)
    with pytest.raises(InputError, match="count from the end"):
        compare_texts([pairs["pieces"]], TEXT, "On that day " + TEXT, methods=["latim"], position=20)


def test_patching_is_of_the_number_that_is_compared(pairs):
    model, tokenizer = pairs["pieces"]
    texts = ("Mary and John", "Mary and Jane")
    comparison = compare_texts([pairs["pieces"]], *texts, methods=["mamba-lrp"], patch_in="mixer")
    (row,), (found,) = comparison.rows, comparison.patched
    ids = [tokenizer([text], return_tensors="pt")["input_ids"] for text in texts]
    traces = [mambascope.capture(model, input_ids=one) for one in ids]
    token = int(traces[0].logits[0, -1].argmax())
    expected = patching(*traces, readouts.token(-1, token), what="mixer")
    torch.testing.assert_close(found.scores[:, 0], expected.scores)
    assert found.axes["layer"] == (0, 1)
    assert (found.diagnostics["clean"], found.diagnostics["corrupted"]) == pytest.approx(row.values)
    assert found.target.asked == row.results[0].target.asked
    assert found.target.value == pytest.approx(row.values[0])
    assert len(found.diagnostics["other_tokens"]) == len(found.tokens)
    assert comparison.to_dict()["patched"][0]["method"] == "patching"


def test_patching_needs_two_texts_of_as_many_tokens(pairs):
    with pytest.raises(InputError, match="pass the other text"):
        compare_texts([pairs["pieces"]], TEXT, patch_in="stream")
    with pytest.raises(InputError, match="as many tokens, found"):
        compare_texts([pairs["pieces"]], TEXT, TEXT + " store", patch_in="stream")


def test_what_cannot_be_compared_is_refused(pairs):
    mamba = pairs["bytes"]
    headless = (mamba[0].backbone, mamba[1])
    cases = [
        (([], TEXT), {}, "nothing to compare"),
        (([mamba], TEXT), {"methods": ["magic"]}, "unknown method"),
        (([mamba], TEXT), {"methods": []}, "nothing to compare"),
        (([mamba], TEXT), {"methods": ["latim"], "target": 3}, "whatever is predicted there"),
        (([pairs["words"]], TEXT), {"methods": ["mamba-attribution"]}, "does not read softmax attention"),
        (([headless], TEXT), {}, "this model has no head"),
        (([mamba], ""), {}, "the text is empty"),
        (([mamba], TEXT, ""), {}, "the text is empty"),
        (([(vim(), None)], TEXT), {}, "reads pictures, not the text"),
    ]
    for arguments, options, words in cases:
        with pytest.raises(InputError, match=words):
            compare_texts(*arguments, **options)
