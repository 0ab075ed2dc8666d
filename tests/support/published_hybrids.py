"""The published configurations of the hybrids and the other recurrences; see `published.py`.

Where authors' files spell a setting in an older way than transformers does today, it is theirs that stands here.
"""

SMALL = {"num_hidden_layers": 2, "hidden_size": 24, "vocab_size": 60}
ATTENTION = SMALL | {"num_attention_heads": 6, "intermediate_size": 32}
GROUPED = ATTENTION | {"num_key_value_heads": 2}
#: The code that these models were published with: transformers has the classes by the same names.
NEMOTRON_CODE = {
    "AutoConfig": "configuration_nemotron_h.NemotronHConfig",
    "AutoModelForCausalLM": "modeling_nemotron_h.NemotronHForCausalLM",
}
KIMI_CODE = {
    "AutoConfig": "configuration_kimi.KimiLinearConfig", "AutoModel": "modeling_kimi.KimiLinearModel",
    "AutoModelForCausalLM": "modeling_kimi.KimiLinearForCausalLM",
}  # fmt: skip
QWEN_ROPE = {
    "mrope_interleaved": True, "mrope_section": [11, 11, 10], "partial_rotary_factor": 0.25, "rope_theta": 10000000,
    "rope_type": "default",
}  # fmt: skip
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
DELTA = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 5, "linear_value_head_dim": 4}
MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 6, "mamba_d_state": 5}
THREE_TO_ONE = {"num_hidden_layers": 4, "layer_types": ["linear_attention"] * 3 + ["full_attention"]}
#: What Qwen3.5 says of its text; its rope needs heads of the published width.
QWEN3_5_TEXT = {
    "attention_bias": False, "attn_output_gate": True, "full_attention_interval": 4, "head_dim": 256,
    "hidden_act": "silu", "linear_conv_kernel_dim": 4, "mamba_ssm_dtype": "float32", "mtp_num_hidden_layers": 1,
    "mtp_use_dedicated_embeddings": False, "max_position_embeddings": 262144, "partial_rotary_factor": 0.25,
    "rms_norm_eps": 1e-06, "rope_parameters": QWEN_ROPE, "use_cache": True,
} | ATTENTION | DELTA | THREE_TO_ONE | IDS | {"num_attention_heads": 2, "num_key_value_heads": 1}  # fmt: skip
QWEN3_5_PICTURES = {
    "deepstack_visual_indexes": [], "hidden_act": "gelu_pytorch_tanh", "in_channels": 3, "spatial_merge_size": 2,
    "temporal_patch_size": 2, "depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16,
    "out_hidden_size": 24, "patch_size": 2, "num_position_embeddings": 16,
}  # fmt: skip
QWEN3_5 = {"image_token_id": 56, "video_token_id": 57, "vision_start_token_id": 53, "vision_end_token_id": 54}
GRANITE = {
    "model_type": "granitemoehybrid", "architectures": ["GraniteMoeHybridForCausalLM"], "attention_bias": False,
    "attention_dropout": 0.0, "embedding_multiplier": 12, "hidden_act": "silu", "mamba_chunk_size": 256,
    "mamba_conv_bias": True, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_n_groups": 1, "mamba_proj_bias": False,
    "max_position_embeddings": 131072, "normalization_function": "rmsnorm", "position_embedding_type": "nope",
    "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 10000, "tie_word_embeddings": True, "use_cache": True,
}  # fmt: skip
JAMBA = {
    "model_type": "jamba", "architectures": ["JambaForCausalLM"], "attention_dropout": 0.0, "expert_layer_offset": 1,
    "expert_layer_period": 2, "hidden_act": "silu", "mamba_conv_bias": True, "mamba_d_conv": 4, "mamba_expand": 2,
    "mamba_proj_bias": False, "max_position_embeddings": 262144, "output_router_logits": False, "rms_norm_eps": 1e-06,
    "router_aux_loss_coef": 0.001, "sliding_window": None, "use_mamba_kernels": True,
}  # fmt: skip
ZAMBA2 = {
    "model_type": "zamba2", "architectures": ["Zamba2ForCausalLM"], "add_bias_linear": False, "chunk_size": 256,
    "hidden_act": "gelu", "mamba_d_conv": 4, "mamba_expand": 2, "mamba_ngroups": 1, "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-05, "rope_theta": 10000, "tie_word_embeddings": True, "time_step_floor": 0.0001,
    "time_step_max": 0.1, "time_step_min": 0.001, "use_conv_bias": True, "use_long_context": False,
}  # fmt: skip
#: By name of the model: its settings, in which the last groups are made small.
HYBRIDS = {
    "Qwen/Qwen3-Next-80B-A3B-Instruct": {
        "model_type": "qwen3_next", "architectures": ["Qwen3NextForCausalLM"], "attention_dropout": 0.0,
        "decoder_sparse_step": 1, "full_attention_interval": 4, "hidden_act": "silu", "linear_conv_kernel_dim": 4,
        "max_position_embeddings": 262144, "mlp_only_layers": [], "norm_topk_prob": True, "num_experts_per_tok": 10,
        "output_router_logits": False, "partial_rotary_factor": 0.25, "rms_norm_eps": 1e-06, "rope_scaling": None,
        "rope_theta": 10000000, "router_aux_loss_coef": 0.001, "tie_word_embeddings": False, "use_cache": True,
    } | GROUPED | DELTA | IDS | {
        "num_hidden_layers": 4, "head_dim": 8, "num_experts": 12, "moe_intermediate_size": 8,
        "shared_expert_intermediate_size": 8,
    },
    "Qwen/Qwen3.5-4B": {
        "model_type": "qwen3_5", "architectures": ["Qwen3_5ForConditionalGeneration"], "tie_word_embeddings": True,
        "text_config": QWEN3_5_TEXT | {"model_type": "qwen3_5_text", "tie_word_embeddings": True},
        "vision_config": QWEN3_5_PICTURES | {"model_type": "qwen3_5"},
    } | QWEN3_5,
    "Qwen/Qwen3.5-35B-A3B": {
        "model_type": "qwen3_5_moe", "architectures": ["Qwen3_5MoeForConditionalGeneration"],
        "tie_word_embeddings": False,
        "text_config": QWEN3_5_TEXT | {
            "model_type": "qwen3_5_moe_text", "num_experts_per_tok": 8, "output_router_logits": False,
            "router_aux_loss_coef": 0.001, "tie_word_embeddings": False, "num_experts": 10, "moe_intermediate_size": 8,
            "shared_expert_intermediate_size": 8,
        },
        "vision_config": QWEN3_5_PICTURES | {"model_type": "qwen3_5_moe"},
    } | QWEN3_5,
    "allenai/Olmo-Hybrid-7B": {
        "model_type": "olmo_hybrid", "architectures": ["OlmoHybridForCausalLM"], "attention_bias": False,
        "attention_dropout": 0.0, "hidden_act": "silu", "linear_allow_neg_eigval": True, "linear_conv_kernel_dim": 4,
        "max_position_embeddings": 65536, "rms_norm_eps": 1e-06, "rope_parameters": {"rope_theta": None},
        "tie_word_embeddings": False,
    } | ATTENTION | THREE_TO_ONE | IDS | {
        "num_key_value_heads": 6, "linear_num_key_heads": 6, "linear_num_value_heads": 6, "linear_key_head_dim": 3,
        "linear_value_head_dim": 6,
    },
    "nvidia/NVIDIA-Nemotron-Nano-9B-v2": {
        "model_type": "nemotron_h", "architectures": ["NemotronHForCausalLM"], "auto_map": NEMOTRON_CODE,
        "attention_bias": False, "chunk_size": 128, "conv_kernel": 4, "expand": 2, "layer_norm_epsilon": 1e-05,
        "mamba_hidden_act": "silu", "mamba_proj_bias": False, "max_position_embeddings": 131072, "mlp_bias": False,
        "mlp_hidden_act": "relu2", "n_groups": 8, "num_logits_to_keep": 1, "rescale_prenorm_residual": True,
        "residual_in_fp32": False, "sliding_window": None, "tie_word_embeddings": False, "time_step_floor": 0.0001,
        "time_step_limit": [0.0, float("inf")], "time_step_max": 0.1, "time_step_min": 0.001, "use_bias": False,
        "use_conv_bias": True, "use_mamba_kernels": True,
    } | GROUPED | IDS | {
        "num_hidden_layers": 4, "hybrid_override_pattern": "M*-M", "head_dim": 4, "mamba_num_heads": 16,
        "mamba_head_dim": 3, "ssm_state_size": 5,
    },
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": {
        "model_type": "nemotron_h", "architectures": ["NemotronHForCausalLM"],
        "auto_map": NEMOTRON_CODE | {"AutoModel": "modeling_nemotron_h.NemotronHForCausalLM"},
        "attention_bias": False, "chunk_size": 128, "conv_kernel": 4, "expand": 2, "hidden_dropout": 0.0,
        "layer_norm_epsilon": 1e-05, "mamba_hidden_act": "silu", "mamba_proj_bias": False,
        "mamba_ssm_cache_dtype": "float32", "max_position_embeddings": 262144, "mlp_bias": False,
        "mlp_hidden_act": "relu2", "n_group": 1, "n_groups": 8, "n_shared_experts": 1, "norm_eps": 1e-05,
        "norm_topk_prob": True, "num_experts_per_tok": 6, "num_logits_to_keep": 1, "partial_rotary_factor": 1.0,
        "rescale_prenorm_residual": True, "residual_in_fp32": False, "rope_theta": 10000, "routed_scaling_factor": 2.5,
        "sliding_window": None, "tie_word_embeddings": False, "time_step_floor": 0.0001, "time_step_max": 0.1,
        "time_step_min": 0.001, "topk_group": 1, "use_bias": False, "use_conv_bias": True, "use_mamba_kernels": True,
    } | GROUPED | IDS | {
        "num_hidden_layers": 5, "hybrid_override_pattern": "EM*EM", "head_dim": 4, "mamba_num_heads": 16,
        "mamba_head_dim": 3, "ssm_state_size": 5, "n_routed_experts": 8, "moe_intermediate_size": 8,
        "moe_shared_expert_intermediate_size": 16,
    },
    "ibm-granite/granite-4.0-h-tiny": GRANITE | {
        "attention_multiplier": 0.0078125, "logits_scaling": 6, "num_experts_per_tok": 6, "residual_multiplier": 0.22,
    } | GROUPED | MAMBA2 | IDS | {
        "num_hidden_layers": 3, "layer_types": ["mamba", "attention", "mamba"], "num_local_experts": 8,
        "intermediate_size": 8, "shared_intermediate_size": 16,
    },
    "ibm-granite/granite-4.0-h-350m": GRANITE | {
        "attention_multiplier": 0.015625, "logits_scaling": 3, "num_experts_per_tok": 0, "num_local_experts": 0,
        "residual_multiplier": 0.246, "max_position_embeddings": 32768,
    } | GROUPED | MAMBA2 | IDS | {
        "num_hidden_layers": 3, "layer_types": ["mamba", "attention", "mamba"], "shared_intermediate_size": 32,
    },
    "tiiuae/Falcon-H1-0.5B-Instruct": {
        "model_type": "falcon_h1", "architectures": ["FalconH1ForCausalLM"], "attention_bias": False,
        "attention_dropout": 0.0, "attention_in_multiplier": 1.0, "attention_out_multiplier": 0.9375,
        "attn_layer_indices": None, "embedding_multiplier": 5.656854249492381, "hidden_act": "silu",
        "key_multiplier": 0.39062499999999994, "lm_head_multiplier": 0.0390625, "mamba_chunk_size": 128,
        "mamba_conv_bias": True, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_n_groups": 1,
        "mamba_norm_before_gate": False, "mamba_proj_bias": False, "mamba_rms_norm": False, "mamba_use_mlp": True,
        "max_position_embeddings": 16384, "mlp_bias": False, "mlp_multipliers": [0.8838834764831844, 0.5859375],
        "projectors_bias": False, "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 100000000000.0,
        "ssm_in_multiplier": 1.25, "ssm_multipliers": [0.3535533905932738, 0.25, 0.3535533905932738, 0.5,
        0.3535533905932738], "ssm_out_multiplier": 0.23570226039551587, "tie_word_embeddings": False,
    } | GROUPED | MAMBA2 | IDS | {"head_dim": 4, "mamba_d_ssm": 48},
    "ibm-ai-platform/Bamba-9B-v2": {
        "model_type": "bamba", "architectures": ["BambaForCausalLM"], "attention_bias": False, "attn_rotary_emb": 64,
        "hidden_act": "silu", "mamba_chunk_size": 256, "mamba_conv_bias": True, "mamba_d_conv": 4, "mamba_expand": 2,
        "mamba_n_groups": 1, "mamba_proj_bias": False, "max_position_embeddings": 4096, "mlp_bias": False,
        "num_logits_to_keep": 1, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": False,
    } | GROUPED | MAMBA2 | IDS | {"num_hidden_layers": 3, "attn_layer_indices": [1], "attn_rotary_emb": 2},
    "Zyphra/Zamba2-1.2B": ZAMBA2 | {
        "num_mem_blocks": 1, "use_mem_rope": True, "use_shared_attention_adapter": True,
    } | ATTENTION | {
        "num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid"] * 2, "hybrid_layer_ids": [1, 3],
        "n_mamba_heads": 4, "mamba_d_state": 5, "adapter_rank": 2,
    },
    "Zyphra/Zamba2-2.7B": ZAMBA2 | {
        "num_mem_blocks": 2, "use_mem_rope": False, "use_shared_attention_adapter": False,
    } | ATTENTION | {
        "num_hidden_layers": 6, "layers_block_type": ["mamba", "hybrid"] * 3, "hybrid_layer_ids": [1, 3, 5],
        "n_mamba_heads": 4, "mamba_d_state": 5, "adapter_rank": 2,
    },
    "Zyphra/Zamba-7B-v1": {
        "model_type": "zamba", "architectures": ["ZambaForCausalLM"], "attn_layer_offset": 4, "attn_layer_period": 6,
        "hidden_act": "gelu", "hidden_mamba_act": "silu", "mamba_conv_bias": True, "mamba_d_conv": 4, "mamba_expand": 2,
        "mamba_proj_bias": False, "max_position_embeddings": 4096, "n_mamba_heads": 2, "num_logits_to_keep": 1,
        "rms_norm_eps": 1e-05, "tie_word_embeddings": True, "time_step_floor": 0.0001, "time_step_max": 0.1,
        "time_step_min": 0.001, "use_mamba_kernels": True,
    } | ATTENTION | {
        "num_hidden_layers": 8, "num_key_value_heads": 6, "mamba_d_state": 3, "mamba_dt_rank": 2,
    },
    "ai21labs/Jamba-v0.1": JAMBA | {
        "attn_layer_offset": 4, "attn_layer_period": 8, "num_experts": 16, "num_experts_per_tok": 2,
        "tie_word_embeddings": False,
    } | GROUPED | {"num_hidden_layers": 6, "mamba_d_state": 3, "mamba_dt_rank": 2, "intermediate_size": 8},
    "ai21labs/AI21-Jamba-Reasoning-3B": JAMBA | {
        "attn_layer_offset": 7, "attn_layer_period": 14, "num_experts": 1, "num_key_value_heads": 1,
        "tie_word_embeddings": True,
    } | ATTENTION | {"num_hidden_layers": 9, "mamba_d_state": 3, "mamba_dt_rank": 2},
    "moonshotai/Kimi-Linear-48B-A3B-Instruct": {
        "model_type": "kimi_linear", "architectures": ["KimiLinearForCausalLM"], "auto_map": KIMI_CODE,
        "first_k_dense_replace": 1, "hidden_act": "silu", "mla_use_nope": True, "moe_layer_freq": 1,
        "moe_renormalize": True, "moe_router_activation_func": "sigmoid", "num_expert_group": 1,
        "num_experts_per_token": 8, "num_nextn_predict_layers": 0, "num_shared_experts": 1, "q_lora_rank": None,
        "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 10000.0, "routed_scaling_factor": 2.446,
        "tie_word_embeddings": False, "topk_group": 1, "use_cache": True, "use_grouped_topk": True,
    } | ATTENTION | IDS | {
        "num_hidden_layers": 4, "num_key_value_heads": 6, "head_dim": 4, "kv_lora_rank": 5, "qk_nope_head_dim": 3,
        "qk_rope_head_dim": 4, "v_head_dim": 6, "num_experts": 10, "moe_intermediate_size": 8,
        "linear_attn_config": {
            "head_dim": 5, "num_heads": 4, "short_conv_kernel_size": 4, "full_attn_layers": [4],
            "kda_layers": [1, 2, 3],
        },
    },
    "LiquidAI/LFM2-350M": {
        "model_type": "lfm2", "architectures": ["Lfm2ForCausalLM"], "block_auto_adjust_ff_dim": True,
        "block_ffn_dim_multiplier": 1.0, "block_mlp_init_scale": 1.0, "block_multiple_of": 256, "block_norm_eps": 1e-05,
        "block_use_swiglu": True, "conv_L_cache": 3, "conv_bias": False, "max_position_embeddings": 128000,
        "norm_eps": 1e-05, "rope_theta": 1000000.0, "use_cache": True,
    } | IDS | {
        "vocab_size": 60, "hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 6, "num_heads": 6,
        "num_key_value_heads": 2, "block_dim": 24, "block_ff_dim": 48, "conv_dim": 24, "conv_dim_out": 24,
        "full_attn_idxs": [2],
    },
    "LiquidAI/LFM2-8B-A1B": {
        "model_type": "lfm2_moe", "architectures": ["Lfm2MoeForCausalLM"], "conv_L_cache": 3, "conv_bias": False,
        "max_position_embeddings": 128000, "norm_eps": 1e-05, "norm_topk_prob": True, "num_dense_layers": 2,
        "num_experts": 32, "num_experts_per_tok": 4, "rope_theta": 1000000.0, "routed_scaling_factor": 1.0,
        "use_cache": True, "use_expert_bias": True,
    } | GROUPED | IDS | {
        "num_hidden_layers": 4, "layer_types": ["conv", "conv", "full_attention", "conv"], "moe_intermediate_size": 8,
    },
    "google/recurrentgemma-2b": {
        "model_type": "recurrent_gemma", "architectures": ["RecurrentGemmaForCausalLM"], "attention_bias": False,
        "_block_types": ["recurrent", "recurrent", "attention"], "attention_dropout": 0.0, "conv1d_width": 4,
        "embeddings_scale_by_sqrt_dim": True, "hidden_activation": "gelu_pytorch_tanh", "logits_soft_cap": 30.0,
        "num_key_value_heads": 1, "partial_rotary_factor": 0.5, "rms_norm_eps": 1e-06, "rope_theta": 10000.0,
    } | ATTENTION | IDS | {
        "num_hidden_layers": 3, "num_attention_heads": 3, "head_dim": 8, "lru_width": 24, "attention_window_size": 4,
    },
    "RWKV/rwkv-4-169m-pile": {
        "model_type": "rwkv", "architectures": ["RwkvForCausalLM"], "bos_token_id": 0, "eos_token_id": 0,
        "context_length": 1024, "layer_norm_epsilon": 1e-05, "rescale_every": 6, "tie_word_embeddings": False,
        "use_cache": True,
    } | SMALL | {"num_hidden_layers": 7, "attention_hidden_size": 24, "intermediate_size": 96},
    "NX-AI/xLSTM-7b": {
        "model_type": "xlstm", "architectures": ["xLSTMForCausalLM"], "add_out_norm": True,
        "autocast_kernel_dtype": "bfloat16", "chunk_size": 64, "chunkwise_kernel": "chunkwise--triton_xl_chunk",
        "eps": 1e-06, "ffn_proj_factor": 2.667, "ffn_round_up_to_multiple_of": 64, "gate_soft_cap": 15.0,
        "inference_state_dtype": "float32", "mode": "inference", "norm_eps": 1e-06,
        "norm_reduction_force_float32": True, "num_heads": 8, "output_logit_soft_cap": 30.0, "qk_dim_factor": 0.5,
        "return_last_states": True, "sequence_kernel": "native_sequence__triton", "step_kernel": "triton",
        "tie_word_embeddings": False, "use_bias": False, "v_dim_factor": 1.0, "weight_mode": "single",
    } | SMALL | IDS | {"hidden_size": 64, "embedding_dim": 64, "num_blocks": 2},
    "MiniMaxAI/MiniMax-Text-01-hf": {
        "model_type": "minimax", "architectures": ["MiniMaxForCausalLM"], "full_attn_alpha_factor": 3.5565588200778455,
        "full_attn_beta_factor": 1.0, "linear_attn_alpha_factor": 3.5565588200778455, "linear_attn_beta_factor": 1.0,
        "mlp_alpha_factor": 3.5565588200778455, "mlp_beta_factor": 1.0, "max_position_embeddings": 10240000,
        "num_experts_per_tok": 2, "num_local_experts": 32, "postnorm": True, "rms_norm_eps": 1e-05,
        "rope_theta": 10000000, "shared_intermediate_size": 0, "shared_moe_mode": "sigmoid", "sliding_window": None,
        "tie_word_embeddings": False,
    } | GROUPED | IDS | {
        "layer_types": ["linear_attention", "full_attention"], "head_dim": 6, "rotary_dim": 3, "intermediate_size": 8,
    },
}  # fmt: skip
#: Kinds of mixer block by block, where not every layer has the same.
PATTERNS = {
    "Qwen/Qwen3-Next-80B-A3B-Instruct": "delta delta delta attention",
    "Qwen/Qwen3.5-4B": "delta delta delta attention",
    "Qwen/Qwen3.5-35B-A3B": "delta delta delta attention",
    "allenai/Olmo-Hybrid-7B": "delta delta delta attention",
    "nvidia/NVIDIA-Nemotron-Nano-9B-v2": "scan attention scan",
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": "scan attention scan",
    "ibm-granite/granite-4.0-h-tiny": "scan attention scan",
    "ibm-granite/granite-4.0-h-350m": "scan attention scan",
    "tiiuae/Falcon-H1-0.5B-Instruct": "scan+attention scan+attention",
    "ibm-ai-platform/Bamba-9B-v2": "scan attention scan",
    "Zyphra/Zamba2-1.2B": "scan attention scan scan attention scan",
    "Zyphra/Zamba2-2.7B": "scan attention scan scan attention scan scan attention scan",
    "Zyphra/Zamba-7B-v1": "scan scan attention scan scan scan scan scan attention scan",
    "ai21labs/Jamba-v0.1": "scan scan scan scan attention scan",
    "ai21labs/AI21-Jamba-Reasoning-3B": "scan scan scan scan scan scan scan attention scan",
    "moonshotai/Kimi-Linear-48B-A3B-Instruct": "delta delta delta attention",
    "LiquidAI/LFM2-350M": "conv conv attention conv",
    "LiquidAI/LFM2-8B-A1B": "conv conv attention conv",
    "google/recurrentgemma-2b": "recurrence recurrence attention",
    "RWKV/rwkv-4-169m-pile": " ".join(["recurrence shift"] * 7),
    "NX-AI/xLSTM-7b": "recurrence recurrence",
    "MiniMaxAI/MiniMax-Text-01-hf": "recurrence attention",
}
