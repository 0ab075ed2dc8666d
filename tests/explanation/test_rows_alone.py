"""What is asked of a few positions is computed for them alone, never for the whole matrix."""

import pytest

import mambascope
from mambascope.methods import METHODS, shares


@pytest.mark.parametrize("method", ["latim", "latim-alti", "alti-logit", "alti-rollout"])
def test_no_map_that_nobody_asked_for(method, monkeypatch):
    def refused(*args, **kwargs):
        pytest.fail("a whole map was made")

    model, tokenizer = mambascope.load("tiny-mamba")
    entry = METHODS[method]
    for name in ("map", "whole_map"):
        if getattr(entry, name) is not None:
            monkeypatch.setitem(vars(entry), name, refused)
    monkeypatch.setattr(shares, "shares", refused)
    text = "Mr. Bolton was a rich man, and Mrs. Bolton was proud of it. " * 2
    result = mambascope.explain(model, tokenizer, text, method=method, positions=[-2, -1], progress=False)
    assert result.scores.shape[1] == 2
    with pytest.raises(pytest.fail.Exception, match="a whole map was made"):  # the test sees a map where there is one
        shares.shares()
