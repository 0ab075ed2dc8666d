"""`explain` end to end on a small checkpoint: rows, maps, targets, evidence, and what it refuses."""

import numpy as np
import pytest
import torch

import mambascope
from mambascope import memory
from mambascope.characters import predicted_name
from mambascope.errors import InputError, MapTooLargeError
from mambascope.inputs.tokens import decode_token
from mambascope.methods.method import SCAN
from mambascope.trace import footprint
from rounding import assert_equal_to_rounding
from small_checkpoint import make_checkpoint

TEXT = "When Mary and John went to the store"


@pytest.fixture(scope="module", params=["mamba", "mamba2"])
def loaded(request, tmp_path_factory):
    return mambascope.load(make_checkpoint(tmp_path_factory.mktemp("checkpoint"), request.param))


MAPPED = [n for n, m in mambascope.methods.METHODS.items() if (m.map or m.whole_map) and m.reads(SCAN)]
WHOLE = [n for n, m in mambascope.methods.METHODS.items() if m.scope == "model" and m.reads(SCAN)]


@pytest.mark.parametrize("method", MAPPED)
def test_one_position_is_a_row_of_the_whole_map(loaded, method):
    whole = mambascope.explain(*loaded, TEXT, method=method, positions="all")
    count = len(whole.tokens)
    layers = 2 if mambascope.methods.METHODS[method].scope == "layer" else 1
    assert whole.scores.shape == (layers, count, count)
    assert "".join(whole.tokens) == TEXT
    for position in (0, 3, count - 1, -2):
        one = mambascope.explain(*loaded, TEXT, method=method, position=position)
        assert one.axes["target"] == (position % count,)
        scale = whole.scores.abs().max()
        assert torch.allclose(one.row(), whole.row(position % count), rtol=1e-4, atol=1e-5 * scale)
    assert whole.signed or (whole.scores >= 0).all()


def test_the_result_says_what_was_explained_and_how_exactly(loaded):
    result = mambascope.explain(*loaded, TEXT)
    model, tokenizer = loaded
    assert result.target.position == len(result.tokens) - 1
    assert result.target.token == result.tokens[-1]
    with torch.no_grad():
        ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
        probabilities = model(ids, use_cache=False).logits[0, -1].softmax(-1)
    token, share = result.target.next_tokens[0]
    before = [decode_token(tokenizer, one) for one in ids[0].tolist()]
    assert predicted_name(before, decode_token(tokenizer, int(probabilities.argmax()))) == token
    assert share == pytest.approx(float(probabilities.max()), rel=1e-3)
    assert result.model.layers == 2
    assert result.model.family == model.config.model_type
    assert 0 < result.diagnostics["reconstruction_error"] < 1e-5
    assert len(result.diagnostics["reconstruction_error_per_layer"]) == 2
    assert result.diagnostics["seconds"] > 0


def test_a_range_of_layers(loaded):
    both, last = (mambascope.explain(*loaded, TEXT, layer=slice(first, None)) for first in (0, 1))
    assert both.axes["layer"] == (0, 1)
    assert last.axes["layer"] == (1,)
    assert_equal_to_rounding(last.row(), both.row(layer=1))
    released = mambascope.explain(*loaded, TEXT, method="raw-attention", variant="reference-code")
    assert released.axes["layer"] == (1,), "the reference code begins at layer 15 of 24, here round(1.25)"
    with pytest.raises(InputError, match="no layers in 2:; this model has layers 0–1"):
        mambascope.explain(*loaded, TEXT, layer=slice(2, None))


def test_one_layer(loaded):
    both, last = mambascope.explain(*loaded, TEXT, method="latim"), mambascope.explain(*loaded, TEXT, layer=-1)
    assert last.axes["layer"] == (1,)
    assert_equal_to_rounding(last.row(), both.row(layer=1))


@pytest.mark.parametrize("method", WHOLE)
def test_a_whole_model_method_explains_the_likeliest_next_token(loaded, method):
    result = mambascope.explain(*loaded, TEXT, method=method, position=5)
    assert result.axes["target"] == (5,)
    assert result.axes["layer"] in (("all",), (0, 1))
    assert result.row().any()
    ahead, largest = result.row()[6:].abs().max(), result.row().abs().max()
    # occlusion subtracts what two passes in float32 gave; the others compute nothing there
    assert ahead <= (1e-4 * largest if method == "occlusion" else 0), "no source in the target's future"
    if mambascope.methods.METHODS[method].asks:
        assert result.target.asked == f"logit of {result.target.next_tokens[0][0]!r}"
        assert result.target.value is not None
    else:
        assert result.target.asked == ""
    assert result.diagnostics["reconstruction_error"] < 1e-5


def test_integrated_gradients_go_from_the_mean_embedding_to_the_text(loaded):
    """By autograd through the stock model, at the 50 points of the rule; from zeros the scores are others."""
    model, tokenizer = loaded
    result = mambascope.explain(*loaded, TEXT, method="integrated-gradients")
    table = model.get_input_embeddings().weight.detach()
    text = table[torch.tensor([tokenizer(TEXT)["input_ids"]])]
    nodes, weights = np.polynomial.legendre.leggauss(50)

    def integral(start):
        with torch.no_grad():
            best = int(model(inputs_embeds=text, use_cache=False).logits[0, -1].argmax())
        total = torch.zeros(text.shape[1])
        for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
            leaf = (start + float(node) * (text - start)).requires_grad_()
            (flow,) = torch.autograd.grad(model(inputs_embeds=leaf, use_cache=False).logits[0, -1, best], leaf)
            total += float(weight) * (flow * (text - start)).sum(dim=-1)[0]
        return total

    expected, from_zero = integral(table.mean(dim=0).expand_as(text)), integral(torch.zeros_like(text))
    scale = float(expected.abs().max())
    assert torch.allclose(result.row(), expected, atol=1e-3 * scale), "float32, sums of 50 gradients that partly cancel"
    assert not torch.allclose(result.row(), from_zero, atol=0.1 * scale)


def test_several_methods_share_one_forward_pass(loaded, monkeypatch):
    model, calls = loaded[0], []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    results = mambascope.explain(*loaded, TEXT, method=["latim", "hidden-attention"])
    handle.remove()
    assert calls == [1]
    assert [r.method for r in results] == ["latim", "hidden-attention"]
    alone = mambascope.explain(*loaded, TEXT, method="hidden-attention")
    assert_equal_to_rounding(results[1].scores, alone.scores)


def test_progress_counts_captured_layers_and_layers_of_every_method(loaded):
    seen = []
    mambascope.explain(
        *loaded, TEXT, method=["latim", "latim-l1"], progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(done, 6) for done in range(1, 7)]


def test_what_does_not_exist_is_refused(loaded, monkeypatch):
    for options, words in (
        ({"source": ""}, "text"),
        ({"method": "magic"}, "unknown method 'magic'; choose one of latim"),
        ({"layer": 99}, "layer 99 does not exist; this model has layers 0–1"),
        ({"position": 400}, "position 400 does not exist: the text has"),
        ({"position": -400}, "position -400 does not exist"),
    ):
        arguments = {"source": TEXT} | options
        with pytest.raises(InputError, match=words) as caught:
            mambascope.explain(*loaded, **arguments)
        assert "\n" not in str(caught.value)
    monkeypatch.setattr(footprint, "bytes_of_pass", lambda *_, **__: 0)
    monkeypatch.setattr(memory, "available_bytes", lambda device: 100)
    with pytest.raises(MapTooLargeError, match="explain one position, or shorten the text"):
        mambascope.explain(*loaded, TEXT, positions="all")


def test_a_list_of_texts_gives_a_result_for_each(loaded):
    told = []
    texts = [TEXT, "When the"]
    results = mambascope.explain(*loaded, texts, method="latim", progress=lambda *steps: told.append(steps))
    assert told == [(1, 2), (2, 2)]
    for text, result in zip(texts, results, strict=True):
        alone = mambascope.explain(*loaded, text, method="latim")
        assert "".join(result.tokens) == text
        torch.testing.assert_close(result.scores, alone.scores)
