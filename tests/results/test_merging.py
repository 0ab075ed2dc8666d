"""Results of words and spans: what is summed, what is averaged, and what is refused."""

import dataclasses

import pytest
import torch

import mambascope
from made_results import make
from mambascope import Attribution
from mambascope.attribution import Target
from mambascope.errors import InputError

TEXT = "Mr. Bolton was a rich man, and Mrs. Bolton was"


def result(rows=(0, 1, 2, 3), **changes):
    """Tokens " to", "day", ",", " now": three words."""
    return dataclasses.replace(make(rows), tokens=(" to", "day", ",", " now"), **changes)


def test_sources_are_summed_and_targets_averaged():
    tokens = result()
    words = tokens.words()
    assert words.tokens == (" today", ",", " now")
    assert words.axes == {"layer": (1, 4), "target": (0, 1, 2), "source": (0, 1, 2)}
    summed = torch.stack([tokens.scores[..., :2].sum(-1), tokens.scores[..., 2], tokens.scores[..., 3]], dim=-1)
    expected = torch.stack([summed[:, :2].mean(1), summed[:, 2], summed[:, 3]], dim=1)
    torch.testing.assert_close(words.scores, expected)
    assert words.target.position == 2
    assert words.target.token == " now"
    assert words.diagnostics["merged"] == {"units": "words", "tokens": 4, "sources": "sum", "targets": "mean"}


def test_the_largest_source_keeps_its_sign():
    tokens = result((3,))
    tokens.scores[0, 0, :2] = torch.tensor([-3.0, 2.0])
    assert tokens.words(sources="max").scores[0, 0, 0] == -3.0


def test_targets_are_summed_when_asked():
    tokens = result()
    torch.testing.assert_close(tokens.words(targets="sum").scores[:, 0], 2 * tokens.words().scores[:, 0])


def test_the_numbers_of_merged_targets_add_up():
    each = tuple(Target(j, "x", asked=f"logit {j}", value=float(j), generated=j + 1) for j in range(3))
    tokens = result((0, 1, 2), targets=each, target=each[-1])
    tokens.diagnostics["per_target"] = [{}] * 3
    words = tokens.words(targets="sum")
    assert [(one.position, one.value, one.generated) for one in words.targets] == [(0, 1.0, 1), (1, 2.0, 2)]
    assert words.targets[0].asked == "the sum of 2 numbers"
    assert words.targets[1].asked == "logit 2"
    assert "per_target" not in words.diagnostics
    assert tokens.words().targets[0].value == 0.5


def test_rows_that_are_read_together_stay_one_number():
    tokens = result(target=Target(3, " now", pooled=4))
    row = tokens.row()
    words = tokens.words(targets="sum")
    torch.testing.assert_close(words.row(), torch.stack([row[:2].sum(), row[2], row[3]]))


def test_named_spans_leave_other_tokens_alone():
    spans = result().spans({"when": (0, 2), "end": (-1, 4)})
    assert spans.tokens == ("when", ",", "end")
    torch.testing.assert_close(spans.scores, result().words().scores)


def test_what_adds_up_still_does():
    model, tokenizer = mambascope.load("tiny-mamba2")
    tokens = mambascope.explain(model, tokenizer, TEXT, generate=2)
    words = tokens.words(targets="sum")
    assert "".join(words.tokens) == "".join(tokens.tokens)
    bound = 1e-6 * float(tokens.scores.abs().sum())  # float32 sums of a few dozen terms
    assert float(words.scores.sum()) == pytest.approx(float(tokens.scores.sum()), abs=bound)
    assert not words.scores[..., words.target.position + 1 :].any()


def test_a_merged_result_is_saved_shown_and_drawn(tmp_path, capsys):
    words = result().words()
    words.save(tmp_path / "words.safetensors")
    again = Attribution.load(tmp_path / "words.safetensors")
    assert torch.equal(again.scores, words.scores)
    assert again.tokens == words.tokens
    words.show()
    assert "4 tokens taken together as words (summed)" in " ".join(capsys.readouterr().out.split())
    assert "taken together as words" in words.to_html()
    words.plot()


WRONG = {
    "unknown units": ("letters", {}, "no units called 'letters'; choose one of words, sentences"),
    "no spans": ({}, {}, "spans must be given by name"),
    "no name": ({" ": (0, 1)}, {}, "a span needs a name"),
    "empty": ({"a": (2, 2)}, {}, "the span 'a', 2:2, holds no tokens of a text of 4"),
    "outside": ({"a": (2, 5)}, {}, "the span 'a', 2:5, holds no tokens of a text of 4"),
    "overlap": ({"a": (0, 2), "b": (1, 3)}, {}, "the span 'b' begins at 1, before the one before it ends, at 2"),
    "sources": ("words", {"sources": "mean"}, "sources must be 'sum' or 'max', found 'mean'"),
    "targets": ("words", {"targets": "max"}, "targets must be 'mean' or 'sum', found 'max'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_refused(name):
    spans, options, said = WRONG[name]
    with pytest.raises(InputError, match=f"^[^\n]*{said}"):
        result().spans(spans, **options)


def test_pictures_have_no_words():
    from mambascope.grid import Grid

    with pytest.raises(InputError, match="patches of a picture make no words"):
        result(grid=Grid(2, 2, None, 4, 4)).words()
