"""The bundled hybrids' architectures, small and with weights that hide nothing."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from training import hybrids

SIZES: dict[str, dict[str, Any]] = {
    "tiny-hybrid": {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "num_key_value_heads": 1},
    # value heads share keys, which the shipped model's do not
    "tiny-delta-hybrid": {
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 16,
        "head_dim": 16,
    },
}
#: A layer of each kind.
SHALLOW: dict[str, dict[str, Any]] = {
    "tiny-hybrid": {"num_hidden_layers": 2, "attn_layer_indices": [1]},
    "tiny-delta-hybrid": {"num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"]},
}
SHARED = {"hidden_size": 32, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}


def small_hybrid(name: str, vocabulary: int = 50, **sizes: Any) -> PreTrainedModel:
    """A model with weights from N(0, 0.4), so that nothing hides behind the residual stream."""
    torch.manual_seed(0)
    model = hybrids.build(hybrids.configuration(name, vocabulary, **SHARED | SIZES[name] | sizes)).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.4)
            elif "norm" not in key and "A_log" not in key:
                parameter.normal_(0.5, 0.4)
    return model
