"""What a model reads so that its heads can be told apart: rows of random tokens, each twice, and a text with marks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mambascope.brief import brief
from mambascope.errors import InputError
from mambascope.inputs.checks import longest_text
from mambascope.inputs.preparation import reads_pictures
from mambascope.inputs.tokens import encode
from mambascope.theory.heads import EARLIEST, repeated_rows
from mambascope.trace.embedding import token_table

#: What `separator` is measured on unless a text is given.
TEXT = """Mr. Bolton was a rich man, and Mrs. Bolton was proud of it. Every day, at nine, he left the house.
"Where are you going?" she asked. "To the city," he said, "as always."
In the evening he came back, sat down, and read the paper."""
#: Size of the rows of random tokens, before they are repeated.
ROWS, SPAN = 6, 24


@dataclass(frozen=True)
class ProbeTexts:
    """What a model reads.

    Attributes:
        rows: Random tokens, each row written twice.
        read: The text; None without a tokenizer, or with one that cannot read `TEXT` or knows no marks.
        ids: Its token ids.
        separators: Which of them are marks of punctuation or ends of lines.
    """

    rows: Int[Tensor, "b L"]
    read: str | None = None
    ids: Int[Tensor, "1 T"] | None = None
    separators: Bool[Tensor, " T"] | None = None

    __repr__ = brief

    @property
    def span(self) -> int:
        """How many tokens a row has before it is repeated."""
        return self.rows.shape[1] // 2


def probe_texts(model: Any, tokenizer: Any, text: str | None = None) -> ProbeTexts:
    """Return what a model's heads are measured on.

    Args:
        model: A model that reads text.
        tokenizer: Its tokenizer; None if it has none.
        text: A text with marks of punctuation; by default `TEXT`.

    Raises:
        InputError: if the model reads pictures or too few tokens, or the text cannot be read or has no marks.
    """
    if reads_pictures(model):
        raise InputError("what heads do is measured on tokens; this model reads pictures")
    vocabulary, longest = token_table(model).num_embeddings, longest_text(model)
    span = SPAN if longest is None else min(SPAN, longest // 2)
    if span < EARLIEST:
        raise InputError(f"what heads do is measured on {2 * EARLIEST} tokens or more; the model reads {2 * span}")
    known = vocabulary if tokenizer is None else min(vocabulary, len(tokenizer))
    special = set() if tokenizer is None else set(tokenizer.all_special_ids)
    rows = repeated_rows([token for token in range(known) if token not in special], span, ROWS).to(model.device)
    if tokenizer is None and text is not None:
        raise InputError("this model has no tokenizer, so it cannot read the text; leave it out")
    try:
        read = TEXT if text is None else text
        ids, pieces = encode(tokenizer, read, vocab_size=vocabulary)
    except InputError:
        if text is not None:
            raise
        return ProbeTexts(rows)
    ids = ids[:, :longest].to(model.device)
    marks = torch.tensor([_separates(piece) for piece in pieces[: ids.shape[1]]], device=model.device)
    if marks[EARLIEST:].any():
        return ProbeTexts(rows, read, ids, marks)
    if text is not None:
        raise InputError("the text has no marks of punctuation and no line's end to look at; give another")
    return ProbeTexts(rows)


def _separates(piece: str) -> bool:
    """Return whether a token is marks of punctuation or a line's end."""
    return bool(piece) and not any(character.isalnum() or character == "_" for character in piece) and (
        "\n" in piece or bool(piece.strip())
    )  # fmt: skip
