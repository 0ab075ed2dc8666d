"""A model's own greedy continuation of a text."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import GenerationConfig

from mambascope.errors import InputError
from mambascope.inputs.checks import check_inputs, longest_text
from mambascope.numbering import whole_number
from mambascope.trace.footprint import require_generation
from mambascope.trace.running import refusals_named, running


def greedy_continuation(model: nn.Module, input_ids: Int[Tensor, "b L"], count: int) -> list[int]:
    """Return the tokens with which a model continues a text, the likeliest one at every step.

    Settings of the checkpoint that would choose otherwise, such as sampling or a penalty on repetition, are left out.

    Args:
        model: A language model.
        input_ids: One text.
        count: How many tokens; fewer come back where the model ends the text before.

    Raises:
        MapTooLargeError: if the text with all of them would not fit in memory.
        InputError: if there are several texts or ids out of range, the model predicts no next token, `count` is not a
            whole number from 1, or the model has no positions for so long a text.
    """
    count = whole_number(count, "generate")
    if count < 1:
        raise InputError(f"generate={count} asks for no token; ask for 1 or more")
    able = getattr(model, "can_generate", None)
    if able is None or not able():
        raise InputError(
            f"{type(model).__name__} does not predict the next token, so it cannot generate a continuation"
        )
    check_inputs(model, {"input_ids": input_ids})
    if input_ids.shape[0] != 1:
        raise InputError(f"generate continues one text at a time; these inputs hold {input_ids.shape[0]}")
    longest, length = longest_text(model), input_ids.shape[1]
    if longest is not None and length + count > longest:
        raise InputError(
            f"the text has {length} tokens and generate={count} adds more, and {type(model).__name__} has positions "
            f"for {longest}; shorten the text"
        )
    require_generation(model, input_ids, count)
    known = getattr(model, "generation_config", None)
    ends = getattr(known, "eos_token_id", None)
    pad = getattr(known, "pad_token_id", None)
    ends = None if ends == [] else ends
    first_end = ends[0] if isinstance(ends, list) else ends
    settings = GenerationConfig(
        max_new_tokens=count, do_sample=False, eos_token_id=ends, pad_token_id=first_end if pad is None else pad
    )
    with running(model) as own, torch.no_grad(), refusals_named(own):
        own.generation_config = GenerationConfig()
        found = own.generate(input_ids, attention_mask=torch.ones_like(input_ids), generation_config=settings)
    return found[0, length:].tolist()
