"""Damage to files: any bytes, and what knows JSON, safetensors, pickles in zip archives, PNG and tables."""

from __future__ import annotations

import base64
import io
import itertools
import json
import pickletools
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

import torch
from safetensors.torch import load, save

from . import hostile
from .findings import StaleError

#: Names and texts that some readers give a meaning.
WORDS = (
    "",
    "a",
    "0",
    "-1",
    "nan",
    "x" * 300,
    "é",
    "\ud83d",
    "\x00",
    "../x",
    "None",
    "[]",
    "[UNK]",
    "cls_token",
    "float16",
    "auto",
)
NUMBERS = (
    0,
    1,
    -1,
    2,
    3,
    1.5,
    -0.0,
    1e-320,
    1e308,
    -1e308,
    10**9,
    2**31,
    2**53,
    2**63,
    2**64,
    -(2**63),
    10**40,
    255,
    4096,
)
SPECIAL = (
    None,
    True,
    False,
    float("nan"),
    float("inf"),
    -float("inf"),
    [],
    {},
    [[]],
    [None],
    {"": {}},
    "",
    [0],
    {"a": 1},
)

#: A change of more bytes than this is packed by reference to what was there before, and ends with that.
LARGE = 1500

#: Marks a list nested as deep as the number between two of these says.
DEEP = "@deep@"


def mutated(rng: Random, name: str, content: bytes) -> bytes:
    """Return a damaged file; most damage knows the format that its name says."""
    formats: tuple[tuple[str, Callable[[Random, bytes], bytes]], ...] = (
        (".json", in_json),
        (".safetensors", in_safetensors),
        (".pth", in_archive),
        (".bin", in_archive),
        (".zip", in_archive),
        (".png", in_png),
        (".csv", in_lines),
        (".tsv", in_lines),
        (".jsonl", in_lines),
        (".txt", in_lines),
    )
    knows = next((damage for ending, damage in formats if name.endswith(ending)), None)
    if knows is None or rng.random() < 0.25:
        return in_bytes(rng, content)
    try:
        return knows(rng, content)
    except (ValueError, KeyError, IndexError, OverflowError, RuntimeError, struct.error, zipfile.BadZipFile):
        return in_bytes(rng, content)


def in_bytes(rng: Random, content: bytes) -> bytes:
    """Return the content with one to three random changes: bits, cuts, blocks moved, doubled or overwritten."""
    found = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        size = len(found)
        at, length = rng.randrange(size + 1), rng.choice((1, 2, 4, 8, 64, 512))
        change = rng.randrange(9)
        if change == 0 and at < size:
            found[at] ^= 1 << rng.randrange(8)
        elif change == 1 and at < size:
            found[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, 0x22, 0x0A, 0x2C))
        elif change == 2:
            del found[at:]
        elif change == 3:
            del found[at : at + length]
        elif change == 4:
            found[at:at] = found[at : at + length]
        elif change == 5:
            other = rng.randrange(size + 1)
            found[at : at + length] = found[other : other + length]
        elif change == 6:
            found[at:at] = rng.randbytes(length)
        elif change == 7:
            found[at : at + length] = bytes((rng.choice((0, 0xFF)),)) * length
        else:
            found += rng.choice((b"\x00", b"\n", b"}", bytes(content[:64]), b"\xff" * 9))
    return bytes(found)


def in_json(rng: Random, content: bytes) -> bytes:
    """Return the JSON text with one to three values, names or parts changed."""
    whole = json.loads(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        whole = in_value(rng, whole)
    return as_text(whole, ensure_ascii=rng.random() < 0.8)


def as_text(whole: Any, *, ensure_ascii: bool = True) -> bytes:
    """Return a value as JSON text, with lists nested as deep as the marks in it say; `json` itself could not."""
    text = json.dumps(whole, ensure_ascii=ensure_ascii)
    text = re.sub(f'"{DEEP}([0-9]+){DEEP}"', lambda found: "[" * int(found[1]) + "]" * int(found[1]), text)
    return text.encode("utf-8", "surrogatepass")


def in_value(rng: Random, value: Any) -> Any:
    """Return a JSON value with one thing changed; goes down into lists, objects, and texts that are JSON themselves."""
    if isinstance(value, dict) and value and rng.random() < 0.93:
        key = rng.choice(sorted(value))
        change = rng.random()
        if change < 0.78:
            return {**value, key: in_value(rng, value[key])}
        if change < 0.88:
            return {name: held for name, held in value.items() if name != key}
        if change < 0.94:
            return {(rng.choice(WORDS) if name == key else name): held for name, held in value.items()}
        return {**value, rng.choice((*WORDS, *sorted(value))): rng.choice((*SPECIAL, *NUMBERS, *WORDS, value[key]))}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        change = rng.random()
        if change < 0.6:
            return [*value[:at], in_value(rng, value[at]), *value[at + 1 :]]
        if change < 0.75:
            return [*value[:at], *value[at + 1 :]]
        if change < 0.9:
            return [*value[:at], value[at], *value[at:]]
        return value[::-1] if rng.random() < 0.5 else value[:at]
    if isinstance(value, str) and value[:1] in ("{", "[") and rng.random() < 0.8:
        return json.dumps(in_value(rng, json.loads(value)))
    return _other_value(rng, value)


def _other_value(rng: Random, value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and rng.random() < 0.6:
        return rng.choice((value + 1, value - 1, -value, value * 2, value / 2, float(value), str(value), *NUMBERS))
    if isinstance(value, str) and rng.random() < 0.5:
        return rng.choice((value[::-1], value + value, value[:-1], value.upper(), [value], *WORDS, *hostile.TEXTS))
    if rng.random() < 0.05:
        return f"{DEEP}{rng.choice((10, 400, 5000, 10**5))}{DEEP}"
    return rng.choice((*SPECIAL, *NUMBERS, *WORDS))


def in_safetensors(rng: Random, content: bytes) -> bytes:
    """Return the file with its header changed, or with other tensors in it."""
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    change = rng.random()
    if change < 0.55:
        about = header.get("__metadata__")
        if about and rng.random() < 0.8:
            key = rng.choice(sorted(about))
            header["__metadata__"] = {**about, key: in_value(rng, about[key])}
        else:
            header = in_value(rng, header)
        text = as_text(header)
        return (
            struct.pack("<Q", len(text) if rng.random() < 0.95 else rng.choice((0, 2**63, len(text) + 1))) + text + data
        )
    tensors = in_tensors(rng, load(content))
    return save(tensors, metadata=header.get("__metadata__"))


def in_tensors(rng: Random, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors with one of another value, shape, precision or name, or absent, or with one more."""
    name = rng.choice(sorted(tensors))
    one = tensors[name]
    change = rng.randrange(8)
    if change == 0:
        value = rng.choice((float("nan"), float("inf"), -float("inf"), 0.0, 1e30, -1e30, 3e38, 1e-40))
        flat = one.clone().flatten().to(torch.promote_types(one.dtype, torch.float32))
        flat[rng.randrange(max(1, len(flat))) :][: rng.choice((1, 2, len(flat)))] = value
        return tensors | {name: flat.reshape(one.shape)}
    if change == 1:
        kinds = (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int8, torch.bool, torch.uint8)
        kinds = (*kinds, torch.float8_e4m3fn)
        return tensors | {name: one.to(rng.choice(kinds))}
    if change == 2:
        return {key: value for key, value in tensors.items() if key != name}
    if change == 3:
        return {(f"{key}x" if key == name else key): value for key, value in tensors.items()}
    if change == 4:
        return tensors | {rng.choice(("extra", "", f"{name}.0", "a" * 300)): one.clone()}
    if change == 5:
        shapes = (one[..., :-1], one[:0], one[None], one.flatten(), one.transpose(0, -1), torch.cat([one, one]))
        return tensors | {name: rng.choice(shapes).contiguous()}
    if change == 6:
        scale = rng.choice((0.0, -1.0, 1e3, 1e10, 1e20, 1e38))
        return tensors | {name: one * scale}
    scale = rng.choice((0.0, 1e5, 1e20))
    return {key: value * scale for key, value in tensors.items()}


def in_archive(rng: Random, content: bytes) -> bytes:
    """Return a zip archive with a member changed; in a pickle, one of its instructions."""
    members = unpacked(content)
    name = rng.choice(sorted(members))
    pickles = [key for key in members if key.endswith(".pkl")]
    if pickles and rng.random() < 0.6:
        name = pickles[0]
    change = rng.random()
    if change < 0.1:
        del members[name]
    elif change < 0.2:
        members[name] = members[rng.choice(sorted(members))]
    elif name.endswith(".pkl"):
        members[name] = in_pickle(rng, members[name])
    else:
        members[name] = mutated(rng, name, members[name]) if not name.endswith(".zip") else in_bytes(rng, members[name])
    return packed(members, zipfile.ZIP_DEFLATED if rng.random() < 0.1 else zipfile.ZIP_STORED)


def unpacked(content: bytes) -> dict[str, bytes]:
    """Return the members of a zip archive by name."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def packed(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip archive, the same whenever it is made."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return made.getvalue()


def in_pickle(rng: Random, content: bytes) -> bytes:
    """Return a pickle with one instruction left out, doubled, moved, or given another argument."""
    starts = [place for _, _, place in pickletools.genops(content) if place is not None] + [len(content)]
    parts = [content[a:b] for a, b in itertools.pairwise(starts)]
    at = rng.randrange(len(parts))
    change = rng.randrange(5)
    if change == 0:
        del parts[at]
    elif change == 1:
        parts.insert(at, parts[at])
    elif change == 2:
        parts[at] = parts[rng.randrange(len(parts))]
    elif change == 3 and len(parts[at]) > 1:
        parts[at] = parts[at][:1] + in_bytes(rng, parts[at][1:])
    else:
        numbers = (
            b"K\x00",
            b"K\xff",
            b"M\xff\xff",
            b"J\xff\xff\xff\xff",
            b"J\xff\xff\xff\x7f",
            b"N",
            b"\x88",
            b"]",
            b"}",
            b")",
        )
        floats = (b"G\x7f\xf8" + bytes(6), b"X\x01\x00\x00\x00a", b"\x8a\x09" + b"\xff" * 8 + b"\x7f")
        parts[at] = rng.choice(numbers + floats)
    return b"".join(parts)


def in_png(rng: Random, content: bytes) -> bytes:
    """Return a PNG with the content of a chunk changed and its checksum right, or chunks left out or doubled."""
    chunks, at = [], 8
    while at + 8 <= len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    k = rng.randrange(len(chunks))
    kind, data = chunks[k]
    change = rng.randrange(5)
    if change == 0:
        del chunks[k]
    elif change == 1:
        chunks.insert(k, chunks[k])
    elif change == 2 and kind == b"IHDR":
        sides = [rng.choice((0, 1, 2, 7, 65535, 2**31 - 1)) for _ in range(2)]
        chunks[k] = (kind, struct.pack(">II", *sides) + data[8:])
    elif change == 3:
        text = rng.choice((b"tEXt", b"zTXt", b"iCCP", b"eXIf", b"tRNS", b"PLTE", b"acTL", b"gAMA", b"sRGB", b"iTXt"))
        chunks.insert(k, (text, rng.choice((b"", b"a", rng.randbytes(30), b"a\x00\x00" + zlib.compress(bytes(1000))))))
    else:
        chunks[k] = (kind, in_bytes(rng, data) if data else b"\x00")
    body = b"".join(struct.pack(">I", len(d)) + c + d + struct.pack(">I", zlib.crc32(c + d)) for c, d in chunks)
    return content[:8] + body


def in_lines(rng: Random, content: bytes) -> bytes:
    """Return a file of lines with one changed, left out, doubled, or with other fields."""
    lines = content.split(b"\n")
    at = rng.randrange(len(lines))
    mark = rng.choice((b",", b"\t", b" ", b'"', b"-", b":"))
    words = [text.encode("utf-8", "surrogatepass") for text in (*WORDS, *hostile.TEXTS)]
    change = rng.randrange(8)
    if change == 0:
        del lines[at]
    elif change == 1:
        lines.insert(at, lines[at])
    elif change == 2:
        lines[at] = lines[at].replace(mark, rng.choice((b"", mark * 2, b"\x00", b"\xff")))
    elif change == 3:
        fields = lines[at].split(mark)
        fields[rng.randrange(len(fields))] = rng.choice((*words, *(str(n).encode() for n in NUMBERS)))
        lines[at] = mark.join(fields)
    elif change == 4:
        lines[at] = lines[at] * rng.choice((2, 100, 20000))
    elif change == 5:
        lines[at] = rng.choice(words)
    elif change == 6:
        lines = [b"\xef\xbb\xbf", *lines] if rng.random() < 0.5 else lines[::-1]
    else:
        lines[at] = in_bytes(rng, lines[at])
    return b"\n".join(lines) if rng.random() < 0.9 else b"\r\n".join(lines)


def difference(old: bytes, new: bytes) -> list[Any]:
    """Return a change as [bytes kept at the start, bytes kept at the end, what is between them, packed as text]."""
    shortest = min(len(old), len(new))
    start = next((k for k in range(shortest) if old[k] != new[k]), shortest)
    end = next((k for k in range(shortest - start) if old[-1 - k] != new[-1 - k]), shortest - start)
    middle = new[start : len(new) - end]
    small = zlib.compress(middle, 9)
    if len(small) > LARGE:
        packer = zlib.compressobj(9, zdict=_known(old, start, end))
        small = packer.compress(middle) + packer.flush()
    return [start, end, base64.b64encode(small).decode()]


def between(old: bytes, change: list[Any]) -> bytes:
    """Return what a change has put between the bytes that it kept."""
    start, end, small = change
    try:
        return zlib.decompressobj(zdict=_known(old, start, end)).decompress(base64.b64decode(small))
    except zlib.error as error:  # the good file is no longer the one that was changed
        raise StaleError from error


def changed(old: bytes, change: list[Any]) -> bytes:
    """Return what `difference` described."""
    start, end, _ = change
    return old[:start] + between(old, change) + (old[len(old) - end :] if end else b"")


def _known(old: bytes, start: int, end: int) -> bytes:
    """Return what the packed bytes may refer to: much of a change is what was there before, moved."""
    return old[start : len(old) - end][-(2**15) :] or b"\0"
