"""Cross-entropy of a stock language model, in bfloat16 products and float32 sums."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel


def token_losses(model: PreTrainedModel, rows: Tensor) -> Tensor:
    """Return the loss in nats of tokens 1, 2, … of (b, L + 1) rows given those before, as (b, L)."""
    hidden = model.backbone(rows[:, :-1], use_cache=False)[0]
    logits = model.lm_head(hidden)
    return F.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten(), reduction="none").view(len(rows), -1)


def bits_per_byte(nats_per_token: float, bytes_per_token: float) -> float:
    """Return a loss per token as bits per byte of text."""
    return nats_per_token / math.log(2) / bytes_per_token


def mixed_precision(enabled: bool = True) -> torch.autocast:
    """Return the context in which matrix products run in bfloat16."""
    return torch.autocast("cpu", torch.bfloat16, enabled=enabled)
