"""Which of a model's arguments a pass takes: those that take effect; what would be ignored in silence is refused.

Stock models accept any argument by name and drop what they do not know, such as the boundaries of packed texts.
"""

from __future__ import annotations

import inspect
from typing import Any

import transformers
from torch import nn

from mambascope.errors import InputError

#: The arguments that take a cache: `cache` from transformers 5.24 on, the others before.
CACHES = ("cache", "cache_params", "past_key_values")

#: The arguments that mark the boundaries of several texts in one row. Only compiled kernels read them.
PACKING = (
    "seq_idx",
    "cu_seqlens",
    "cu_seq_lens_q",
    "cu_seq_lens_k",
    "cu_seqlens_q",
    "cu_seqlens_k",
    "max_length_q",
    "max_length_k",
    "max_seqlen_q",
    "max_seqlen_k",
)

#: Arguments that a pass does not take, with the reason.
REFUSED = {
    "labels": "a pass computes no loss",
    "mc_labels": "a pass computes no loss",
    "next_sentence_label": "a pass computes no loss",
    "start_positions": "a pass computes no loss",
    "end_positions": "a pass computes no loss",
    "num_items_in_batch": "a pass computes no loss",
    "logits_to_keep": "readouts count positions among the logits of all tokens",
    "encoder_hidden_states": "what cross-attention reads is not explained",
    "encoder_attention_mask": "what cross-attention reads is not explained",
    "is_causal": "the model's own mask holds",
    "adapter_names": "one adapter is active for all texts (set_adapter)",
    "bool_masked_pos": "pictures are read whole",
}

#: Arguments that change only what is returned besides the logits, and those whose values `checks` looks at.
HARMLESS = ("use_cache", "output_attentions", "output_hidden_states", "return_dict", "position_ids", "token_type_ids")


def check_names(model: nn.Module, inputs: dict[str, Any]) -> None:
    """Raise InputError for an argument that the model would not read, or that a pass cannot take."""
    given = [name for name, value in inputs.items() if value is not None and not _keeps_all(name, value)]
    model_class = type(model).__name__
    if inputs.get("use_cache") or any(name in CACHES for name in given):
        raise InputError(
            f"a capture reads a whole text at once; pass no cache (use_cache=False, no {', '.join(CACHES)})"
        )
    for name in given:
        if name in PACKING:
            raise InputError(
                f"{name} says where texts end that are packed into one row, which {model_class} ignores here, so that "
                "tokens would be credited to another text; pass each text in a row of its own"
            )
        if name in REFUSED:
            raise InputError(f"{name} cannot be used here: {REFUSED[name]}; leave it out")
    known, takes_any = read_by(model)
    for name in given:
        if name not in known and name not in HARMLESS and not takes_any:
            raise InputError(f"{model_class} does not read {name}; it reads {', '.join(known)}")
    returned = inputs.get("return_dict", getattr(getattr(model, "config", None), "return_dict", True))
    if returned is False:
        raise InputError(f"{model_class} would return its outputs without their names; leave out return_dict=False")


def _keeps_all(name: str, value: Any) -> bool:
    return name == "logits_to_keep" and isinstance(value, int) and value == 0


def read_by(model: nn.Module) -> tuple[list[str], bool]:
    """Return the arguments that a model names, and whether it may read others too.

    A stock model hands others on to its own base model at most; of any other module this is not known.
    """
    parts = [model]
    if isinstance(model, transformers.PreTrainedModel) and model.base_model is not model:
        parts.append(model.base_model)
    parameters = [one for part in parts for one in inspect.signature(part.forward).parameters.values()]
    named = dict.fromkeys(one.name for one in parameters if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL))
    takes_any = any(one.kind == one.VAR_KEYWORD for one in parameters)
    unread = {"use_cache", "return_dict", "output_hidden_states", *CACHES, *REFUSED}
    known = [name for name in named if name not in unread]
    return known, takes_any and not isinstance(model, transformers.PreTrainedModel)
