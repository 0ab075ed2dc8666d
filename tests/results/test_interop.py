"""Shapes of other libraries, and these libraries themselves where they are installed (`make test-interop`)."""

import pytest
import torch

from made_results import make


def test_bertviz_gets_shares_for_every_position():
    result = make(targets=(1, 3))
    given = result.to_bertviz()
    assert [tuple(layer.shape) for layer in given["attention"]] == [(1, 1, 4, 4)] * 2
    expected = result.row(3, layer=4).abs() / result.row(3, layer=4).abs().sum()
    torch.testing.assert_close(given["attention"][1][0, 0, 3], expected)
    assert not given["attention"][1][0, 0, [0, 2]].any()
    assert len(given["tokens"]) == 4


def test_circuitsvis_gets_the_scores_with_their_signs():
    result = make()
    given = result.to_circuitsvis()
    assert torch.equal(given["attention"], result.scores)
    assert given["attention_head_names"] == ["layer 1", "layer 4"]
    assert given["max_value"] == -given["min_value"] == float(result.scores.abs().max())
    assert given["mask_upper_tri"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves its own files open
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_bertviz_draws_it():
    bertviz = pytest.importorskip("bertviz")
    for view in (bertviz.head_view, bertviz.model_view):
        page = view(**make().to_bertviz(), html_action="return")
        assert "attention" in page.data


def test_circuitsvis_draws_it():
    attention = pytest.importorskip("circuitsvis.attention")
    assert "layer 4" in str(attention.attention_heads(**make().to_circuitsvis()))
