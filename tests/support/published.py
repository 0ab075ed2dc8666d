"""The published configurations of each family, with fewer layers and narrower, and small checkpoints of them.

What makes these models differ, such as tied heads, rope, windows, biases, multipliers and lists of layers, is as their
authors published it and in their spelling; only sizes are small, and lists as short as the models.
"""

import json

import pytest
import torch
import transformers

from published_hybrids import ATTENTION, GROUPED, HYBRIDS, SMALL

LLAMA_ROPE = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
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
} | HYBRIDS  # fmt: skip
#: Settings that name kernels of another library, without which transformers takes its own.
KERNELS = ("chunkwise_kernel", "sequence_kernel", "step_kernel")


def published(name, folder, dtype=torch.float32, *, changes=None, **saving):
    """Save a small model of these settings, its weights from N(0, 0.4), with the config.json as published."""
    settings = PUBLISHED[name] | (changes or {})
    class_name = settings["architectures"][0]
    if not hasattr(transformers, class_name):
        pytest.skip(f"transformers {transformers.__version__} has no {class_name}")
    native = {key: value for key, value in settings.items() if key not in KERNELS}
    config = transformers.CONFIG_MAPPING[settings["model_type"]].from_dict(native)
    torch.manual_seed(0)
    model = getattr(transformers, class_name)(config).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            value.normal_(1 if "norm" in key.lower() or ".ln_" in key else 0, 0.4)
    model = model.to(dtype)
    model.save_pretrained(folder, **saving)
    kind = {"torch_dtype": str(dtype).removeprefix("torch.")}
    (folder / "config.json").write_text(json.dumps(settings | kind))
    return model
