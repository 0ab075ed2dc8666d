"""Small stock hybrids with weights from N(0, 0.4), by model type: two or more layers, every kind of mixer in them."""

import contextlib
import sys

import pytest
import torch
import transformers

from models import without_downcasts

SIZES = {"vocab_size": 50, "hidden_size": 12, "intermediate_size": 16, "pad_token_id": 0}
LFM2 = SIZES | {
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_size": 16,
    "conv_bias": True,
    "layer_types": ["conv", "full_attention", "conv"],
}
#: Gated delta nets around attention, with two value heads for every key head.
DELTA = {
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "num_hidden_layers": 3,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 5,
    "linear_value_head_dim": 4,
    "linear_conv_kernel_dim": 4,
}
QWEN3_5 = {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "attention_bias": True,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 100.0,
        "partial_rotary_factor": 0.75,
        "mrope_section": [1, 1, 1],
        "mrope_interleaved": True,
    },
}
MOE = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 8,
    "shared_expert_intermediate_size": 8,
}


def multimodal(config, **options):
    """Return the configuration of a model that reads text and pictures; the options are those of its text part."""
    pictures = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": 12}
    text = SIZES | DELTA | QWEN3_5 | options
    return config(text_config=text, vision_config=pictures | {"patch_size": 2, "num_position_embeddings": 16})


#: Class and configuration of small stock hybrids by model type; the options of a call replace those here.
HYBRIDS: dict = {
    "bamba": (
        "BambaForCausalLM",
        lambda **o: transformers.BambaConfig(
            **SIZES
            | {"num_hidden_layers": 3, "attn_layer_indices": [1], "num_attention_heads": 4, "num_key_value_heads": 2}
            | {"mamba_n_heads": 4, "mamba_d_head": 6, "mamba_n_groups": 2, "mamba_d_state": 5, "mamba_chunk_size": 16}
            | {"mamba_proj_bias": True, "attention_bias": True, "mlp_bias": True, "time_step_limit": (0.3, 2.0)}
            | o
        ),
    ),
    "granitemoehybrid": (
        "GraniteMoeHybridForCausalLM",
        lambda **o: transformers.GraniteMoeHybridConfig(
            **SIZES
            | {"layer_types": ["linear_attention", "full_attention", "linear_attention"], "num_hidden_layers": 3}
            | {"num_attention_heads": 3, "num_key_value_heads": 1, "attention_bias": True, "mamba_proj_bias": True}
            | {"mamba_n_heads": 4, "mamba_d_head": 6, "mamba_n_groups": 2, "mamba_d_state": 5, "mamba_chunk_size": 16}
            | {"shared_intermediate_size": 16, "num_local_experts": 3, "num_experts_per_tok": 2}
            | {"residual_multiplier": 0.7, "attention_multiplier": 0.4, "embedding_multiplier": 1.5}
            | {"logits_scaling": 2.0, "position_embedding_type": "rope"}
            | o
        ),
    ),
    "falcon_h1": (
        "FalconH1ForCausalLM",
        lambda **o: transformers.FalconH1Config(
            **SIZES
            | {"num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 4}
            | {"mamba_d_ssm": 24, "mamba_n_heads": 4, "mamba_d_head": 6, "mamba_n_groups": 2, "mamba_d_state": 5}
            | {"mamba_chunk_size": 16, "mamba_proj_bias": True, "projectors_bias": True, "attention_bias": True}
            | {"mamba_rms_norm": True, "mamba_norm_before_gate": False, "ssm_in_multiplier": 0.9}
            | {"ssm_out_multiplier": 0.7, "attention_in_multiplier": 1.2, "attention_out_multiplier": -1.3}
            | {"ssm_multipliers": [0.5, 1.5, 0.8, 1.1, 0.9], "key_multiplier": 0.8, "embedding_multiplier": 1.4}
            | {"lm_head_multiplier": 0.6, "mlp_multipliers": [0.9, 1.1]}
            | o
        ),
    ),
    "nemotron_h": (
        "NemotronHForCausalLM",
        lambda **o: transformers.NemotronHConfig(
            **SIZES
            | {"layers_block_type": ["linear_attention", "moe", "full_attention", "mlp", "linear_attention"]}
            | {"num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4}
            | {"ssm_state_size": 5, "mamba_num_heads": 4, "mamba_head_dim": 6, "n_groups": 2, "chunk_size": 16}
            | {"use_bias": True, "time_step_min": 0.3, "n_routed_experts": 3, "moe_intermediate_size": 8}
            | {"moe_shared_expert_intermediate_size": 8}
            | o
        ),
    ),
    "jamba": (
        "JambaForCausalLM",
        lambda **o: transformers.JambaConfig(
            **SIZES
            | {"num_hidden_layers": 3, "attn_layer_period": 3, "attn_layer_offset": 1, "num_attention_heads": 4}
            | {"num_key_value_heads": 2, "num_experts": 3, "expert_layer_period": 2, "expert_layer_offset": 0}
            | {"mamba_d_state": 3, "mamba_dt_rank": 2, "mamba_proj_bias": True}
            | o
        ),
    ),
    "zamba2": (
        "Zamba2ForCausalLM",
        lambda **o: transformers.Zamba2Config(
            **SIZES
            | {"num_hidden_layers": 4, "num_attention_heads": 4, "n_mamba_heads": 4, "mamba_ngroups": 2}
            | {"layers_block_type": ["linear_attention", "hybrid", "hybrid", "hybrid"], "mamba_d_state": 5}
            | {"num_mem_blocks": 2, "use_shared_attention_adapter": True, "adapter_rank": 2, "use_mem_rope": True}
            | {"chunk_size": 16, "time_step_min": 0.3, "add_bias_linear": True}
            | o
        ),
    ),
    "zamba": (
        "ZambaForCausalLM",
        lambda **o: transformers.ZambaConfig(
            **SIZES
            | {"num_hidden_layers": 3, "layers_block_type": ["linear_attention", "hybrid", "hybrid"]}
            | {"num_attention_heads": 4, "num_key_value_heads": 2, "n_mamba_heads": 2, "mamba_d_state": 3}
            | {"mamba_dt_rank": 2, "mamba_proj_bias": True, "attention_head_dim": 6}
            | o
        ),
    ),
    "qwen3_next": (
        "Qwen3NextForCausalLM",
        lambda **o: transformers.Qwen3NextConfig(
            **SIZES
            | DELTA
            | {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6}
            | {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5}}
            | {"attention_bias": True, "mlp_only_layers": [0], "num_experts": 4, "num_experts_per_tok": 2}
            | {"moe_intermediate_size": 8, "shared_expert_intermediate_size": 8}
            | o
        ),
    ),
    "qwen3_5": ("Qwen3_5ForConditionalGeneration", lambda **o: multimodal(transformers.Qwen3_5Config, **o)),
    "qwen3_5_text": (
        "Qwen3_5ForCausalLM",
        lambda **o: transformers.Qwen3_5TextConfig(**SIZES | DELTA | QWEN3_5 | o),
    ),
    "qwen3_5_moe": (
        "Qwen3_5MoeForConditionalGeneration",
        lambda **o: multimodal(transformers.Qwen3_5MoeConfig, **MOE | o),
    ),
    "olmo_hybrid": (
        "OlmoHybridForCausalLM",
        lambda **o: transformers.OlmoHybridConfig(
            **SIZES
            | DELTA
            | {"num_attention_heads": 3, "num_key_value_heads": 1, "attention_bias": True}
            | {"linear_allow_neg_eigval": True}
            | o
        ),
    ),
    "kimi_linear": (
        "KimiLinearForCausalLM",
        lambda **o: transformers.KimiLinearConfig(
            **SIZES
            | {
                "layer_types": DELTA["layer_types"],
                "num_hidden_layers": 3,
                "mlp_layer_types": ["dense"] + ["sparse"] * 2,
            }
            | {"num_attention_heads": 3, "num_key_value_heads": 3, "attention_bias": True, "q_lora_rank": 7}
            | {"kv_lora_rank": 5, "qk_rope_head_dim": 4, "qk_nope_head_dim": 3, "v_head_dim": 6}
            | {"linear_head_dim": 6, "linear_num_heads": 3, "num_local_experts": 4, "num_experts_per_tok": 2}
            | {"moe_intermediate_size": 8, "n_shared_experts": 1, "bos_token_id": 1, "eos_token_id": 2}
            | o
        ),
    ),
    "lfm2": (
        "Lfm2ForCausalLM",
        lambda **o: transformers.Lfm2Config(**LFM2 | {"block_auto_adjust_ff_dim": False} | o),
    ),
    "recurrent_gemma": (
        "RecurrentGemmaForCausalLM",
        lambda **o: transformers.RecurrentGemmaConfig(
            **SIZES
            | {"num_hidden_layers": 3, "hidden_size": 16, "lru_width": 20, "intermediate_size": 32}
            | {"num_attention_heads": 4, "num_key_value_heads": 2, "attention_window_size": 5, "attention_bias": True}
            | {"logits_soft_cap": 3.0}
            | o
        ),
    ),
    "rwkv": (
        "RwkvForCausalLM",
        lambda **o: transformers.RwkvConfig(
            **{k: v for k, v in SIZES.items() if k != "pad_token_id"}
            | {"num_hidden_layers": 3, "attention_hidden_size": 10, "rescale_every": 2, "use_cache": False}
            | {"bos_token_id": 1, "eos_token_id": 2}
            | o
        ),
    ),
    "xlstm": (
        "xLSTMForCausalLM",
        lambda **o: transformers.xLSTMConfig(
            **{k: v for k, v in SIZES.items() if k != "intermediate_size"}
            | {"num_hidden_layers": 3, "hidden_size": 16, "num_heads": 2, "use_bias": True, "chunk_size": 8}
            | {"output_logit_soft_cap": 3.0, "ffn_round_up_to_multiple_of": 8}
            | o
        ),
    ),
    "minimax": (
        "MiniMaxForCausalLM",
        lambda **o: transformers.MiniMaxConfig(
            **SIZES
            | {"num_hidden_layers": 3, "hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2}
            | {"num_local_experts": 4, "num_experts_per_tok": 2, "block_size": 4, "head_dim": 6}
            | {"full_attn_alpha_factor": 1.3, "full_attn_beta_factor": 0.7, "linear_attn_alpha_factor": 0.8}
            | {"linear_attn_beta_factor": 1.2, "mlp_alpha_factor": 1.1, "mlp_beta_factor": 0.9}
            | {"layer_types": ["linear_attention", "full_attention", "linear_attention"]}
            | o
        ),
    ),
    "lfm2_moe": (
        "Lfm2MoeForCausalLM",
        lambda **o: transformers.Lfm2MoeConfig(
            **LFM2 | {"num_dense_layers": 1, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8} | o
        ),
    ),
}


def hybrid_model(family: str, dtype: torch.dtype = torch.float32, seed: int = 0, **options):
    """Return a stock hybrid with every weight drawn from N(0, 0.4), norms around 1, experts in their eager form."""
    name, config = HYBRIDS[family]
    if not hasattr(transformers, name):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    torch.manual_seed(seed)
    model = getattr(transformers, name)(config(**options)).eval()
    if family == "zamba2":
        _skip_if_it_cannot_run(model)
    with torch.no_grad():
        for parameter, value in model.named_parameters():
            value.normal_(1 if "norm" in parameter and parameter.endswith("weight") else 0, 0.4)
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # the grouped product has no float64 form
    return model.to(dtype)


def _skip_if_it_cannot_run(model):
    """Skip a test on releases of transformers that give a layer of this Zamba2 no adapter, and then cannot run it."""
    for number, layer in enumerate(model.model.layers):
        if hasattr(layer, "shared_transformer"):
            mlp = layer.shared_transformer.feed_forward
            if isinstance(mlp.gate_up_proj_adapter_list[mlp.layer_dic[number]], torch.nn.Identity):
                pytest.skip(f"transformers {transformers.__version__} gives layer {number} of this Zamba2 no adapter")


@contextlib.contextmanager
def in_double(family: str, **options):
    """Yield a hybrid that computes in float64 throughout: its own casts to float32 do nothing inside the block."""
    with without_downcasts(family), pytest.MonkeyPatch.context() as patch:
        model = hybrid_model(family, torch.float64, **options)  # xLSTM chooses the precision of its states when made
        if family == "recurrent_gemma":  # the default argument that is its recurrence's precision
            unit = sys.modules[type(model).__module__].RecurrentGemmaRglru
            patch.setattr(unit._rnn_scan, "__defaults__", (torch.float64,))
        for part in model.modules():
            if hasattr(part, "decay_factors"):  # MiniMax's, made in float32
                part.query_decay, part.key_decay, part.diagonal_decay = part.decay_factors(part.slope_rate)
        yield model
