"""What the stream predicts after each layer, kept with a page's first result."""

import dataclasses

import pytest
import torch

import mambascope
from mambascope import Attribution, capture, memory
from mambascope.errors import CheckpointError, MapTooLargeError
from mambascope.explanation import explain, lens
from mambascope.methods import logit_lens
from models import stock_model
from picture_checkpoints import astronaut, vim

TEXT = "Mr. Bolton was a rich man. Mr. B"


@pytest.fixture(scope="module")
def tiny():
    return mambascope.load("tiny-hybrid")


def test_a_page_says_what_the_stream_predicts_at_its_targets(tiny, tmp_path):
    model, tokenizer = tiny
    result, *_ = explain(model, tokenizer, TEXT, method="latim", views=True)
    (entry,) = result.diagnostics["lens"]
    ids = tokenizer(TEXT, return_tensors="pt").input_ids
    trace = capture(model, input_ids=ids)
    shares = logit_lens(trace).logits[0].double().softmax(dim=-1)
    token = int(trace.logits[0, -1].argmax())
    assert entry["position"] == len(result.tokens) - 1
    assert entry["layers"] == [*range(len(trace.layers)), None]
    assert entry["explained"] == pytest.approx(shares[:, token].tolist(), abs=1e-5)
    assert entry["rank"][-1] == 1
    assert entry["rank"][0] == int((shares[0] > shares[0, token]).sum()) + 1
    best, share = entry["likeliest"][-1][0]
    assert best == result.target.next_tokens[0][0]
    assert share == pytest.approx(result.target.next_tokens[0][1], abs=1e-5)
    file = tmp_path / "result.safetensors"
    result.save(file)
    assert Attribution.load(file).diagnostics["lens"] == [entry]
    assert "lens" not in result.words().diagnostics


def test_one_that_does_not_fit_is_refused_or_left_out(tiny, tmp_path, monkeypatch):
    result, *_ = explain(*tiny, TEXT, method="latim", views=True, verify=0)
    (entry,) = result.diagnostics["lens"]
    short = {**result.diagnostics, "lens": [{**entry, "rank": entry["rank"][1:]}]}
    file = dataclasses.replace(result, diagnostics=short).save(tmp_path / "short.safetensors")
    with pytest.raises(CheckpointError, match="more or fewer predictions than streams"):
        Attribution.load(file)
    trace = capture(stock_model("mamba"), input_ids=torch.tensor([[5, 9, 2, 7]]))
    monkeypatch.setattr(memory, "available_bytes", lambda device: 100)
    with pytest.raises(MapTooLargeError, match="read fewer positions"):
        logit_lens(trace)


def test_every_generated_token_has_its_own_unless_there_are_many(tiny, monkeypatch):
    result, *_ = explain(*tiny, TEXT, generate=2, views=True, verify=0)
    assert [one["position"] for one in result.diagnostics["lens"]] == list(result.axes["target"])
    assert all(one["rank"][-1] == 1 for one in result.diagnostics["lens"])
    monkeypatch.setattr(lens, "MOST_TARGETS", 1)
    assert "lens" not in explain(*tiny, TEXT, generate=2, views=True, verify=0)[0].diagnostics


def test_a_continuation_has_no_single_token_to_follow(tiny):
    result, *_ = explain(*tiny, "Mr. B", continuation="olton was", views=True, verify=0)
    (entry,) = result.diagnostics["lens"]
    assert (entry["explained"], entry["rank"]) == (None, None)


def test_what_has_no_lens_has_none():
    ids = torch.tensor([[5, 9, 2, 7]])
    for model, source in ((stock_model("mamba").backbone, {"input_ids": ids}), (vim(), astronaut())):
        assert "lens" not in explain(model, None, source, method="latim", views=True)[0].diagnostics
