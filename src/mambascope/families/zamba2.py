"""Zamba2 (Glorioso et al., arXiv 2411.15242): Zamba's shared blocks beside layers of Mamba-2.

Each layer that shares an attention's weights may add an adapter of low rank to them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import transformers
from torch import nn

from mambascope.brief import brief
from mambascope.errors import UnsupportedModelError
from mambascope.families import llama, mamba2
from mambascope.families.attention import AttentionFamily, Projections
from mambascope.families.family import Captured
from mambascope.operators.attention_layer import AttentionLayer

MODULE = "transformers.models.zamba2.modeling_zamba2"


def projections(mixer: Any, heads: int, layer: int | None = None) -> Projections:
    """Return v_proj, with the adapter of the layer that called where there are adapters, and o_proj.

    Raises:
        UnsupportedModelError: if the layer that called has no adapter, as older releases of transformers may build it;
            their own pass fails too.
    """
    part = llama.projections(mixer, heads)
    if layer is None or not mixer.config.use_shared_attention_adapter:
        return part
    adapter = mixer.linear_v_adapter_list[mixer.layer_dic[layer]]
    if isinstance(adapter, nn.Identity):
        raise UnsupportedModelError(
            f"layer {layer} of this Zamba2 has no adapter for its shared attention; transformers "
            f"{transformers.__version__} builds such models wrongly, and newer releases do not"
        )
    first, second = adapter
    return replace(part, W_V=part.W_V + second.weight @ first.weight)


@dataclass(frozen=True)
class SharedAttentionFamily(AttentionFamily):
    """Attention whose weights depend on the layer that calls it."""

    __repr__ = brief

    def affine(self, mixer: Any, captured: Captured, dtype: torch.dtype) -> AttentionLayer:
        """Return the affine map of one call."""
        called = replace(self, projections=partial(projections, layer=captured.layer))
        return AttentionFamily.affine(called, mixer, captured, dtype)


FAMILIES = (
    replace(mamba2.FAMILY, model_type="zamba2", mixer_class="Zamba2MambaMixer", module=MODULE),
    SharedAttentionFamily(
        model_type="zamba2",
        mixer_class="Zamba2Attention",
        module=MODULE,
        projections=projections,
        aside=True,
    ),
)
