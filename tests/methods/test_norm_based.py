"""Norm-based attention against the paper's formula, written out over heads from the stock model's own weights."""

import pytest
import torch

from mambascope import InputError, UnsupportedModelError, capture
from mambascope.methods import latim
from mambascope.methods.norm_based import norm_based, norm_based_row
from models import TRANSFORMERS, padded_batch, stock_model, stock_transformer, transformer_inputs


def value_and_output(model, family, layer):
    """Return W_V (E, E_in), b_V, W_O as nn.Linear would hold them, from the modules of two layouts, head by head."""
    if family == "bert":
        attention = model.bert.encoder.layer[layer].attention
        return attention.self.value, attention.output.dense
    attention = model.vit.layers[layer].attention
    return attention.v_proj, attention.o_proj


@pytest.mark.parametrize("family", ["bert", "vit"])
@pytest.mark.parametrize("layer", [0, 1])
def test_it_is_the_papers_formula(family, layer):
    """Σ_h p^h_ij ((x_j W_V^h + b_V^h) W_O^h), one head after the other, its norm over the model's width."""
    model, inputs = stock_transformer(family, torch.float64), transformer_inputs(family, torch.float64)
    trace = capture(model, **inputs)
    value, out = value_and_output(model, family, layer)
    captured = trace.branches[layer].captured
    p, x = captured.scan["p"], captured.x
    total = torch.zeros(3, x.shape[1], x.shape[1], 12, dtype=torch.float64)
    for head in range(3):
        part = slice(4 * head, 4 * head + 4)
        f = (x @ value.weight[part].t() + value.bias[part]) @ out.weight[:, part].t()
        total += p[:, head, :, :, None] * f[:, None]
    expected = total.norm(dim=-1).detach()
    if "attention_mask" in inputs:  # padding asks nothing
        expected *= inputs["attention_mask"][:, :, None]
    maps = norm_based(trace, layer)
    torch.testing.assert_close(maps, expected, rtol=1e-12, atol=1e-13)
    for target in (0, 5, 6):  # no padding in any text
        torch.testing.assert_close(norm_based_row(trace, layer, target), expected[:, target], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_without_a_value_bias_it_is_latim(family):
    """What they differ by is the bias of the values, wherever a family keeps it."""
    model = stock_transformer(family)
    inputs = transformer_inputs(family)
    with_bias = capture(model, **inputs)
    has_bias = with_bias.operator(1).b_x is not None
    assert torch.allclose(norm_based(with_bias, 1), latim(with_bias, 1), atol=1e-5) is not has_bias
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    trace = capture(model, **inputs)
    maps = norm_based(trace, 1)
    torch.testing.assert_close(maps, latim(trace, 1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(norm_based(trace, -1), maps)
    for target in (0, 5, 6):  # no padding in any text
        torch.testing.assert_close(norm_based_row(trace, 1, target), maps[:, target], rtol=1e-4, atol=1e-5)


def test_what_cannot_be_asked_is_refused_in_one_sentence():
    scans = capture(stock_model("mamba"), input_ids=padded_batch(5, 1, "left")[0])
    for call in (lambda: norm_based(scans, 0), lambda: norm_based_row(scans, 0, 1)):
        with pytest.raises(UnsupportedModelError, match=r"layer 0 \(.*MambaMixer\) is no softmax attention.*latim"):
            call()
    trace = capture(stock_transformer("bert"), **transformer_inputs("bert"))
    with pytest.raises(InputError, match="target 11 is not a position"):
        norm_based_row(trace, 0, 11)
    with pytest.raises(InputError, match="layer 2 does not exist"):
        norm_based(trace, 2)
