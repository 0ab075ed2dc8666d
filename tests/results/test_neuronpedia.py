"""Answers as Neuronpedia's attribution graphs: valid by its schema, fit for its site, and the same in files."""

import copy
import json
from dataclasses import replace

import jsonschema
import pytest
import torch

from mambascope import explain
from mambascope.errors import InputError
from mambascope.results.path_graph import path_graph
from models import stock_model
from neuronpedia_schema import SCHEMA, for_the_site
from picture_checkpoints import vim
from show_results import HOSTILE
from small_tokenizers import byte_level

TEXT = "some words"


@pytest.fixture(scope="module")
def loaded():
    return stock_model("mamba", vocab_size=300), byte_level(merges=False)


def parts_of(loaded, **asked):
    return explain(*loaded, TEXT, method="alti-logit", progress=False, **asked)


def hostile(loaded):
    result = parts_of(loaded)
    return replace(result, tokens=HOSTILE[: len(result.tokens)])


ANSWERS = {
    "a token": parts_of,
    "an unlikely token": lambda loaded: parts_of(loaded, target=7),
    "a contrast": lambda loaded: parts_of(loaded, foil=7),
    "a continuation": lambda loaded: parts_of(loaded, continuation="ab"),
    "generated text": lambda loaded: parts_of(loaded, generate=2),
    "words": lambda loaded: parts_of(loaded).words(),
    "one layer": lambda _: parts_of((stock_model("mamba", vocab_size=300, num_hidden_layers=1), byte_level())),
    "a picture": lambda _: explain(
        vim(), None, {"pixel_values": torch.ones(1, 3, 32, 32)}, method="alti-logit", progress=False
    ),
    "any tokens": hostile,
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_every_answer_is_a_graph_that_neuronpedia_takes(answer, loaded, tmp_path):
    result = ANSWERS[answer](loaded)
    graph = result.to_neuronpedia()
    jsonschema.validate(graph, SCHEMA, cls=jsonschema.Draft7Validator)
    for_the_site(graph)
    path = result.save(tmp_path / "answer.graph.json")
    assert json.loads(path.read_text(encoding="utf-8")) == json.loads(json.dumps(graph))
    logits = [node for node in graph["nodes"] if node["feature_type"] == "logit"]
    into = sum(link["weight"] for link in graph["links"] if link["target"] == logits[0]["node_id"])
    assert into == pytest.approx(graph["metadata"]["generation_settings"]["value"], rel=1e-5)
    assert len(logits) == 1
    assert len(graph["nodes"]) == len(path_graph(result).nodes)


@pytest.mark.parametrize(("part", "entry"), [("nodes", "clerp"), ("nodes", "layer"), ("links", "weight")])
def test_the_schema_misses_what_is_left_out(part, entry, loaded):
    graph = copy.deepcopy(parts_of(loaded).to_neuronpedia())
    del graph[part][3][entry]
    with pytest.raises(jsonschema.ValidationError, match=f"'{entry}' is a required property"):
        jsonschema.validate(graph, SCHEMA)


def test_nodes_say_what_they_are(loaded):
    result = parts_of(loaded)
    nodes = result.to_neuronpedia()["nodes"]
    labels = {node["feature_type"]: node["clerp"] for node in nodes}
    token, probability = result.target.next_tokens[0]
    assert labels["scan"].startswith("layer 1, scan: adds ")
    assert labels["bias"].startswith("biases of the mixers: adds ")
    assert labels["logit"] == f"logit of {token!r} = {result.target.value:.4g} (p={probability:.3f})"
    assert [node["clerp"] for node in nodes[: len(TEXT)]] == list(TEXT)
    assert [node["ctx_idx"] for node in nodes[: len(TEXT)]] == list(range(len(TEXT)))
    unlikely = parts_of(loaded, target=7).to_neuronpedia()["nodes"][-1]
    assert unlikely["clerp"].endswith("(p=?)")
    assert "token_prob" not in unlikely


def test_graphs_of_other_questions_have_other_names(loaded):
    several = parts_of(loaded, positions=[3, 5])
    graphs = [parts_of(loaded), parts_of(loaded, target=7), several]
    named = [one.to_neuronpedia()["metadata"]["slug"] for one in graphs]
    named += [several.to_neuronpedia(3)["metadata"]["slug"]]
    assert len(set(named)) == 4
    assert parts_of(loaded).to_neuronpedia()["metadata"]["slug"] == named[0]


def test_a_result_without_parts_leaves_the_file_as_it_was(loaded, tmp_path):
    path = tmp_path / "answer.graph.json"
    path.write_text("an older graph")
    with pytest.raises(InputError, match="mamba-lrp has no parts per layer"):
        explain(*loaded, TEXT, method="mamba-lrp", progress=False).save(path)
    assert path.read_text() == "an older graph"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
