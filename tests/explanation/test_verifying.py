"""What removing a result's top sources does, kept beside its scores."""

import dataclasses
import json

import pytest
import torch

import mambascope
from mambascope import Attribution, capture, readouts
from mambascope.errors import CheckpointError, InputError
from mambascope.explanation import explain, verifying
from mambascope.inputs.pictures import read_picture
from mambascope.methods.interventions import knockout
from mambascope.methods.occlusion import occlusion
from mambascope.ranks import rank_correlation
from models import stock_model
from picture_checkpoints import astronaut, vim, vit
from small_staged_models import small

TEXT = "Mr. Bolton was a rich man. Mr. B"
IDS = torch.tensor([[5, 9, 2, 7, 11, 9, 3, 1]])


@pytest.fixture(scope="module")
def tiny():
    return mambascope.load("tiny-mamba")


@pytest.fixture(scope="module")
def verified(tiny):
    return explain(*tiny, TEXT, verify=4)


def test_the_drops_are_those_of_the_interventions(tiny, verified):
    """They run in batches of other sizes, so the sums of float32 products differ in order."""
    (entry,) = verified.diagnostics["verified"]
    tops = sorted(source.position for source in verified.top(4))
    assert (entry["position"], entry["sources"]) == (verified.target.position, tops)
    assert (entry["asked"], entry["value"]) == (verified.target.asked, pytest.approx(verified.target.value))
    assert entry["scores"] == verified.row()[tops].tolist()
    model, tokenizer = tiny
    ids = tokenizer(TEXT, return_tensors="pt").input_ids
    trace = capture(model, input_ids=ids)
    readout = readouts.token(-1, int(trace.logits[0, -1].argmax()))
    for name, method in {"knockout": knockout, "occlusion": occlusion}.items():
        effect = method(trace, readout)
        assert entry[name] == pytest.approx(effect.scores[tops].tolist(), abs=1e-4 * abs(effect.value))
        assert entry["rank_correlation"][name] == pytest.approx(
            rank_correlation(verified.row()[tops], torch.tensor(entry[name]))
        )


def test_scores_without_sign_are_compared_by_size(tiny):
    result = explain(*tiny, TEXT, method="latim", verify=4)
    (entry,) = result.diagnostics["verified"]
    expected = rank_correlation(torch.tensor(entry["scores"]), torch.tensor(entry["knockout"]).abs())
    assert entry["rank_correlation"]["knockout"] == pytest.approx(expected)


def test_several_methods_have_the_same_sources_and_each_its_own_scores(tiny):
    first, second = explain(*tiny, TEXT, method=["mamba-lrp", "latim"], verify=3)
    (one,), (other,) = first.diagnostics["verified"], second.diagnostics["verified"]
    tops = {source.position for result in (first, second) for source in result.top(3)}
    assert one["sources"] == other["sources"] == sorted(tops)
    assert one["knockout"] == other["knockout"]
    assert one["scores"] == first.row()[one["sources"]].tolist() != other["scores"]


def test_every_generated_token_and_every_position_has_its_own(tiny):
    generated = explain(*tiny, TEXT, generate=2, verify=2)
    entries = generated.diagnostics["verified"]
    assert [one["position"] for one in entries] == [target.position for target in generated.targets]
    assert [one["asked"] for one in entries] == [target.asked for target in generated.targets]
    whole = explain(*tiny, "Mr. B", positions="all", method="latim", verify=1)
    assert [one["position"] for one in whole.diagnostics["verified"]] == list(range(len(whole.tokens)))


def test_a_continuation_is_removed_from_at_all_its_positions(tiny):
    model, tokenizer = tiny
    result = explain(model, tokenizer, "Mr. B", continuation="olton was", verify=2)
    (entry,) = result.diagnostics["verified"]
    ids = tokenizer("Mr. Bolton was", return_tensors="pt").input_ids
    start = len(tokenizer("Mr. B").input_ids)
    readout = readouts.continuation(start, ids[0, start:].tolist(), "olton was")
    effect = knockout(capture(model, input_ids=ids), readout)
    assert entry["knockout"] == pytest.approx(effect.scores[entry["sources"]].tolist(), abs=1e-4 * abs(effect.value))


def test_a_page_measures_unasked_what_is_quick(tiny, monkeypatch):
    monkeypatch.setattr(verifying, "SECONDS", 1e6)
    first, *others = explain(*tiny, "Mr. B", views=True)
    assert first.diagnostics["verified"][0]["position"] == first.target.position
    row = first.target.position
    assert all("verified" in one.diagnostics for one in others if row in one.axes["target"])
    monkeypatch.setattr(verifying, "SECONDS", 0.0)
    assert not any("verified" in one.diagnostics for one in explain(*tiny, "Mr. B", views=True))
    assert "verified" not in explain(*tiny, "Mr. B").diagnostics
    monkeypatch.setattr(verifying, "SECONDS", 1e6)
    assert not any("verified" in one.diagnostics for one in explain(*tiny, "Mr. B", views=True, verify=0))


def test_what_cannot_be_measured_is_refused_where_it_is_asked_for():
    headless = stock_model("mamba").backbone
    with pytest.raises(InputError, match="this model has no head, so there is no logit"):
        explain(headless, None, {"input_ids": IDS}, verify=2)
    assert "verified" not in explain(headless, None, {"input_ids": IDS}, views=True)[0].diagnostics
    model = small("vmamba", torch.float32)
    pixels = torch.randn(1, 2, 64, 64, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match="stages have tokens of their own"):
        explain(model, None, {"pixel_values": pixels}, verify=2)


@pytest.mark.parametrize("wrong", [-1, True])
def test_how_many_must_be_a_number_of_sources(wrong):
    with pytest.raises(InputError, match="verify"):
        explain(stock_model("mamba"), None, {"input_ids": IDS}, verify=wrong)


@pytest.mark.parametrize("make", [vit, vim])
def test_patches_are_removed_too(make):
    model = make()
    result = explain(model, None, astronaut(), method="gradient-x-input", verify=4)
    (entry,) = result.diagnostics["verified"]
    assert entry["position"] == result.target.position
    trace = capture(model, pixel_values=read_picture(astronaut(), model).pixel_values)
    readout = readouts.class_(int(trace.logits[0].argmax()), positions=[result.target.position])
    drops = occlusion(trace, readout).scores
    drops = [None] * (len(result.tokens) - len(drops)) + drops.tolist()  # a ViT's class token is no embedded patch
    assert len(entry["sources"]) == 4
    for source, found in zip(entry["sources"], entry["occlusion"], strict=True):
        assert found == (drops[source] if drops[source] is None else pytest.approx(drops[source], abs=1e-4))


def test_words_have_no_measurements_of_tokens(verified):
    assert "verified" not in verified.words().diagnostics
    assert "seconds_verified" not in verified.words().diagnostics


def test_it_is_saved_and_a_damaged_one_is_refused(verified, tmp_path):
    file = tmp_path / "result.safetensors"
    verified.save(file)
    assert Attribution.load(file).diagnostics["verified"] == json.loads(json.dumps(verified.diagnostics["verified"]))
    (entry,) = verified.diagnostics["verified"]
    for changed in ({"sources": [900] * 4}, {"position": 900}, {"knockout": [1.0]}, {"occlusion": ["a"] * 4}):
        damaged = {**verified.diagnostics, "verified": [{**entry, **changed}]}
        dataclasses.replace(verified, diagnostics=damaged).save(file)
        with pytest.raises(CheckpointError, match="could not be read as a saved attribution"):
            Attribution.load(file)
