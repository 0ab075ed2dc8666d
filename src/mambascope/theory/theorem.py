"""Theorem 1 of the Hidden Attention paper (arXiv 2403.01590), measured on layers of every kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import transformers

from mambascope.models.layers import LAYERS
from mambascope.notices import KERNELS, kept_off
from mambascope.theory.classification import Classification, Kind, classify
from mambascope.trace import capture

#: What the theorem says of the layers that it names.
THEOREM: dict[str, Kind] = {
    "S4": "fixed",
    "DSS": "fixed",
    "S5": "fixed",
    "GSS": "diagonal data control",
    "Hyena": "diagonal data control",
    "SelectiveSSM": "data-controlled",
}

_SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "vocab_size": 32, "pad_token_id": 0}
_HEADS: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 16}

#: Mixers that are read in their stock classes, not written again: configuration and the settings of one small layer.
STOCK: dict[str, tuple[str, dict[str, Any]]] = {
    "RWKV4": ("RwkvConfig", _SIZES | {"attention_hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}),
    "RG-LRU": (
        "RecurrentGemmaConfig",
        _SIZES | _HEADS | {"lru_width": 16, "block_types": ["recurrent"], "attention_window_size": 16},
    ),
    "mLSTM": ("xLSTMConfig", _SIZES | {"num_heads": 2, "num_blocks": 1, "chunk_size": 16, "use_cache": False}),
    "Lightning": (
        "MiniMaxConfig",
        _SIZES | _HEADS | {"layer_types": ["linear_attention"], "num_local_experts": 2, "block_size": 16},
    ),
    "GatedDelta": (
        "Qwen3NextConfig",
        _SIZES
        | _HEADS
        | {"layer_types": ["linear_attention"], "num_experts": 0, "linear_num_key_heads": 2}
        | {"linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8},
    ),
    "ShortConv": ("Lfm2Config", _SIZES | _HEADS | {"layer_types": ["conv"]}),
}
#: Relative change that rounding to float32 explains, through a layer's norms and products.
ROUNDING = 1e-3


def measured_layers(width: int = 8, length: int = 32, seed: int = 0) -> Iterator[tuple[str, Classification]]:
    """Yield the name of each reference layer, with random weights in float64, and how it mixes tokens.

    Then follow mixers of stock classes, with random weights in float32 and their norms as they are.
    """
    for name, made in LAYERS.items():
        yield name, classify(made(width=width, seed=seed).to(torch.float64).eval(), length=length, seed=seed)
    for name in STOCK:
        yield name, stock_layer(name, length, seed)


def stock_layer(name: str, length: int = 32, seed: int = 0) -> Classification:
    """Return how the mixer of a stock class mixes tokens; `STOCK` names them."""
    kind, settings = STOCK[name]
    with torch.random.fork_rng(devices=[]), kept_off(KERNELS):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**settings)).eval()
        for parameter in model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, 0, 0.4)
    trace = capture(model, input_ids=torch.arange(1, 17)[None])
    return classify(trace, number=0, length=length, tolerance=ROUNDING, seed=seed)
