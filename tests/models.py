"""Small stock models with weights from N(0, 0.4): the default initialisation lets the skip hide everything else."""

import contextlib

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
    module = __import__(f"transformers.models.{family}.modeling_{family}", fromlist=["torch"])

    class Torch:
        float32 = torch.float64

        def __getattr__(self, name):
            return getattr(torch, name)

    patch = pytest.MonkeyPatch()
    try:
        patch.setattr(torch.Tensor, "float", lambda tensor: tensor)
        patch.setattr(module, "torch", Torch())
        yield
    finally:
        patch.undo()
