"""What heads do: right where heads are known by construction, and nothing where weights are random."""

import pytest
import torch

from hybrids import hybrid_model
from mambascope import bundled_models, load
from mambascope.errors import InputError
from mambascope.models.constructed import build
from mambascope.theory.heads import EARLIEST, _share_and_lift, heads, repeated_rows
from models import stock_model, stock_transformer

#: The label of each head of each layer, by mechanism.
PLANTED = {
    "first-softmax": [["first"]],
    "first-mamba2": [["first"]],
    "first-delta": [["first"]],
    "induction-softmax": [["previous"], ["induction"]],
    "induction-mamba2": [[None], ["induction"]],  # the convolution of the first layer brings the token before
    "induction-delta": [[None], ["induction"]],
    "copy-softmax": [[None]],  # three places back: none of the labels
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_heads_are_found(name):
    model = build(f"constructed:{name}")
    found = heads(model, repeated_rows(range(model.config.vocab_size), 8, 16))
    for layer, labels in enumerate(PLANTED[name]):
        assert [head.label for head in found if head.layer == layer] == labels


#: RWKV is left out: its weight of the target itself is a number of its own, and where it is small by chance, a channel
#: looks at the token before, as its label says.
RANDOM = {
    "mamba": stock_model,
    "mamba2": stock_model,
    "gpt2": stock_transformer,
    "llama": stock_transformer,
    "qwen3_next": hybrid_model,
    "falcon_h1": hybrid_model,
}


@pytest.mark.parametrize("family", RANDOM)
@pytest.mark.parametrize("seed", range(3))
def test_heads_of_random_weights_have_no_label(family, seed):
    model = RANDOM[family](family, seed=seed)
    rows = repeated_rows(range(1, 50), 10, 12)
    text = torch.randint(1, 50, (1, 20), generator=torch.Generator().manual_seed(seed))
    found = heads(model, rows, text, text[0] % 5 == 0)
    assert [head.label for head in found] == [None] * len(found)
    assert all(set(head.shares) == {"previous", "first", "same", "induction", "separator"} for head in found)


def looking_at(tokens, size=12):
    """GPT-2 with one layer and one head, which looks at some tokens wherever they are."""
    model = stock_transformer("gpt2", vocab_size=size, n_embd=size, n_layer=1, n_head=1)
    with torch.no_grad():
        model.transformer.wpe.weight.zero_()
        model.transformer.wte.weight.copy_(torch.eye(size))
        block = model.transformer.h[0]
        block.ln_1.weight.fill_(1.0)
        block.ln_1.bias.zero_()
        block.attn.c_attn.weight[:, : 2 * size] = 0.0
        block.attn.c_attn.bias[: 2 * size] = 0.0
        block.attn.c_attn.bias[0] = 1.0  # every query asks for the first number of the keys
        block.attn.c_attn.weight[list(tokens), size] = 6.0
    return model


@pytest.mark.parametrize(
    ("tokens", "text", "label"),
    [
        ((3, 4), (0, 1, 2, 5, 3, 0, 1, 4, 2, 5, 3, 6, 7, 0, 4, 1), "separator"),
        ((3,), (0, 1, 2, 5, 3, 0, 1, 4, 2, 5, 3, 6, 7, 0, 4, 1), None),
        ((3, 4), (0, 1, 2, 5, 3, 0, 1, 4, 2, 5, 3, 6, 7, 0, 2, 1), None),  # the other mark comes once
    ],
)
def test_a_separator_head_looks_at_two_marks_that_come_twice(tokens, text, label):
    ids = torch.tensor([text])
    (head,) = heads(looking_at(tokens), repeated_rows(range(12), 12, 2), ids, (ids[0] == 3) | (ids[0] == 4))
    assert head.shares["separator"] > 0.3
    assert head.label == label


def test_the_second_layer_of_a_bundled_model_does_induction():
    assert "tiny-mamba2" in bundled_models()
    model, _ = load("tiny-mamba2")
    found = heads(model, repeated_rows(range(300, model.config.vocab_size), 24, 6))
    layers = {head.layer for head in found if head.label == "induction"}
    assert layers == {1}
    assert {head.label for head in found} == {None, "induction"}


def test_a_head_that_only_forgets_has_no_lift():
    length = 20
    lags = torch.arange(length)[:, None] - torch.arange(length)
    for decay in (0.1, 0.5, 0.9, 1.0):
        maps = torch.where(lags >= 0, decay ** lags.clamp(min=0).double(), 0.0)[None, None]
        maps = maps / maps.sum(dim=-1, keepdim=True)
        for pairs in (
            lags == 1,
            (torch.arange(length) == 0).expand(length, -1) & (lags > 0),
            (lags > 0) & (lags % 6 == 5),
        ):
            asked = pairs.clone()
            asked[:EARLIEST] = False
            assert float(_share_and_lift(maps, asked[None])[1]) < 1.2, "rows of different lengths are averaged"


def test_rows_repeat_and_draw_each_token_once():
    rows = repeated_rows(range(5, 30), 12, 3)
    assert torch.equal(rows[:, :12], rows[:, 12:])
    assert all(len(set(row[:12].tolist())) == 12 for row in rows)
    assert not torch.equal(rows, repeated_rows(range(5, 30), 12, 3, seed=1))
    assert repeated_rows([3, 4], 5, 1).shape == (1, 10)
    with pytest.raises(InputError, match="need 2 tokens or more to draw from, found 1"):
        repeated_rows([3], 5, 1)
