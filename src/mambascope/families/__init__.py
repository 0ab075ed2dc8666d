"""Model families: one small file each, saying where its tensors are. To add one, write its file and list it here."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from mambascope.errors import InputError, UnsupportedModelError
from mambascope.families import (
    bert,
    falcon_mamba,
    gpt2,
    gpt_neox,
    llama,
    mamba,
    mamba2,
    mambavision,
    vim,
    vit,
    vmamba,
)
from mambascope.families.attention import AttentionFamily
from mambascope.families.family import Captured, Family, Kind, MixerFamily, ScanCall
from mambascope.numbering import shown

#: Families of selective-scan mixers, by model type.
FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (mamba.FAMILY, falcon_mamba.FAMILY, mamba2.FAMILY, vim.FAMILY, mambavision.FAMILY, vmamba.FAMILY)
}

#: Families of softmax attention layers, by model type.
ATTENTION_FAMILIES: dict[str, AttentionFamily] = {
    family.model_type: family for family in (gpt2.FAMILY, gpt_neox.FAMILY, bert.FAMILY, vit.FAMILY, *llama.FAMILIES)
}

#: Families of attention layers in this project's own models.
OWN_ATTENTION: tuple[AttentionFamily, ...] = (mambavision.ATTENTION_FAMILY,)

#: Names of the decay rates, by which a state-space mixer is recognised.
RATES = ("A_log", "A_logs")

__all__ = [
    "ATTENTION_FAMILIES",
    "FAMILIES",
    "AttentionFamily",
    "Captured",
    "Family",
    "Kind",
    "MixerFamily",
    "ScanCall",
    "check_model",
    "find_mixers",
    "kinds_of",
]


def check_model(model: Any) -> None:
    """Raise InputError, saying what to pass instead, unless this is a model."""
    if isinstance(model, nn.Module):
        return
    if isinstance(model, str):
        raise InputError(
            f"the model is the name {shown(model)}; load it first: model, tokenizer = mambascope.load({shown(model)})"
        )
    if isinstance(model, PreTrainedTokenizerBase):
        raise InputError("the model is a tokenizer; pass the model first, then its tokenizer")
    if isinstance(model, tuple) and any(isinstance(part, nn.Module) for part in model):
        raise InputError("the model is a pair; unpack it: model, tokenizer = mambascope.load(…)")
    raise InputError(f"the model must be one that mambascope.load or transformers returned, found {shown(model)}")


def find_mixers(model: nn.Module) -> list[tuple[str, nn.Module, MixerFamily]]:
    """Return the name, module and family of every token mixer of a model, in the order of its layers.

    Mixers are selective scans and softmax self-attention.

    Raises:
        InputError: if this is not a model.
        UnsupportedModelError: if it has no mixer, or a state-space mixer of a class that no family describes.
    """
    check_model(model)
    known: list[MixerFamily] = [*FAMILIES.values(), *ATTENTION_FAMILIES.values(), *OWN_ATTENTION]
    mixers = []
    for name, module in model.named_modules():
        family = next((family for family in known if family.describes(module)), None) or mambavision.recognise(module)
        if family is not None:
            mixers.append((name, module, family))
        elif any(isinstance(getattr(module, name, None), nn.Parameter) for name in RATES):
            raise UnsupportedModelError(
                f"{name or 'the model'} is a {type(module).__name__}, a state-space mixer that mambascope cannot read "
                f"yet; supported are {supported()}"
            )
    if not mixers:
        raise UnsupportedModelError(
            f"{type(model).__name__} holds no token mixer that mambascope can read; supported are models with "
            f"{supported()}"
        )
    return mixers


def kinds_of(model: nn.Module) -> frozenset[Kind]:
    """Return the kinds of mixer in a model; raises as `find_mixers` does."""
    return frozenset(family.kind for _, _, family in find_mixers(model))


def supported() -> str:
    """Return the names of the supported mixer classes, for messages."""
    families: list[MixerFamily] = [*FAMILIES.values(), *ATTENTION_FAMILIES.values()]
    return ", ".join(family.mixer_class for family in families)
