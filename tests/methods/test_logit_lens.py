"""The logit lens, held to the final norm and head applied to the hidden states that transformers returns."""

import pytest
import torch

from hybrids import HYBRIDS, hybrid_model
from mambascope import capture
from mambascope.errors import InputError, UnsupportedModelError
from mambascope.methods import logit_lens
from models import FAMILIES, TRANSFORMERS, padded_batch, stock_model, stock_transformer

LENGTH = 9
IDS, _ = padded_batch(LENGTH, 1, "left", seed=3)
DECODERS = [name for name in TRANSFORMERS if name not in ("bert", "vit")]


def small(family, dtype=torch.float32):
    if family in HYBRIDS:
        return hybrid_model(family, dtype)
    return stock_model(family, dtype) if family in FAMILIES else stock_transformer(family, dtype)


@pytest.mark.product
@pytest.mark.parametrize("family", [*FAMILIES, *DECODERS, *HYBRIDS])
def test_the_stream_after_every_layer_is_read_by_the_models_own_head(family):
    """The last is the model's own prediction; what the first reads are the embeddings."""
    trace = capture(small(family), input_ids=IDS)
    lens = logit_lens(trace, [2, -1])
    assert lens.error < 1e-5
    assert lens.logits.shape[:2] == (2, len(trace.updates) + 1)
    assert lens.layers[-1] is None
    assert torch.allclose(lens.logits[:, -1], trace.logits[0, [2, LENGTH - 1]], rtol=1e-4, atol=1e-4)
    other = IDS.clone()
    other[0, 0] = (other[0, 0] + 1) % 20
    again = logit_lens(capture(small(family), input_ids=other), [2, -1])
    assert torch.allclose(again.logits[:, 0], lens.logits[:, 0], atol=1e-5), "embeddings know no other token"
    assert not torch.allclose(again.logits[1, -1], lens.logits[1, -1], atol=1e-5)


@pytest.mark.parametrize("family", ["mamba", "mamba2", "llama"])
def test_it_is_the_norm_and_the_head_of_the_hidden_states(family):
    model = small(family, torch.float64)
    trace = capture(model, input_ids=IDS)
    base = model.model if family == "llama" else model.backbone
    norm, entered = base.norm if family == "llama" else base.norm_f, []
    for layer in base.layers:
        layer.register_forward_pre_hook(
            lambda _, args, kwargs: entered.append((args[0] if args else kwargs["hidden_states"]).detach()),
            with_kwargs=True,
        )
    with torch.no_grad():
        model(IDS)
        expected = [model.lm_head(norm(stream[0, 4]).to(model.lm_head.weight.dtype)) for stream in entered]
    lens = logit_lens(trace, 4)
    for found, logits in zip(lens.logits[0], expected, strict=False):
        assert torch.allclose(found.double(), logits.double(), rtol=1e-5, atol=1e-5), "norms compute in float32"
    assert len(lens.logits[0]) == len(expected) + 1


def test_what_it_cannot_read_is_refused():
    with pytest.raises(InputError, match="does not return"):
        logit_lens(capture(stock_model("mamba").backbone, input_ids=IDS))
    with pytest.raises((InputError, UnsupportedModelError), match=r"position|normalises|norm"):
        logit_lens(capture(stock_transformer("bert"), input_ids=IDS))
    with pytest.raises(InputError, match="one text at a time"):
        logit_lens(capture(stock_model("mamba"), input_ids=IDS.expand(2, -1)))
    with pytest.raises(InputError, match="is not a position"):
        logit_lens(capture(stock_model("mamba"), input_ids=IDS), LENGTH)
