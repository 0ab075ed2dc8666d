"""The benchmark that asks a hybrid by ablation which layer looks a number up."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from benchmarks import hybrid_retrieval
from small_hybrids import small_hybrid
from training import hybrids, retrieval
from training.running.bundled_start import bundled

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:transformers.*")


@pytest.fixture(scope="module")
def asking() -> hybrid_retrieval.Questions:
    tokenizer = bundled(hybrids.ORIGIN)[1]
    text = np.array(tokenizer.encode("He went out. " * 300), np.uint16)
    return hybrid_retrieval.questions(retrieval.Haystack(text, tokenizer), 6, 80, 2, seed=0)


@pytest.fixture
def model() -> PreTrainedModel:
    """A hybrid in which attention alone carries anything from token to token."""
    model = small_hybrid("tiny-hybrid", vocabulary=2048)
    for layer in model.base_model.layers:
        if hasattr(layer, "mamba"):
            layer.mamba.out_proj.weight.data.zero_()
    return model


def test_the_other_rows_differ_in_every_digit_that_is_asked_for_and_nowhere_else(
    asking: hybrid_retrieval.Questions,
) -> None:
    rows, others = asking.rows, asking.others
    assert torch.equal(rows.gather(1, asking.told), rows.gather(1, asking.asked))
    assert (rows != others).sum(1).unique().tolist() == [retrieval.DIGITS]
    assert (rows.gather(1, asking.told) != others.gather(1, asking.told)).all()
    assert int(asking.asked.max()) == rows.shape[1] - 1, "nothing comes after the question's number"


def test_attention_brings_what_differs_if_it_alone_can(
    asking: hybrid_retrieval.Questions, model: PreTrainedModel
) -> None:
    results = hybrid_retrieval.ablated(model, asking)
    whole = hybrid_retrieval.answered(model, asking)
    assert list(results) == [
        (layer, kind) for layer in range(5) for kind in ("attention" if layer == hybrids.ATTENTION else "scan", "mlp")
    ]
    for (layer, kind), ways in results.items():
        for way in ("exchanged", "given to all"):
            if kind == "scan" or layer < hybrids.ATTENTION:
                assert ways[way].logp == pytest.approx(whole.logp, abs=1e-5), "a token's own stream says nothing"
    with torch.no_grad():
        of_others = model(asking.others, use_cache=False).logits.log_softmax(-1)
    expected = torch.stack([row[places - 1, ids] for row, places, ids in _digits(of_others, asking)]).mean()
    # float32, summed in batches of other sizes
    assert results[hybrids.ATTENTION, "attention"]["exchanged"].logp == pytest.approx(float(expected), abs=1e-3)
    assert float(expected) != pytest.approx(whole.logp, abs=1e-2)


def _digits(
    logits: torch.Tensor, asking: hybrid_retrieval.Questions
) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    return list(zip(logits, asking.asked, asking.rows.gather(1, asking.asked), strict=True))


def test_a_part_replaced_by_itself_changes_nothing(asking: hybrid_retrieval.Questions, model: PreTrainedModel) -> None:
    same = hybrid_retrieval.Questions(asking.rows, asking.rows, asking.told, asking.asked)
    whole = hybrid_retrieval.answered(model, same)
    for ways in hybrid_retrieval.ablated(model, same).values():
        assert ways["exchanged"].logp == pytest.approx(whole.logp, abs=1e-5)
        assert ways["given to all"].logp == pytest.approx(whole.logp, abs=1e-5)


def test_zero_and_mean_take_a_part_away(asking: hybrid_retrieval.Questions, model: PreTrainedModel) -> None:
    results = hybrid_retrieval.ablated(model, asking)
    mean, zero = (results[4, "mlp"][way].logp for way in ("mean", "zero"))
    for parameter in model.base_model.layers[4].feed_forward.down_proj.parameters():
        parameter.data.zero_()
    assert hybrid_retrieval.answered(model, asking).logp == pytest.approx(zero, abs=1e-4)
    assert mean != pytest.approx(zero, abs=1e-3)
