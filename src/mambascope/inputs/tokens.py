"""Text to token ids and back, with the exact piece of text that each token stands for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mambascope.characters import piece_names
from mambascope.errors import InputError
from mambascope.loading.json_files import one_line
from mambascope.loading.tokenizer import is_tokenizers_own
from mambascope.numbering import shown
from mambascope.panics import panics_unprinted

#: How many tokens a message names at most.
EXAMPLES = 8


def encode(
    tokenizer: PreTrainedTokenizerBase | None, text: str, *, vocab_size: int, special: bool = True
) -> tuple[Int[Tensor, "1 L"], tuple[str, ...]]:
    """Return the token ids of a text and, for each token, the piece of the text that it stands for.

    Joined together, the pieces give the text back: a space that a token swallows belongs to its piece, and a character
    that is split over several tokens belongs to the first of them, while the others have an empty piece. The exception
    is tokens that the tokenizer adds, such as a beginning-of-text token: their piece is their name. With a tokenizer
    that reports no character positions (one without a fast implementation), a piece is the token's own decoding.

    Args:
        tokenizer: the tokenizer that `load` returned.
        text: the text to encode.
        vocab_size: number of rows of the model's embedding, which the ids must stay within.
        special: let the tokenizer add its special tokens, for example at the beginning of a text.

    Raises:
        InputError: if there is no tokenizer, it cannot read the text, the text yields no token, or an id is outside the
            model's vocabulary.
    """
    if tokenizer is None:
        raise InputError(
            "this model has no tokenizer; load it with tokenizer=…, a folder or a hub id (the state-spaces models use "
            "EleutherAI/gpt-neox-20b)"
        )
    _check_text(text)
    with _said(tokenizer, text):
        fast = bool(tokenizer.is_fast)
        encoding = tokenizer(
            text,
            return_offsets_mapping=fast,
            return_special_tokens_mask=True,
            add_special_tokens=special,
            verbose=False,
        )
        ids = encoding["input_ids"]
        if all(encoding["special_tokens_mask"]) and not _spelled_out(tokenizer, ids, text):
            raise InputError(f"the text {shown(text)} yields no token; pass a text with at least one word")
        checked = check_ids(ids, vocab_size)
        if not fast:
            return checked, tuple(decode_token(tokenizer, token) for token in ids)
        return checked, _pieces(tokenizer, text, ids, encoding["offset_mapping"])


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of a text, without special tokens that the tokenizer would add.

    Raises:
        InputError: if the tokenizer cannot read it.
    """
    with _said(tokenizer, text):
        return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def decode_token(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """Return the text of one token for display, with its leading space, and with incomplete characters as `<0xE2>`.

    An id for which the tokenizer has no token (embeddings are often padded to a round number of rows), or which it
    cannot decode, gives `<50279>`.
    """
    try:
        return _decoded(tokenizer, int(token))
    except BaseException as error:
        if not _is_tokenizers_own(error):
            raise
        return f"<{int(token)}>"


def _decoded(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    name = tokenizer.convert_ids_to_tokens(token)
    if not name:
        return f"<{token}>"
    if re.fullmatch("<0x[0-9A-F]{2}>", name):
        return _visible_bytes(bytes([int(name[3:5], 16)]))
    text = str(tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False))
    if "\N{REPLACEMENT CHARACTER}" in text:
        raw = _byte_level(name)
        return text if raw is None else _visible_bytes(raw)
    swallowed = name.startswith("\N{LOWER ONE EIGHTH BLOCK}") and not text.startswith(" ")
    return " " + text if swallowed else text or str(name)


def single_token(tokenizer: PreTrainedTokenizerBase | None, text: str, role: str = "target") -> int:
    """Return the id of a string that is one token.

    Args:
        tokenizer: the tokenizer that `load` returned.
        text: the token's text, with its leading space.
        role: what the token is, for the message.

    Raises:
        InputError: if there is no tokenizer, it cannot read the string, or the string is not one token; the message
            then says which tokens it is.
    """
    if tokenizer is None:
        raise InputError(f"the {role} {text!r} is text, but this model has no tokenizer to read it with")
    _check_text(text)
    ids = text_ids(tokenizer, text)
    if len(ids) == 1:
        return int(ids[0])
    names = piece_names([decode_token(tokenizer, token) for token in ids])
    pieces = ", ".join(map(repr, names[:EXAMPLES])) + (", …" if len(names) > EXAMPLES else "")
    spaced = text_ids(tokenizer, " " + text)
    hint = f"; with a space before it, {' ' + text!r}, it is one" if len(spaced) == 1 else ""
    raise InputError(
        f"the {role} {shown(text)} is {len(ids)} tokens, {pieces}{hint}; name one token, or ask for the "
        "log-probability of the whole with continuation=…"
    )


def check_ids(ids: Sequence[int] | Int[Tensor, "*batch L"], vocab_size: int) -> Int[Tensor, "1 L"]:
    """Return token ids as one row.

    Args:
        ids: ids of one text, as a list, a tensor (L,) or a tensor (1, L).
        vocab_size: number of rows of the model's embedding.

    Raises:
        InputError: if there are none, they are not integers in one row, or one is outside the vocabulary.
    """
    try:
        row = ids if isinstance(ids, Tensor) else torch.as_tensor(ids, device="cpu")  # whatever the default device is
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError("token ids must be one row of integers") from error
    if row.is_meta or row.layout != torch.strided:
        raise InputError("token ids must be one row of integers, found a tensor that holds no plain numbers")
    if row.numel() == 0:
        raise InputError("there are no token ids; at least one is needed")
    if row.is_floating_point() or row.is_complex() or row.dtype == torch.bool or row.numel() != row.shape[-1:].numel():
        raise InputError(f"token ids must be one row of integers, found {row.dtype} of shape {tuple(row.shape)}")
    row = row.reshape(1, -1).long()
    outside = row[(row < 0) | (row >= vocab_size)]
    if outside.numel():
        raise InputError(
            f"token id {int(outside[0])} is outside the model's vocabulary of {vocab_size} tokens (ids 0 to "
            f"{vocab_size - 1}); is this the model's own tokenizer?"
        )
    return row


def _check_text(text: str) -> None:
    """Refuse what no tokenizer can encode."""
    if not isinstance(text, str):
        raise InputError(f"the text must be a string, found {type(text).__name__}")
    if not text:
        raise InputError("the text is empty; pass a text with at least one word")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the text is not valid Unicode: character {error.start} is a lone surrogate") from error


@contextmanager
def _said(tokenizer: Any, text: str) -> Iterator[None]:
    """Turn whatever error a tokenizer raises into an InputError of one sentence; its libraries have various errors."""
    try:
        with panics_unprinted():
            yield
    except BaseException as error:
        if not _is_tokenizers_own(error):
            raise
        unknown = _unknown_word(tokenizer, text)
        reason = one_line(error) if unknown is None else f"it has no token {shown(unknown)}"
        raise InputError(
            f"this model's tokenizer cannot read {shown(text)} ({reason}){_vocabulary(tokenizer)}"
        ) from error


def _is_tokenizers_own(error: BaseException) -> bool:
    """Return whether an error is the tokenizer's, rather than ours, an interruption or a lack of memory."""
    return is_tokenizers_own(error) and not isinstance(error, InputError)


def _unknown_word(tokenizer: Any, text: str) -> str | None:
    """Return the first word of a text that a tokenizer of whole words does not know; None if it is not of that kind."""
    try:
        rules = tokenizer.backend_tokenizer
        if type(rules.model).__name__ != "WordLevel":
            return None
        written = text if rules.normalizer is None else rules.normalizer.normalize_str(text)
        cut = [(written, (0, 0))] if rules.pre_tokenizer is None else rules.pre_tokenizer.pre_tokenize_str(written)
        known = tokenizer.get_vocab()
        return next((word for word, _ in cut if word not in known), None)
    except Exception:  # the message already says what is wrong
        return None


def _vocabulary(tokenizer: Any) -> str:
    """Return what a tokenizer can read, as the end of a sentence; empty if it does not say."""
    try:
        special = set(tokenizer.all_special_tokens)
        names = sorted(name for name in tokenizer.get_vocab() if name not in special)
    except Exception:  # the message already says what is wrong
        return ""
    named = ", ".join(repr(name) for name in names[:EXAMPLES])
    return f"; it knows {len(names)} tokens, such as {named}" if names else ""


def _spelled_out(tokenizer: PreTrainedTokenizerBase, ids: list[int], text: str) -> bool:
    """Return whether the text itself contains the name of one of the tokens, such as `<|endoftext|>`."""
    return any(name and name in text for name in map(tokenizer.convert_ids_to_tokens, ids))


def _pieces(
    tokenizer: PreTrainedTokenizerBase, text: str, ids: list[int], spans: list[tuple[int, int]]
) -> tuple[str, ...]:
    """Cut the text at the ends of the tokens' spans, so that no character is lost or repeated.

    Spans may omit spaces (which then belong to the next token) and may overlap (several tokens of one character all
    span it). Special tokens that the tokenizer adds have an empty span.
    """
    special = set(tokenizer.all_special_ids)
    pieces: list[str] = []
    done = last = 0
    for position, (token, (start, end)) in enumerate(zip(ids, spans, strict=True)):
        if start == end and token in special:
            pieces.append(str(tokenizer.convert_ids_to_tokens(token)))
            continue
        pieces.append(text[done : max(done, end)])
        done, last = max(done, end), position
    pieces[last] += text[done:]
    return tuple(pieces)


def _byte_level(name: str) -> bytes | None:
    """Return the bytes that a byte-level BPE token stands for, or None if it is not one.

    GPT-2's alphabet writes printable Latin-1 bytes as themselves and the others, in order, from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable} | {chr(0x100 + k): byte for k, byte in enumerate(others)}
    return bytes(alphabet[letter] for letter in name) if set(name) <= alphabet.keys() else None


def _visible_bytes(raw: bytes) -> str:
    """Return bytes as text, with those that do not form a complete character as `<0xE2>`."""
    letters = raw.decode("utf-8", "surrogateescape")
    return "".join(f"<0x{ord(c) - 0xDC00:02X}>" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in letters)
