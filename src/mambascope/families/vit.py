"""Vision Transformer (Dosovitskiy et al., arXiv 2010.11929): the tokens are a class token and image patches."""

from __future__ import annotations

from mambascope.families import llama
from mambascope.families.attention import AttentionFamily

FAMILY = AttentionFamily(
    model_type="vit",
    mixer_class="ViTAttention",
    module="transformers.models.vit.modeling_vit",
    projections=llama.projections,
)
