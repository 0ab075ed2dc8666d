"""Model families: one small file each, saying where its tensors are. To add one, write its file and list it here.

`register` takes a family from outside the package.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from mambascope.errors import InputError, UnsupportedModelError
from mambascope.families import (
    bamba,
    bert,
    falcon_h1,
    falcon_mamba,
    gpt2,
    gpt_neox,
    granitemoehybrid,
    jamba,
    kimi_linear,
    lfm2,
    llama,
    mamba,
    mamba2,
    mambavision,
    minimax,
    nemotron_h,
    olmo_hybrid,
    qwen3_5,
    qwen3_next,
    recurrent_gemma,
    rwkv,
    vim,
    vit,
    vmamba,
    xlstm,
    zamba,
    zamba2,
)
from mambascope.families.attention import AttentionFamily
from mambascope.families.family import Captured, Family, Kind, MixerFamily, PlainFamily, ScanCall, found_by
from mambascope.families.recognised import RATES, recognise, shortfall
from mambascope.numbering import shown
from mambascope.registry import Registry

#: Every family, by the class of its mixers.
FAMILIES: Registry[MixerFamily] = Registry(
    "family",
    MixerFamily,
    (
        mamba.FAMILY,
        falcon_mamba.FAMILY,
        mamba2.FAMILY,
        vim.FAMILY,
        mambavision.FAMILY,
        vmamba.FAMILY,
        gpt2.FAMILY,
        gpt_neox.FAMILY,
        bert.FAMILY,
        vit.FAMILY,
        *llama.FAMILIES,
        *bamba.FAMILIES,
        *granitemoehybrid.FAMILIES,
        *falcon_h1.FAMILIES,
        *nemotron_h.FAMILIES,
        *jamba.FAMILIES,
        *zamba.FAMILIES,
        *zamba2.FAMILIES,
        mambavision.ATTENTION_FAMILY,
        qwen3_next.FAMILY,
        qwen3_next.ATTENTION_FAMILY,
        *qwen3_5.FAMILIES,
        olmo_hybrid.FAMILY,
        olmo_hybrid.ATTENTION_FAMILY,
        kimi_linear.FAMILY,
        kimi_linear.ATTENTION_FAMILY,
        *lfm2.FAMILIES,
        *recurrent_gemma.FAMILIES,
        *rwkv.FAMILIES,
        xlstm.FAMILY,
        *minimax.FAMILIES,
    ),
)

register = FAMILIES.register

__all__ = [
    "FAMILIES",
    "AttentionFamily",
    "Captured",
    "Family",
    "Kind",
    "MixerFamily",
    "PlainFamily",
    "ScanCall",
    "check_model",
    "find_mixers",
    "found_by",
    "kinds_of",
    "kinds_of_type",
    "model_types",
    "register",
    "shortfall",
    "unshare",
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


def find_mixers(model: nn.Module, *, partial: bool = False) -> list[tuple[str, nn.Module, MixerFamily]]:
    """Return the name, module and family of every token mixer of a model, in the order of its layers.

    Mixers are selective scans, softmax self-attention, and those registered from outside. If several families describe
    a mixer, the one registered last is taken; a mixer that none describes may be recognised by its structure.

    Args:
        model: The model.
        partial: Leave out state-space mixers that cannot be read instead of refusing the model for them.

    Raises:
        InputError: if this is not a model.
        UnsupportedModelError: if it has no mixer that can be read, or a state-space mixer that cannot.
    """
    check_model(model)
    known = list(reversed(FAMILIES.values()))
    mixers: list[tuple[str, nn.Module, MixerFamily]] = []
    within = ""
    for name, module in model.named_modules():
        family = next((family for family in known if family.describes(module)), None)
        if family is None and within and name.startswith(within):
            continue
        family = family or recognise(module, FAMILIES.values())
        if family is not None:
            mixers.append((name, module, family))
            within = f"{name}."
        elif within and name.startswith(within):
            continue  # a part of a mixer that has been found, such as the forget gate of Kimi's
        elif not partial and any(isinstance(getattr(module, rate, None), nn.Parameter) for rate in RATES):
            lacking = shortfall(module, FAMILIES.values())
            raise UnsupportedModelError(
                f"{name or 'the model'} is a {type(module).__name__}, a state-space mixer that mambascope cannot read "
                f"yet{lacking and f' ({lacking})'}; in Python, capture(…, partial=True) reads the other layers; "
                f"supported are models of the types {supported()}"
            )
    if not mixers:
        raise UnsupportedModelError(
            f"{type(model).__name__} holds no token mixer that mambascope can read; supported are models of the types "
            f"{supported()}"
        )
    return mixers


def unshare(model: nn.Module) -> None:
    """Give the mixers of a private copy tensors of their own where the model's code would change them in place.

    Raises:
        UnsupportedModelError: if a family cannot.
    """
    able = [family for family in FAMILIES.values() if isinstance(family, PlainFamily)]
    for module in model.modules():
        for family in able:
            if family.unshare is not None and family.describes(module):
                family.unshare(model, module)


def kinds_of(model: nn.Module) -> frozenset[Kind]:
    """Return the kinds of mixer in a model; raises as `find_mixers` does."""
    return frozenset(family.kind for _, _, family in find_mixers(model))


def model_types() -> list[str]:
    """Return the model types that have a family, as `config.model_type` names them."""
    return list(dict.fromkeys(family.model_type for family in FAMILIES.values()))


def kinds_of_type(model_type: str) -> frozenset[Kind]:
    """Return what the mixers of a model type mix tokens with; empty for a type that has no family.

    The text part of a model that reads more has the type of the whole, and `_text` after it.
    """
    names = (model_type, model_type.removesuffix("_text"))
    return frozenset(family.kind for family in FAMILIES.values() if family.model_type in names)


def supported() -> str:
    """Return the supported model types, for messages."""
    return ", ".join(model_types())
