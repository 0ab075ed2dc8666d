"""Starting layers so that they hardly forget and their keys resemble their queries ("mimetic initialisation").

A. Trockman et al. Mimetic initialization helps state space models learn to recall. 2024. Everything stays trainable.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

#: softplus of this is 1: the step of every token.
UNIT_STEP = 0.5413
#: What A_log is multiplied by: A = -n becomes -n^-8, next to nothing but for the first state or head.
SLOWER = -8.0


@torch.no_grad()
def start_recall(model: PreTrainedModel, layers: tuple[int, ...] | None = None) -> None:
    """Start the given layers (default: the one in the middle) of a freshly initialised model anew, in place."""
    chosen = (model.config.num_hidden_layers // 2,) if layers is None else layers
    for index in chosen:
        mixer = model.backbone.layers[index].mixer
        N = mixer.ssm_state_size
        mixer.A_log *= SLOWER
        mixer.conv1d.weight.zero_()
        mixer.conv1d.weight[:, 0, -1] = 1.0
        mixer.conv1d.bias.zero_()
        if model.config.model_type == "mamba":
            rank = mixer.time_step_rank
            mixer.dt_proj.weight.zero_()
            mixer.dt_proj.bias.fill_(UNIT_STEP)
            B, C = mixer.x_proj.weight[rank:].split(N)
        else:
            D = mixer.intermediate_size
            mixer.dt_bias.fill_(UNIT_STEP)
            mixer.in_proj.weight[2 * D + 2 * N :].zero_()
            B, C = mixer.in_proj.weight[2 * D : 2 * D + 2 * N].split(N)
        B.copy_((B + C) / 2)
