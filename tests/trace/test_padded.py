"""Padding before a text: where the model's own code lets it change what is computed, the trace says so, and only there.

Whether it does is measured: each text by itself against the same text in a padded batch.
"""

import pytest
import torch

from hybrids import HYBRIDS, hybrid_model
from mambascope import capture
from models import CONFIGS, padded_batch, stock_model, stock_transformer

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

#: A few layers in float32 leave 1e-6 of the largest logit; what padding changes is hundreds of times more.
BOUND = 1e-4
#: They read padding as if it were text, and are refused.
REFUSED = ("rwkv", "xlstm", "recurrent_gemma")
WITHOUT_BIAS = {
    "mamba": {"use_bias": False},
    "mamba2": {"use_bias": False},
    "bamba": {"mamba_proj_bias": False},
    "granitemoehybrid": {"mamba_proj_bias": False},
    "falcon_h1": {"mamba_proj_bias": False, "projectors_bias": False},
    "nemotron_h": {"use_bias": False},
    "jamba": {"mamba_proj_bias": False},
    "zamba": {"mamba_proj_bias": False},
    "zamba2": {"add_bias_linear": False},
    "lfm2": {"conv_bias": False},
}
TEXT = ("gpt2", "gpt_neox", "bert", "llama")
CASES = [(family, {}) for family in (*CONFIGS, *TEXT, *HYBRIDS) if family not in REFUSED] + list(WITHOUT_BIAS.items())


def made(family, options):
    make = stock_model if family in CONFIGS else stock_transformer if family in TEXT else hybrid_model
    return make(family, **options)


def of_texts(model, ids, mask):
    """Return the logits of each text's own tokens."""
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask).logits
    return [row if row.ndim == 1 else row[own.bool()] for row, own in zip(logits, mask, strict=True)]


@pytest.mark.parametrize(
    ("family", "options"), CASES, ids=[f"{family}-{'no bias' if options else 'own'}" for family, options in CASES]
)
def test_a_trace_says_when_padding_before_a_text_changes_it(family, options):
    model = made(family, options)
    ids, mask = padded_batch(9, 3, "left")
    together = of_texts(model, ids, mask)
    alone = [of_texts(model, row[None, own], mask[:1, own])[0] for row, own in zip(ids, mask.bool(), strict=True)]
    moved = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(together, alone, strict=True))
    trace = capture(model, input_ids=ids, attention_mask=mask)
    assert bool(trace.caution) == (moved > BOUND), f"{moved:.1e}: {trace.caution}"
    assert ("changed by padding" in repr(trace)) == bool(trace.caution)


def test_the_reason_is_named():
    ids, mask = padded_batch(9, 3, "left")
    words = capture(stock_model("mamba2"), input_ids=ids, attention_mask=mask).caution
    assert words == (
        "padding before a text changes what this model computes for it: it reads biases in place of the padding, first "
        "in the convolution of backbone.layers.0.mixer; pad on the right, or pass the texts one by one"
    )
    model = stock_transformer("gpt2")
    words = capture(model, input_ids=ids, attention_mask=mask).caution
    assert "it counts positions from the padding on;" in words
    places = (mask.cumsum(dim=1) - 1).clamp(min=0)
    assert not capture(model, input_ids=ids, attention_mask=mask, position_ids=places).caution


@pytest.mark.parametrize("side", ["right", "none"])
def test_padding_after_a_text_changes_nothing(side):
    ids, mask = padded_batch(9, 3, side)
    assert not capture(stock_model("mamba2"), input_ids=ids, attention_mask=mask if side == "right" else None).caution
