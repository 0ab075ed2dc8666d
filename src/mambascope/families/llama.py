"""Llama (Touvron et al., arXiv 2302.13971) and the models that adopted its layer: several heads may share values."""

from __future__ import annotations

from typing import Any

from einops import repeat

from mambascope.families.attention import AttentionFamily, Projections


def projections(mixer: Any, heads: int) -> Projections:
    """Return v_proj, its heads repeated for every query head that they serve (grouped-query attention), and o_proj."""
    return shared_values(mixer.v_proj, mixer.o_proj, mixer.head_dim, heads)


def shared_values(value: Any, out: Any, head_dim: int, heads: int) -> Projections:
    """Return the projections of a layer in which several of its heads may share one head of values.

    Args:
        value: The linear map that makes the values.
        out: The output projection.
        head_dim: P, the width of a head.
        heads: H, the number of query heads.
    """
    groups = value.weight.shape[0] // head_dim
    sharing = heads // groups
    return Projections(
        W_V=repeat(value.weight, "(g p) e -> (g s p) e", g=groups, s=sharing),
        b_V=None if value.bias is None else repeat(value.bias, "(g p) -> (g s p)", g=groups, s=sharing),
        W_O=out.weight,
        b_O=out.bias,
    )


FAMILIES = tuple(
    AttentionFamily(
        model_type=model_type,
        mixer_class=mixer_class,
        module=f"transformers.models.{model_type}.modeling_{model_type}",
        projections=projections,
        parts=("q_proj", "k_proj", "v_proj", "o_proj", "head_dim"),
    )
    for model_type, mixer_class in (
        ("llama", "LlamaAttention"),
        ("mistral", "MistralAttention"),
        ("qwen2", "Qwen2Attention"),
        ("qwen3", "Qwen3Attention"),
    )
)
