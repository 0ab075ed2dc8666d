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
#: Class and configuration of small stock hybrids by model type; the options of a call replace those here.
HYBRIDS: dict = {
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
    torch.manual_seed(seed)
    model = getattr(transformers, name)(config(**options)).eval()
    with torch.no_grad():
        for parameter, value in model.named_parameters():
            value.normal_(1 if "norm" in parameter and parameter.endswith("weight") else 0, 0.4)
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # the grouped product has no float64 form
    return model.to(dtype)


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
