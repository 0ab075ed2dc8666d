"""AdamW as every run here uses it."""

from __future__ import annotations

import torch
from torch import nn

#: What the projections' matrices are called: in mixers, in attention, and in the two layers between attentions.
DECAYED = ("proj.weight", "in_proj_qkv.weight", "in_proj_z.weight", "fc1.weight", "fc2.weight")


def optimiser(model: nn.Module, peak: float, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW with weight decay on the projections' matrices alone (not on A, D, biases, norms or embeddings)."""
    decayed = [p for name, p in model.named_parameters() if name.endswith(DECAYED)]
    others = [p for name, p in model.named_parameters() if not name.endswith(DECAYED)]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.95), fused=True)
