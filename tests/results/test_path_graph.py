"""Paths from tokens over layers to the number explained: every edge is what was computed, and edges add up."""

from dataclasses import replace

import pytest
import torch

import mambascope
from hybrids import hybrid_model
from made_results import make
from mambascope import capture, explain, methods, readouts
from mambascope.errors import InputError
from mambascope.results.path_graph import BESIDE, path_graph
from models import stock_model, stock_transformer
from picture_checkpoints import vim
from small_tokenizers import byte_level

IDS = torch.tensor([[3, 4, 5, 6, 7, 8]])
MODELS = {
    "mamba": (lambda: stock_model("mamba"), ("scan", "scan")),
    "gpt2": (lambda: stock_transformer("gpt2"), ("attention", "attention")),
    "jamba": (lambda: hybrid_model("jamba"), ("scan", "attention", "scan")),
    "zamba": (lambda: hybrid_model("zamba"), ("scan", "attention", "scan", "attention", "scan")),
    "qwen3_next": (lambda: hybrid_model("qwen3_next"), None),
    "one layer": (lambda: stock_model("mamba", num_hidden_layers=1), ("scan",)),
}


def result_of(model, **asked):
    return explain(model, None, {"input_ids": IDS}, method="alti-logit", progress=False, **asked)


@pytest.mark.parametrize("name", MODELS)
def test_edges_are_the_shares_and_add_up(name):
    make_model, kinds = MODELS[name]
    model = make_model()
    result = result_of(model, target=11, foil=12)
    graph = path_graph(result)
    found = methods.alti_logit(capture(model, input_ids=IDS), readouts.token(5, 11, 12))
    of_kind = {
        kind: [k for k, one in enumerate(graph.nodes) if one.kind == kind] for kind in ("token", "layer", "term")
    }
    last = len(graph.nodes) - 1
    number = graph.nodes[last]
    weights = torch.zeros(len(of_kind["layer"]), IDS.shape[1], dtype=torch.float64)
    for edge in graph.edges:
        if edge.target != last:
            weights[of_kind["layer"].index(edge.target), edge.source] = edge.weight
    torch.testing.assert_close(weights, found.scores[0].double(), rtol=1e-4, atol=1e-5)
    for k in of_kind["layer"]:
        assert graph.into(k) == pytest.approx(graph.nodes[k].value, abs=1e-12)
    out = {edge.source: edge.weight for edge in graph.edges if edge.target == last}
    assert out == {k: graph.nodes[k].value for k in (*of_kind["layer"], *of_kind["term"])}
    sizes = sum(abs(edge.weight) for edge in graph.edges if edge.target != last)
    sizes += sum(abs(graph.nodes[k].value) for k in of_kind["term"])
    assert abs(graph.into(last) - number.value) <= graph.conservation_error * sizes * (1 + 1e-9)
    assert graph.conservation_error <= result.diagnostics["conservation_error"] + 1e-6 < 1e-5
    assert number.value == pytest.approx(float(found.value[0]), rel=1e-4)
    assert number.label == result.target.asked
    assert [graph.nodes[k].mixer for k in of_kind["term"]] == list(BESIDE)
    mixers = tuple(graph.nodes[k].mixer for k in of_kind["layer"])
    assert mixers == (kinds or result.model.kinds)
    assert [graph.nodes[k].place for k in of_kind["layer"]] == list(range(len(mixers)))
    assert [graph.nodes[k].value for k in of_kind["token"]] == pytest.approx(result.row().tolist(), abs=1e-5)


def test_each_target_has_a_path_of_its_own():
    result = result_of(stock_model("mamba"), positions=[2, 4])
    for target in result.targets:
        graph = path_graph(result, target.position)
        assert graph.target is target
        assert graph.nodes[-1].value == pytest.approx(target.value, rel=1e-5)
        assert max(edge.source for edge in graph.edges if graph.nodes[edge.source].kind == "token") == target.position
        assert graph.conservation_error < 1e-5
    assert path_graph(result) == path_graph(result, 4)
    with pytest.raises(InputError, match="position 3 is not in this result"):
        path_graph(result, 3)


def test_words_have_paths_that_still_add_up():
    model, tokenizer = stock_model("mamba", vocab_size=300), byte_level(merges=False)
    result = explain(model, tokenizer, "some more words", method="alti-logit", progress=False)
    graph = path_graph(result.words())
    assert [one.label for one in graph.nodes if one.kind == "token"] == ["some", " more", " words"]
    assert graph.into(len(graph.nodes) - 1) == pytest.approx(result.target.value, rel=1e-5)
    merged = result.words(sources="max")
    for measured in (result.diagnostics["conservation_error"], float("nan"), None, "0.1"):
        other = replace(merged, diagnostics={**merged.diagnostics, "conservation_error": measured})
        with pytest.raises(InputError, match="the parts of this result miss the number explained by"):
            path_graph(other)


def test_a_picture_has_paths_from_its_patches():
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    result = explain(vim(), None, {"pixel_values": pixels}, method="alti-logit", progress=False)
    graph = path_graph(result)
    assert [one.label for one in graph.nodes[:17]] == list(result.tokens)
    assert graph.into(len(graph.nodes) - 1) == pytest.approx(result.target.value, rel=1e-5)


def test_what_has_no_parts_per_layer_is_refused_by_name():
    model = stock_model("mamba", num_hidden_layers=1)
    for method in ("mamba-lrp", "latim", "rollout"):
        result = explain(model, None, {"input_ids": IDS}, method=method, progress=False)
        with pytest.raises(InputError, match=f"{method} has no parts per layer .* use alti-logit"):
            path_graph(result)
    with pytest.raises(InputError, match="alti-logit has no parts per layer"):
        path_graph(mambascope.Attribution.mean([result_of(model), result_of(model)]))


def test_numbers_that_are_not_finite_have_no_path():
    result = result_of(stock_model("mamba"))
    scores = result.scores.clone()
    scores[0, 0, 1] = float("nan")
    with pytest.raises(InputError, match="hold values that are not finite numbers, so they have no path"):
        path_graph(replace(result, scores=scores))


@pytest.mark.parametrize("evidence", [{"terms": None}, {"terms": {"residual": 1.0}}, {"value": "x"}, {"value": True}])
def test_evidence_of_another_kind_is_none(evidence):
    terms = {"terms": dict.fromkeys(BESIDE, 0.0), "value": 0.0}
    result = replace(make(), over_layers="sum", diagnostics=terms | evidence)
    with pytest.raises(InputError, match="latim has no parts per layer"):
        path_graph(result)
