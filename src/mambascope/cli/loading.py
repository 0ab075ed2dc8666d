"""Loading for the command: names of precisions become precisions, and the libraries keep quiet."""

from __future__ import annotations

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mambascope.trace.load import load as load_model


def load(
    name: str, tokenizer: str | None, dtype: str, device: str, trust_remote_code: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """Return the model and tokenizer that the options name; raises as `mambascope.load` does."""
    transformers.logging.set_verbosity_error()
    return load_model(
        name,
        dtype=getattr(torch, dtype),
        device=device,
        tokenizer=tokenizer,
        trust_remote_code=trust_remote_code,
    )
