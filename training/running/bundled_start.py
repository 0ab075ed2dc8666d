"""The bundled models as a start for task models."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

#: Where the bundled models lie in a clone.
WEIGHTS = Path("src/mambascope/weights")


def bundled(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Return a bundled model in float32 and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(WEIGHTS / name, dtype=torch.float32)
    return model, PreTrainedTokenizerFast.from_pretrained(WEIGHTS / name)
