"""Damage a file in the ways that files are damaged, and in those that someone would think of; the same for a seed."""

import random
import re

NUMBERS = [b"-1", b"0", b"1", b"0.5", b"1000000000", b"100000000000000000000", b"1e400", b"NaN", b"null", b'"x"', b"[]"]


def _flip(data, draw):
    at = draw.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]


def _byte(data, draw):
    at = draw.randrange(len(data))
    return data[:at] + bytes([draw.randrange(256)]) + data[at + 1 :]


def _cut(data, draw):
    return data[: draw.randrange(len(data))]


def _splice(data, draw):
    start, end, to = draw.randrange(len(data)), draw.randrange(len(data)), draw.randrange(len(data))
    return data[:to] + data[min(start, end) : max(start, end)][:2000] + data[to:]


def _remove(data, draw):
    start = draw.randrange(len(data))
    return data[:start] + data[start + draw.randrange(1, 40) :]


def _number(data, draw):
    found = list(re.finditer(rb"-?[0-9]+(\.[0-9]+)?", data[:20_000]))
    if not found:
        return _flip(data, draw)
    chosen = draw.choice(found)
    return data[: chosen.start()] + draw.choice(NUMBERS) + data[chosen.end() :]


def _value(data, draw):
    found = list(re.finditer(rb'"[^"\n]{0,40}"', data[:20_000]))
    if not found:
        return _byte(data, draw)
    one, other = draw.choice(found), draw.choice(found)
    return data[: one.start()] + other.group() + data[one.end() :]


def _nest(data, draw):
    depth, found = draw.choice([3, 40, 2000]), list(re.finditer(rb": ?", data[:20_000]))
    at = draw.choice(found).end() if found else draw.randrange(len(data))
    return data[:at] + b"[" * depth + b"1" + b"]" * depth + b"," + data[at:]


WAYS = (_flip, _byte, _cut, _splice, _remove, _number, _number, _value, _value, _nest)


def mutated(data: bytes, seed: int) -> bytes:
    """Return the bytes with one to three random faults."""
    draw = random.Random(seed)
    for _ in range(draw.choice([1, 1, 2, 3])):
        if data:
            data = draw.choice(WAYS)(data, draw)
    return data
