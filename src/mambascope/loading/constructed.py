"""Models known by construction, by name, with a tokenizer whose tokens are the words of their mechanism."""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mambascope.errors import InputError
from mambascope.models.constructed import PREFIX, Mechanism, build, mechanism_of
from mambascope.numbering import shown


def is_constructed(name: Any) -> TypeGuard[str]:
    """Return whether a name is one of a constructed model, such as `constructed:recall-mamba`."""
    return isinstance(name, str) and name.startswith(PREFIX)


def load_constructed(
    name: str, *, tokenizer: Any, dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Return the constructed model of a name, and its tokenizer.

    Args:
        name: Its name, `constructed:MECHANISM-ARCHITECTURE`.
        tokenizer: A tokenizer that was named for it, which is refused.
        dtype: Its precision.

    Raises:
        InputError: if there is no such model, or a tokenizer was named for it.
    """
    mechanism = mechanism_of(name)
    if tokenizer is not None:
        raise InputError(f"{name} reads its own words alone; leave tokenizer={shown(tokenizer)} out")
    return build(name).to(dtype), words(mechanism)


def words(mechanism: Mechanism) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a mechanism: words between spaces are tokens, and no other word is known.

    Where each text begins with a certain token, the tokenizer adds it.
    """
    ids, opens = mechanism.machine.ids, mechanism.opens
    rules = Tokenizer(WordLevel(ids))  # without a token for what is unknown, so that it is refused
    rules.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if opens:
        rules.post_processor = processors.TemplateProcessing(single=f"{opens} $A", special_tokens=[(opens, ids[opens])])
    role = {"bos_token": opens} if opens else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=rules,
        model_max_length=mechanism.machine.length,
        clean_up_tokenization_spaces=False,
        **role,
    )
