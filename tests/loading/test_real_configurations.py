"""The published configurations of each family, with fewer layers and narrower: saved in pieces, loaded, captured.

What makes these models differ, such as tied heads, rope, windows and biases, is as their authors published it; only
sizes are small.
"""

import json

import pytest
import torch
import transformers
from safetensors.torch import save_file

from mambascope.errors import CheckpointError, UnsupportedModelError
from mambascope.loading.load import load
from mambascope.trace import capture
from rounding import assert_same_weights

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]])
LLAMA_ROPE = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
SMALL = {"num_hidden_layers": 2, "hidden_size": 24, "vocab_size": 60}
ATTENTION = SMALL | {"num_attention_heads": 6, "intermediate_size": 32}
GROUPED = ATTENTION | {"num_key_value_heads": 2}
#: By name of the model: its settings, in which the last group is made small.
PUBLISHED = {
    "state-spaces/mamba-130m-hf": {
        "model_type": "mamba", "architectures": ["MambaForCausalLM"], "conv_kernel": 4, "state_size": 16,
        "residual_in_fp32": True, "use_bias": False, "use_conv_bias": True, "rescale_prenorm_residual": False,
        "layer_norm_epsilon": 1e-05, "time_step_rank": 48, "hidden_act": "silu", "bos_token_id": 0, "eos_token_id": 0,
    } | SMALL | {"intermediate_size": 48, "time_step_rank": 2},
    "tiiuae/falcon-mamba-7b": {
        "model_type": "falcon_mamba", "architectures": ["FalconMambaForCausalLM"], "conv_kernel": 4, "state_size": 16,
        "residual_in_fp32": True, "use_bias": False, "use_conv_bias": True, "tie_word_embeddings": False,
        "mixer_rms_eps": 1e-06, "layer_norm_epsilon": 1e-05, "expand": 16, "time_step_rank": 256, "eos_token_id": 11,
    } | SMALL | {"intermediate_size": 48, "time_step_rank": 2},
    "mistralai/Mamba-Codestral-7B-v0.1": {
        "model_type": "mamba2", "architectures": ["Mamba2ForCausalLM"], "conv_kernel": 4, "expand": 2, "head_dim": 64,
        "n_groups": 8, "state_size": 128, "chunk_size": 256, "rms_norm": True, "norm_before_gate": True,
        "residual_in_fp32": True, "tie_word_embeddings": False, "use_bias": False, "use_conv_bias": True,
        "time_step_limit": [0.0, float("inf")], "num_heads": 128,
    } | SMALL | {"head_dim": 6, "num_heads": 8, "state_size": 5, "n_groups": 2},
    "meta-llama/Llama-3.2-1B": {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "attention_bias": False, "head_dim": 64,
        "hidden_act": "silu", "mlp_bias": False, "rms_norm_eps": 1e-05, "rope_parameters": LLAMA_ROPE,
        "tie_word_embeddings": True, "max_position_embeddings": 131072,
    } | GROUPED | {"head_dim": 4},
    "mistralai/Mistral-7B-v0.1": {
        "model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 4096, "rope_theta": 10000.0,
        "rms_norm_eps": 1e-05, "tie_word_embeddings": False, "max_position_embeddings": 32768,
    } | GROUPED | {"sliding_window": 4},
    "Qwen/Qwen2.5-0.5B": {
        "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "max_window_layers": 24, "sliding_window": 32768,
        "use_sliding_window": False, "rope_theta": 1000000.0, "rms_norm_eps": 1e-06, "tie_word_embeddings": True,
    } | GROUPED,
    "Qwen/Qwen3-0.6B": {
        "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "head_dim": 128,
        "rope_theta": 1000000, "sliding_window": None, "use_sliding_window": False, "tie_word_embeddings": True,
    } | GROUPED | {"head_dim": 10},
    "EleutherAI/pythia-160m": {
        "model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"], "rotary_pct": 0.25, "rotary_emb_base": 10000,
        "use_parallel_residual": True, "tie_word_embeddings": False, "hidden_act": "gelu", "layer_norm_eps": 1e-05,
    } | ATTENTION | {"hidden_size": 48},
    "openai-community/gpt2": {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "activation_function": "gelu_new",
        "n_ctx": 1024, "n_embd": 24, "n_head": 6, "n_layer": 2, "n_positions": 64, "vocab_size": 60,
        "bos_token_id": 1, "eos_token_id": 1,
    },
    "google-bert/bert-base-uncased": {
        "model_type": "bert", "architectures": ["BertForMaskedLM"], "hidden_act": "gelu", "layer_norm_eps": 1e-12,
        "position_embedding_type": "absolute", "type_vocab_size": 2, "pad_token_id": 0,
    } | ATTENTION,
}  # fmt: skip
TIED = {name for name, settings in PUBLISHED.items() if settings.get("tie_word_embeddings", True)}


def published(name, folder, dtype=torch.float32, **saving):
    """Save a small model of these settings, its weights from N(0, 0.4), with the config.json as published."""
    settings = PUBLISHED[name]
    config = transformers.CONFIG_MAPPING[settings["model_type"]].from_dict(dict(settings))
    torch.manual_seed(0)
    model = getattr(transformers, settings["architectures"][0])(config).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            value.normal_(1 if "norm" in key.lower() or ".ln_" in key else 0, 0.4)
    model = model.to(dtype)
    model.save_pretrained(folder, **saving)
    kind = {"torch_dtype": str(dtype).removeprefix("torch.")}
    (folder / "config.json").write_text(json.dumps(settings | kind))
    return model


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_checkpoint_in_shards_is_loaded_and_captured(name, tmp_path):
    model = published(name, tmp_path, max_shard_size="8KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded, _ = load(tmp_path)
    assert type(loaded) is type(model)
    assert_same_weights(loaded, model)
    tied = loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert tied == (name in TIED)
    trace = capture(loaded, input_ids=IDS)
    assert len(trace.layers) == 2
    assert max(trace.reconstruction_error) < 1e-5  # float32 sums of a few hundred terms


@pytest.mark.parametrize("name", PUBLISHED)
def test_bfloat16_is_loaded_and_captured_in_it(name, tmp_path):
    model = published(name, tmp_path, torch.bfloat16)
    loaded, _ = load(tmp_path, dtype=torch.bfloat16)
    assert {value.dtype for value in loaded.parameters()} == {torch.bfloat16}
    assert_same_weights(loaded, model)
    assert max(capture(loaded, input_ids=IDS).reconstruction_error) < 2e-2  # bfloat16 keeps 8 bits
    assert_same_weights(load(tmp_path)[0], model.float())


@pytest.mark.parametrize("name", ["state-spaces/mamba-130m-hf", "mistralai/Mamba-Codestral-7B-v0.1", "Qwen/Qwen3-0.6B"])
def test_a_model_that_accelerate_placed_is_captured(name, tmp_path):
    pytest.importorskip("accelerate")
    published(name, tmp_path, max_shard_size="8KB")
    model_class = getattr(transformers, PUBLISHED[name]["architectures"][0])
    placed = model_class.from_pretrained(tmp_path, device_map="auto", dtype=torch.float32).eval()
    ours, theirs = capture(load(tmp_path)[0], input_ids=IDS), capture(placed, input_ids=IDS)
    assert theirs.missing == ()
    for one, other in zip(ours.branches, theirs.branches, strict=True):
        assert (one.captured.y - other.captured.y).norm() < 1e-6 * one.captured.y.norm()


# --- Mistral's own layout ---

CODESTRAL = {
    "dim": 64, "n_layers": 2, "vocab_size": 45, "n_groups": 2, "rms_norm": True, "residual_in_fp32": True,
    "fused_add_norm": True, "pad_vocab_size_multiple": 16, "tie_embeddings": False, "model_type": "mamba",
}  # fmt: skip


def mistral_checkpoint(folder, **settings):
    """Write a model with the names of `mamba_ssm` inside a part named model, as Mistral's program saves it."""
    config = transformers.Mamba2Config(
        hidden_size=64, num_hidden_layers=2, vocab_size=48, n_groups=2, num_heads=2, head_dim=64, state_size=128,
        tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Mamba2ForCausalLM(config).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            value.normal_(1 if "norm" in key else 0, 0.1)
    names = {key: f"model.{key.replace('embeddings', 'embedding')}" for key in model.state_dict()}
    save_file(
        {names[key]: value.bfloat16() for key, value in model.state_dict().items()}, folder / "consolidated.safetensors"
    )
    written = {key: value for key, value in (CODESTRAL | settings).items() if value is not None}
    (folder / "params.json").write_text(json.dumps(written))
    return model


def test_codestral_mamba_in_mistrals_own_layout_is_loaded(tmp_path):
    model = mistral_checkpoint(tmp_path)
    loaded, tokenizer = load(tmp_path)
    assert tokenizer is None
    assert_same_weights(loaded, model.bfloat16().float())
    assert (loaded.config.n_groups, loaded.config.state_size, loaded.config.head_dim) == (2, 128, 64)
    assert max(capture(loaded, input_ids=IDS).reconstruction_error) < 1e-5


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"model_type": None}, UnsupportedModelError, "is a transformer in Mistral's own layout .* has a config.json"),
        ({"model_type": "moe\n"}, UnsupportedModelError, "in Mistral's own layout"),
        ({"n_groups": None}, CheckpointError, "its params.json lacks n_groups"),
        ({"dim": None, "n_layers": None}, CheckpointError, "its params.json lacks dim, n_layers"),
        ({"dim": "wide"}, CheckpointError, "dim in its params.json must be a positive integer, found 'wide'"),
        ({"n_groups": 3}, CheckpointError, "does not divide into heads"),
        ({"lora": {"rank": 2}}, UnsupportedModelError, "settings in its params.json that are not known: lora"),
        ({"rms_norm": False}, UnsupportedModelError, "only RMSNorm"),
        ({"n_layers": 3}, CheckpointError, "asks for 3 layers, but the tensors of its file are numbered for 2"),
    ],
)
def test_other_models_in_that_layout_are_refused_by_name(settings, error, words, tmp_path):
    mistral_checkpoint(tmp_path, **settings)
    with pytest.raises(error, match=words) as raised:
        load(tmp_path)
    assert "\n" not in str(raised.value)
