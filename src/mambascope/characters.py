"""Characters that are split over several tokens: names for tokens that are parts of a character.

A tokenizer that works on bytes splits a character that its vocabulary lacks, such as 好 or 😀, into several tokens. The
text's pieces give the character to the first of them and nothing to the others (see `encode`), which get names here.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Sequence

BYTE = "<0x[0-9A-F]{2}>"
LOOSE = re.compile(f"(?:{BYTE})+")
LONGEST_CHARACTER = 4  # bytes of UTF-8


def character_starts(pieces: Sequence[str]) -> list[int]:
    """Return, for every piece, where its character begins: at the piece itself, unless it continues a character.

    Args:
        pieces: The pieces of a text, as `encode` returns them, or names of tokens with loose bytes as `<0xE5>`.
    """
    starts = list(range(len(pieces)))
    for run, _ in _shared(pieces):
        starts[run.start : run.stop] = [run.start] * len(run)
    return starts


def piece_names(pieces: Sequence[str]) -> list[str]:
    """Return a name for every piece: the piece itself or, if it continues a character, `‹2/3 of 好›`."""
    names = list(pieces)
    for run, characters in _shared(pieces):
        parts = [_part(number, len(run), characters) for number in range(1, len(run) + 1)]
        if len(characters.encode()) == len(run):  # one byte each
            lengths = [len(character.encode()) for character in characters]
            parts = [_part(k + 1, n, one) for n, one in zip(lengths, characters, strict=True) for k in range(n)]
        names[run.start] = pieces[run.start] if pieces[run.start + 1] == "" else characters
        names[run.start + 1 : run.stop] = parts[1:]
    return names


def predicted_name(before: Sequence[str], token: str) -> str:
    """Return a name for a predicted token: loose bytes are named by the character that they complete, if known.

    `‹3/3 of 好›` completes 好 after the tokens before it; `‹byte E5, 1/3›` is the first byte of three.

    Args:
        before: The tokens before it, as `decode_token` returns them.
        token: The token itself, in the same form.
    """
    if not LOOSE.search(token):
        return token
    begun, tokens = _begun(before)
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        text = decoder.decode(begun + _raw(token))
    except UnicodeDecodeError:
        return LOOSE.sub(lambda loose: f"‹{_bytes(_raw(loose[0]))}›", token)
    missing = decoder.getstate()[0]
    if begun and text:
        text = _part(tokens + 1, tokens + 1, text[0]) + text[1:]
    if missing:
        own = missing[len(begun) :] if not text else missing
        text += f"‹{_bytes(own)}, {len(missing)}/{_length(missing[0])}›"
    return text


def _shared(pieces: Sequence[str]) -> Iterator[tuple[range, str]]:
    """Yield every run of pieces that stand for one character, or for characters split together, with the characters."""
    position = 0
    while position < len(pieces):
        stop, characters = _empty_run(pieces, position)
        if not characters:
            stop, characters = _byte_run(pieces, position)
        if characters:
            yield range(position, stop), characters
        position = stop


def _empty_run(pieces: Sequence[str], start: int) -> tuple[int, str]:
    """Return the end of a run of empty pieces after this one, and the characters at its end that they are parts of.

    There are no such characters if they have fewer bytes than parts; characters of one byte are never split.
    """
    stop = start + 1
    while stop < len(pieces) and not pieces[stop]:
        stop += 1
    piece = pieces[start]
    for first in range(len(piece) - 1, -1, -1):
        if stop == start + 1 or piece[first].isascii() or "\ud800" <= piece[first] <= "\udfff":
            break
        if len(piece[first:].encode()) >= stop - start:
            return stop, piece[first:]
    return start + 1, ""


def _byte_run(pieces: Sequence[str], start: int) -> tuple[int, str]:
    """Return the end of a run of pieces that are the loose bytes of one character, and that character."""
    for stop in range(start + 2, min(start + LONGEST_CHARACTER, len(pieces)) + 1):
        if all(LOOSE.fullmatch(piece) for piece in pieces[start:stop]):
            try:
                return stop, _raw("".join(pieces[start:stop])).decode()
            except UnicodeDecodeError:
                continue
    return start + 1, ""


def _begun(before: Sequence[str]) -> tuple[bytes, int]:
    """Return the bytes of a character that the last tokens begin but do not complete, and how many tokens these are."""
    raw = b""
    for count, token in enumerate(before[:-LONGEST_CHARACTER:-1], start=1):
        loose = re.search(f"(?:{BYTE})+$", token)
        if loose is None:
            break
        raw = _raw(loose[0]) + raw
        leads = [place for place, byte in enumerate(raw) if _length(byte) > 1]
        if leads:
            begun = raw[leads[-1] :]
            return (begun, count) if _length(begun[0]) > len(begun) else (b"", 0)
    return b"", 0


def _raw(token: str) -> bytes:
    """Return a token's bytes; `<0xE5>` is one byte."""
    loose = re.compile(BYTE)
    parts = re.split(f"({BYTE})", token)
    return b"".join(
        bytes([int(part[3:5], 16)]) if loose.fullmatch(part) else part.encode("utf-8", "surrogatepass")
        for part in parts
    )


def _length(first: int) -> int:
    """Return the length in bytes of a UTF-8 character that begins with this byte; 1 for bytes that begin none."""
    return 2 if 0xC2 <= first <= 0xDF else 3 if 0xE0 <= first <= 0xEF else 4 if 0xF0 <= first <= 0xF4 else 1


def _bytes(raw: bytes) -> str:
    return f"byte{'s' if len(raw) > 1 else ''} {raw.hex(' ').upper()}"


def _part(number: int, parts: int, characters: str) -> str:
    return f"‹{number}/{parts} of {characters}›"
