"""What a layer map says of models whose structure is known, and that it fits a terminal."""

import pytest
import torch
import transformers
from torch import nn

from custom_hybrid import CustomAttention, CustomBlock, CustomMLP, CustomStateMixer, FourierMixer, custom_hybrid
from mambascope.cli.layer_lines import as_json, lines
from mambascope.trace import capture
from mambascope.trace.layer_map import layer_map, runs
from models import CONFIGS, TRANSFORMERS, stock_model, stock_transformer, transformer_inputs

IDS = torch.arange(1, 12)[None]


def said(trace):
    found = list(lines(layer_map(trace), trace.missing))
    assert max(map(len, found)) <= 80
    assert all(line == line.rstrip() for line in found)
    return " ".join(" ".join(found).split())


def test_numbers_in_order_are_joined():
    assert runs([0, 1, 2, 4, 6, 7]) == "0-2, 4, 6-7"
    assert runs([3]) == "3"


@pytest.mark.parametrize(
    ("family", "options", "words"),
    [
        ("mamba", {}, "layers 0-1 scan MambaMixer, 24 channels, state 3, convolution 4"),
        ("mamba2", {}, "layers 0-1 scan Mamba2Mixer, 4 heads of 6, 2 groups, state 5, convolution 4"),
        ("falcon_mamba", {"num_hidden_layers": 1}, "layer 0 scan FalconMambaMixer, 24 channels, state 3, convolution"),
        ("llama", {}, "layers 0-1 attention LlamaAttention, 4 heads of 6, 2 groups then LlamaMLP"),
        ("mistral", {}, "layers 0-1 attention MistralAttention, 4 heads of 6, 2 groups, window 8 then MistralMLP"),
        ("gpt_neox", {}, "layers 0-1 attention GPTNeoXAttention, 3 heads of 4 beside GPTNeoXMLP"),
        ("gpt_neox", {"use_parallel_residual": False}, "3 heads of 4 then GPTNeoXMLP"),
        ("vit", {}, "layers 0-1 attention ViTAttention, 3 heads of 4 then"),
    ],
)
def test_a_stock_model_is_told_in_a_line_for_equal_layers(family, options, words):
    if family in CONFIGS:
        trace = capture(stock_model(family, **options), input_ids=IDS)
    else:
        trace = capture(stock_transformer(family, **options), **transformer_inputs(family))
    assert words in said(trace)
    assert (family in CONFIGS) or (family in TRANSFORMERS)


def test_layers_that_differ_are_told_apart_and_numbered():
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=5, num_attention_heads=4,
        num_key_value_heads=4, sliding_window=3, use_sliding_window=True,
        layer_types=["full_attention", "sliding_attention"] * 2 + ["full_attention"],
    )  # fmt: skip
    trace = capture(transformers.Qwen2ForCausalLM(config), input_ids=IDS)
    found = said(trace)
    assert "layers 0, 2, 4 attention Qwen2Attention, 4 heads of 4 then Qwen2MLP" in found
    assert "layers 1, 3 attention Qwen2Attention, 4 heads of 4, window 3 then Qwen2MLP" in found


def test_a_hybrid_with_everything_that_can_be_told():
    shared = CustomAttention()
    blocks = [CustomBlock(CustomStateMixer()), CustomBlock(shared), CustomBlock(CustomAttention()), CustomMLP()]
    model = custom_hybrid(*blocks, CustomBlock(FourierMixer()), CustomBlock(CustomAttention(), inline=False))
    last = model.layers[5].mixer
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):  # tied weights, as Zamba's shared blocks have them
        setattr(last, name, getattr(model.layers[1].mixer, name))
    trace = capture(model, partial=True, x=torch.randn(1, 9, 12, dtype=torch.float64))
    found = said(trace)
    assert (
        "layer 0 scan CustomStateMixer, 4 heads of 6, 2 groups, state 5, convolution 4 read by its structure" in found
    )
    assert "layers 1-2 attention CustomAttention" in found
    assert "shares weights with layer 1" in found
    assert "no mixer Linear, Linear: layers.3" in found
    assert "not read layers.4.mixer (FourierMixer): its own code" in found
    facts = as_json(layer_map(trace))
    assert [entry["layers"] for entry in facts["layer_map"]] == [[0], [1, 2], [3]]
    assert facts["layer_map"][2]["shared_with"] == 1
    assert facts["layer_map"][0]["mixers"][0]["found"].startswith("it calls mamba2_chunk_scan")
    assert facts["layers_without_mixer"] == [{"names": ["layers.3"], "holds": "Linear, Linear"}]


def test_experts_are_counted():
    config = transformers.MixtralConfig(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    model = transformers.MixtralForCausalLM(config)
    assert "MixtralSparseMoeBlock of 4 experts, 2 for each token" in said(capture(model, input_ids=IDS))


def test_a_block_that_scales_its_mixer_is_said_not_to_be_known():
    class Scaled(CustomBlock):
        def forward(self, hidden_states):
            return hidden_states + 0.5 * self.mixer(self.norm_1(hidden_states))[0]

    trace = capture(custom_hybrid(Scaled(CustomAttention())), x=torch.randn(1, 9, 12, dtype=torch.float64))
    assert "changes the stream in a way that is not known here" in said(trace)
    assert isinstance(trace.model, nn.Module)
