"""The gallery of heads: its maps are the layers' own, its labels those of `heads`, and a page has it only if quick."""

import dataclasses

import pytest
import torch

import mambascope
from hybrids import hybrid_model
from mambascope import capture, head_gallery
from mambascope.errors import InputError
from mambascope.explanation import gallery as made
from mambascope.explanation.gallery import quick_gallery
from mambascope.methods import hidden_attention
from mambascope.theory import gallery as kept
from mambascope.theory.heads import heads
from mambascope.theory.probe_texts import TEXT, probe_texts
from models import stock_model
from picture_checkpoints import vim
from small_tokenizers import byte_level

WORDS = "Mary, the store."


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level()


def reader(family="mamba2", **options):
    return stock_model(family, vocab_size=300, **options)


def shares(model, ids, layer):
    maps = hidden_attention(capture(model, input_ids=ids), layer)[0].abs().double()
    return (maps / maps.sum(dim=-1, keepdim=True)).float()


def test_maps_are_the_layers_own_and_labels_those_of_the_command(tokenizer):
    model = reader()
    found = head_gallery(model, tokenizer, WORDS)
    ids = tokenizer(WORDS, return_tensors="pt")["input_ids"]
    assert found.tokens == mambascope.explain(model, tokenizer, WORDS, method="latim", progress=False).tokens
    probes = probe_texts(model, tokenizer)
    assert found.probes.read == TEXT
    alone = heads(model, probes.rows, probes.ids, probes.separators)
    assert [head for one in found.mixers for head in one.heads] == alone
    assert [(one.layer, one.channels) for one in found.mixers] == [(0, None), (1, None)]
    for one in found.mixers:
        torch.testing.assert_close(one.maps, shares(model, ids, one.layer))


def test_channels_are_taken_together(tokenizer):
    model = reader("mamba")
    found = head_gallery(model, tokenizer, WORDS)
    for one in found.mixers:
        assert len(one.heads) == len(one.maps) == 16
        assert sum(one.channels) == 24
        assert [head.distance for head in one.heads] == pytest.approx(
            sorted(head.distance for head in one.heads), abs=0.5
        ), "a group's distance is that of its map, whose weight is that of its strongest channels"
        torch.testing.assert_close(one.maps.sum(dim=-1), torch.ones(16, len(found.tokens)))


def test_mixers_side_by_side_have_a_gallery_each():
    model = hybrid_model("falcon_h1")
    found = head_gallery(model, None, {"input_ids": torch.tensor([[3, 4, 5, 6, 3, 4]])})
    assert [(one.layer, one.kind) for one in found.mixers][:2] == [(0, "scan"), (0, "attention")]
    assert found.tokens == ("0", "1", "2", "3", "4", "5")
    assert found.probes.read is None


@pytest.mark.parametrize(("length", "numbers", "side"), [(60, 2**20, 60), (60, 1000, 48), (130, 2**20, 48)])
def test_maps_of_longer_texts_are_small(length, numbers, side, monkeypatch):
    """Each cell is the largest share of its area: the tokens from ⌊k·L/48⌋ to ⌈(k+1)·L/48⌉."""
    monkeypatch.setattr(kept, "NUMBERS", numbers)
    model, ids = stock_model("mamba2"), torch.randint(1, 50, (1, length), generator=torch.Generator().manual_seed(1))
    (first, _) = head_gallery(model, None, {"input_ids": ids}).mixers
    assert first.maps.shape == (4, side, side)
    whole = shares(model, ids, 0)
    for row, column in ((0, 0), (side // 2, 3), (side - 1, side - 2), (side - 1, side - 1)):
        places = [slice(at * length // side, -(-(at + 1) * length // side)) for at in (row, column)]
        torch.testing.assert_close(first.maps[:, row, column], whole[:, places[0], places[1]].amax(dim=(1, 2)))


@pytest.mark.parametrize("more", [{"continuation": " the"}, {"generate": 2}])
def test_what_follows_the_text_belongs_to_it(tokenizer, more):
    model = reader()
    result = mambascope.explain(model, tokenizer, WORDS, progress=False, **more)
    assert head_gallery(model, tokenizer, WORDS, **more).tokens == result.tokens
    assert len(result.tokens) > len(head_gallery(model, tokenizer, WORDS).tokens)


def test_what_has_no_gallery(tokenizer):
    ids = torch.tensor([[3, 4, 5, 6, 7]])
    for model, processor, source, says in (
        (vim(), None, "cat.png", "reads pictures; the gallery shows what heads do with texts"),
        (reader(), tokenizer, "", "the text is empty"),
        (reader(), None, {"input_ids": torch.cat([ids, ids])}, "the gallery shows one text; these inputs hold 2"),
        (reader(), None, {"input_ids": ids, "attention_mask": ids // 4}, "shows a text without padding"),
    ):
        with pytest.raises(InputError, match=says):
            head_gallery(model, processor, source)
        assert quick_gallery(model, processor, source) is None


def test_a_page_has_it_unasked_only_if_it_is_quick_and_small(tokenizer, monkeypatch):
    model = reader()
    assert quick_gallery(model, tokenizer, WORDS).tokens == head_gallery(model, tokenizer, WORDS).tokens
    for limit, value in (("SECONDS", 0.0), ("MAPS", 7)):
        with monkeypatch.context() as patch:
            patch.setattr(made, limit, value)
            assert quick_gallery(model, tokenizer, WORDS) is None
    with monkeypatch.context() as patch:
        patch.setattr(made, "TOKENS", 3)
        patch.setattr(made, "capture", None)  # a long text is not even run
        assert quick_gallery(model, tokenizer, WORDS) is None


def test_the_estimate_grows_with_the_channels_and_their_states(tokenizer):
    """1,536 channels of 24 layers are no matter of seconds; so many heads are, if a pass takes no time."""
    subject = made.read_subject(reader("mamba"), tokenizer, WORDS)
    probes = probe_texts(subject.model, tokenizer)
    trace = dataclasses.replace(subject.trace(), seconds=0.0)
    subject._trace = trace
    assert made._is_quick(subject, probes)
    scan = trace.operator(0).scan
    block, many = trace.layers[0], 24 * 1536 // scan.maps
    subject._trace = dataclasses.replace(trace, layers=(block,) * many)
    assert not made._is_quick(subject, probes)
