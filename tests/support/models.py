"""Small stock models with weights from N(0, 0.4): the default initialisation lets the skip hide everything else."""

import contextlib
import importlib
import sys

import pytest
import torch
import transformers
from transformers import FalconMambaConfig, Mamba2Config, MambaConfig

SIZES = {"vocab_size": 50, "hidden_size": 12, "num_hidden_layers": 2, "pad_token_id": 0}
CONFIGS = {
    "mamba": lambda **o: MambaConfig(**SIZES | {"state_size": 3, "use_bias": True, "residual_in_fp32": False} | o),
    "falcon_mamba": lambda **o: FalconMambaConfig(**SIZES | {"state_size": 3, "residual_in_fp32": False} | o),
    "mamba2": lambda **o: Mamba2Config(
        **SIZES
        | {"state_size": 5, "n_groups": 2, "head_dim": 6, "num_heads": 4, "chunk_size": 16, "use_bias": True}
        | {"residual_in_fp32": False}
        | o
    ),
}
FAMILIES = tuple(CONFIGS)


def stock_model(family: str, dtype: torch.dtype = torch.float32, seed: int = 0, **options):
    """Return a causal language model of the family with every weight drawn from N(0, 0.4), norms around 1."""
    config = CONFIGS[family](**options)
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1 if "norm" in name else 0, 0.4)
    return model.to(dtype)


def padded_batch(length: int, batch: int, side: str, seed: int = 0):
    """Return token ids and a mask in which rows 1, 2, … are shorter and padded on the given side."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 50, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(1, batch):
        pad = min(length - 1, 2 * row)
        places = slice(0, pad) if side == "left" else slice(length - pad, length)
        ids[row, places], mask[row, places] = 0, 0
    return ids, mask


@contextlib.contextmanager
def without_downcasts(family: str):
    """Let the stock modelling code compute in float64 throughout: its own casts to float32 do nothing inside the block.

    The code under test as the reference is then transformers' own, line by line, in double precision.
    """
    name = family.removesuffix("_text")  # the text part of a wrapper is in its file
    importlib.import_module(f"transformers.models.{name}.modeling_{name}")

    class Torch:
        float32 = float = torch.float64

        def __getattr__(self, name):
            return getattr(torch, name)

    patch = pytest.MonkeyPatch()
    try:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        for name, module in list(sys.modules.items()):  # a family may take parts from another's file
            if name.startswith("transformers.models.") and ".modeling_" in name and hasattr(module, "torch"):
                patch.setattr(module, "torch", Torch())
        yield
    finally:
        patch.undo()


ATTENTION_SIZES = {
    "vocab_size": 50,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 16,
}
TOKEN_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
GROUPED = {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6}
#: Class and configuration of small stock Transformers by model type.
TRANSFORMERS = {
    "gpt2": (
        "GPT2LMHeadModel",
        lambda **o: transformers.GPT2Config(
            **{"vocab_size": 50, "n_embd": 12, "n_layer": 2, "n_head": 3, "n_positions": 256} | TOKEN_IDS | o
        ),
    ),
    "gpt_neox": (
        "GPTNeoXForCausalLM",
        lambda **o: transformers.GPTNeoXConfig(**ATTENTION_SIZES | TOKEN_IDS | {"rotary_pct": 0.5} | o),
    ),
    "bert": (
        "BertForSequenceClassification",
        lambda **o: transformers.BertConfig(**ATTENTION_SIZES | {"pad_token_id": 0} | o),
    ),
    "vit": (
        "ViTForImageClassification",
        lambda **o: transformers.ViTConfig(
            **{k: v for k, v in ATTENTION_SIZES.items() if k != "vocab_size"} | {"image_size": 8, "patch_size": 2} | o
        ),
    ),
    "llama": (
        "LlamaForCausalLM",
        lambda **o: transformers.LlamaConfig(**ATTENTION_SIZES | TOKEN_IDS | GROUPED | {"attention_bias": True} | o),
    ),
    "mistral": (
        "MistralForCausalLM",
        lambda **o: transformers.MistralConfig(**ATTENTION_SIZES | TOKEN_IDS | GROUPED | {"sliding_window": 8} | o),
    ),
    "qwen2": (
        "Qwen2ForCausalLM",
        lambda **o: transformers.Qwen2Config(**ATTENTION_SIZES | TOKEN_IDS | GROUPED | {"head_dim": 4} | o),
    ),
    "qwen3": (
        "Qwen3ForCausalLM",
        lambda **o: transformers.Qwen3Config(**ATTENTION_SIZES | TOKEN_IDS | GROUPED | {"attention_bias": True} | o),
    ),
}


def stock_transformer(family: str, dtype: torch.dtype = torch.float32, seed: int = 0, **options):
    """Return a stock Transformer with every weight drawn from N(0, 0.4), norms around 1."""
    name, config = TRANSFORMERS[family]
    torch.manual_seed(seed)
    model = getattr(transformers, name)(config(**options)).eval()
    with torch.no_grad():
        for parameter, value in model.named_parameters():
            is_norm = "norm" in parameter.lower() or ".ln_" in parameter
            value.normal_(1 if is_norm and parameter.endswith("weight") else 0, 0.4)
    return model.to(dtype)


def transformer_inputs(family: str, dtype: torch.dtype = torch.float32, length: int = 11, side: str = "right"):
    """Return inputs of three sequences: images for a vision model, else padded text; `side` may be none."""
    if family == "vit":
        generator = torch.Generator().manual_seed(0)
        return {"pixel_values": torch.randn(3, 3, 8, 8, dtype=dtype, generator=generator)}
    ids, mask = padded_batch(length, 3, side)
    return {"input_ids": ids} if side == "none" else {"input_ids": ids, "attention_mask": mask}
