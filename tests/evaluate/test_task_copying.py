"""Copying and induction: the gold is where it should be, every method is judged, and what does not fit is refused."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mambascope import readouts
from mambascope.errors import InputError, UnsupportedModelError
from mambascope.evaluate.metrics.registry import listed_metrics
from mambascope.evaluate.score_rows import ScoredRows, score_rows
from mambascope.evaluate.tasks import copying as copying_module
from mambascope.evaluate.tasks import find_task
from mambascope.evaluate.tasks import induction as induction_module
from mambascope.evaluate.tasks.copying import SEPARATOR, SYMBOLS, Copying
from mambascope.evaluate.tasks.induction import Induction
from mambascope.evaluate.variants import check_supported
from mambascope.methods.latim import latim
from mambascope.methods.raw_attention import raw_attention_row
from mambascope.methods.reference_code import first_reference_layer
from mambascope.methods.rollout import rollout_row
from mambascope.trace import capture
from models import stock_model, stock_transformer
from rounding import assert_equal_to_rounding

METHODS = ["latim", "rollout", "alti-logit", "mamba-lrp"]


def letters() -> PreTrainedTokenizerFast:
    vocabulary = {"<end>": 0} | {symbol: k + 1 for k, symbol in enumerate(SYMBOLS + SEPARATOR)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<end>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<end>")


@pytest.fixture(scope="module", params=["mamba", "mamba2"])
def loaded(request):
    return stock_model(request.param), letters()


def rows_of(found, metric, method="latim", layer=-1):
    return [row.value for row in found if (row.metric, row.method, row.layer) == (metric, method, layer)]


def test_every_method_and_layer_is_judged_on_every_metric(loaded):
    task = Copying(lengths=(5,), per_length=1)
    found = task.evaluate(loaded, task.samples(None)[0], METHODS, 0)
    for method in METHODS:
        layers = (-1, 0, 1) if method in ("latim", "alti-logit") else (-1,)
        for layer in layers:
            for metric in ("roc_auc", "average_precision", "recall_at_k"):
                (value,) = rows_of(found, metric, method, layer)
                assert 0 <= value <= 1
        assert len(rows_of(found, "correct", method)) == 1
    assert {row.metric for row in found} == listed_metrics(task.metrics).keys()


@pytest.mark.parametrize(("shift", "best"), [(0, True), (1, False)])
def test_a_score_that_points_at_the_symbol_to_come_is_perfect(loaded, monkeypatch, shift, best):
    """Target n + k reads the copy's k-th symbol as its next: its source is position k, not k ± 1."""

    def oracle(model, inputs, methods, numbers, trace):
        targets = [readout.positions[0] for readout in numbers]
        n, ids = len(targets), inputs["input_ids"][0]
        rows = torch.full((n, len(ids)), 0.1)
        for k, (target, readout) in enumerate(zip(targets, numbers, strict=True)):
            assert readout.terms[0].entry == ids[target + 1], "the symbol asked about is the one that comes next"
            rows[k, (k + shift) % n] = -9.0  # sizes count, not signs
            rows[k, n:] = 99.0  # the copy itself is no candidate
        yield ScoredRows("latim", -1, rows)

    monkeypatch.setattr(copying_module, "score_rows", oracle)
    task = Copying(lengths=(6,), per_length=1)
    found = task.evaluate(loaded, task.samples(None)[0], ["latim"], 0)
    assert rows_of(found, "recall_at_k") == ([1.0] if best else [0.0])
    assert (rows_of(found, "roc_auc")[0] == 1) == best


def test_strings_are_the_same_in_every_run_and_a_limit_keeps_every_length():
    task = Copying()
    assert task.samples(None) == Copying().samples(None)
    assert {sample.id.split("-")[0] for sample in task.samples(4)} == {"8", "16", "32", "48"}
    assert len({sample.data["text"] for sample in task.samples(None)}) == 100
    assert task.data_hash() == Copying().data_hash() != Copying(seed=1).data_hash()


def test_the_share_of_symbols_copied_right_is_the_models(loaded):
    task = Copying(lengths=(7,), per_length=1)
    sample = task.samples(None)[0]
    text = sample.data["text"]
    ids = [loaded[1].convert_tokens_to_ids(symbol) for symbol in text + SEPARATOR + text]
    with torch.no_grad():
        guesses = loaded[0](torch.tensor([ids]), use_cache=False).logits[0].argmax(-1)
    right = sum(int(guesses[7 + k]) == ids[8 + k] for k in range(7)) / 7
    assert rows_of(task.evaluate(loaded, sample, ["latim"], 0), "correct") == [pytest.approx(right)]


def test_models_that_cannot_be_judged_are_refused():
    task = find_task("copying")
    with pytest.raises(InputError, match="needs a tokenizer"):
        task.check((stock_model("mamba"), None), ["latim"])
    with pytest.raises(UnsupportedModelError, match="norm-based cannot read"):
        task.check((stock_model("mamba"), letters()), ["latim", "norm-based"])
    with pytest.raises(InputError, match="draws 24 tokens from id 300 on, and this model has 50"):
        find_task("induction").check((stock_model("mamba"), None), ["latim"])
    with pytest.raises(InputError, match="unknown task 'magic'; choose one of copying"):
        find_task("magic")


def test_induction_points_at_what_followed_last_time(monkeypatch):
    task, model = Induction(span=6, count=2, first=10), stock_model("mamba2")

    def oracle(model, inputs, methods, numbers, trace):
        targets = [readout.positions[0] for readout in numbers]
        ids = inputs["input_ids"][0].tolist()
        assert len(set(ids[:6])) == 6
        assert ids[:6] == ids[6:]
        rows = torch.zeros(len(targets), 12)
        for k, (target, readout) in enumerate(zip(targets, numbers, strict=True)):
            assert readout.terms[0].entry == ids[target + 1]
            rows[k, ids.index(ids[target]) + 1] = 1.0
        yield ScoredRows("latim", -1, rows)

    monkeypatch.setattr(induction_module, "score_rows", oracle)
    for sample in task.samples(None):
        assert rows_of(task.evaluate((model, None), sample, ["latim"], 0), "recall_at_k") == [1.0]
    assert task.samples(None)[0] != task.samples(None)[1]


def test_rows_of_a_method_are_those_of_its_maps_and_of_explain(loaded):
    model = loaded[0]
    inputs = {"input_ids": torch.arange(1, 9)[None]}
    trace = capture(model, **inputs)
    numbers = [readouts.token(4, 3), readouts.token(6, 2)]
    found = {(one.method, one.layer): one.rows for one in score_rows(model, inputs, METHODS, numbers, trace)}
    maps = latim(trace)[0]
    assert_equal_to_rounding(found["latim", 1], maps[1, [4, 6]])
    assert torch.allclose(found["latim", -1], maps.mean(dim=0)[[4, 6]])
    assert torch.allclose(found["alti-logit", -1], found["alti-logit", 0] + found["alti-logit", 1], atol=1e-5)
    alone = {(one.method, one.layer): one.rows for one in score_rows(model, inputs, METHODS, numbers[1:])}
    for key, rows in alone.items():
        assert torch.allclose(rows[0], found[key][1], rtol=1e-4, atol=1e-6), key


def test_the_released_form_of_a_method_is_judged_beside_the_published_one(loaded):
    """Its rows are those of `explain(variant="reference-code")`, from the layer on where the reference code begins."""
    model = loaded[0]
    inputs = {"input_ids": torch.arange(1, 9)[None]}
    trace, names = capture(model, **inputs), ["raw-attention:reference-code", "rollout:reference-code", "rollout"]
    numbers = [readouts.token(4, 3), readouts.token(6, 2)]
    found = {(one.method, one.layer): one.rows for one in score_rows(model, inputs, names, numbers, trace)}
    first = first_reference_layer(len(trace.layers))
    assert [layer for name, layer in found if name == "raw-attention:reference-code"] == [*range(first, 2), -1]
    for k, target in enumerate((4, 6)):
        expected = raw_attention_row(trace, first, target, "reference-code")[0]
        assert_equal_to_rounding(found["raw-attention:reference-code", first][k], expected)
        rolled = rollout_row(trace, target, variant="reference-code")[0]
        assert_equal_to_rounding(found["rollout:reference-code", -1][k], rolled)
        assert not torch.allclose(found["rollout:reference-code", -1][k], found["rollout", -1][k])


def test_a_form_that_is_not_there_is_refused(loaded):
    with pytest.raises(InputError, match="latim has one variant; ':reference-code' is for raw-attention"):
        check_supported(loaded[0], ["latim:reference-code"])
    with pytest.raises(InputError, match="unknown variant 'paper'"):
        check_supported(loaded[0], ["rollout:paper"])
    check_supported(loaded[0], ["rollout:reference-code", "rollout:published"])
    with pytest.raises(UnsupportedModelError, match="rollout:reference-code cannot read"):
        check_supported(stock_transformer("gpt2"), ["rollout:reference-code"])
