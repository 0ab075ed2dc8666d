"""Saved results that are damaged at random, one mutation at a time, and everything that can be done with a result."""

import copy
import io
import json
import random
import struct

import numpy as np
from rich.console import Console

from mambascope import show

#: What stands where something else was expected.
ODD = (
    None, True, False, 0, 1, -1, 2, 7, 2**31, 2**63, 10**30, 10**400, 0.5, -0.5, 3.0, 1e308, float("nan"), float("inf"),
    "", "x", "3", "all", "mean", "sum", "nan", "\ud800", "é" * 3, "\x1b[31m", "<b>", "\0", [], [0], [[]], [1, 2, 3, 4],
    ["a", "b"], [None], [["x", 0.5]], {}, {"a": 1}, {"position": 0}, [{}], [[[[]]]], "9" * 5000,
)  # fmt: skip
DTYPES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
    "F8_E4M3": 1,
}
DTYPES |= {"F8_E5M2": 1, "U16": 2, "U32": 4, "U64": 8, "C64": 8, "F4": 1, "X": 4, "": 1}


def mutant(content, random_numbers):
    """Return the content of a saved result with one thing changed at random."""
    return random_numbers.choices((_bytes, _facts, _header, _tensor, _texts), (2, 6, 2, 3, 1))[0](
        content, random_numbers
    )


def parts(content):
    """Return a file's header and what follows it."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header, rest):
    """Return the file of a header and what follows it."""
    written = json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(written)) + written + rest


def _bytes(content, draw):
    changed, place = bytearray(content), draw.randrange(len(content))
    kind = draw.randrange(6)
    if kind == 0:
        return bytes(changed[:place])
    if kind == 1:
        changed[place] ^= 1 << draw.randrange(8)
    elif kind == 2:
        changed[place:place] = bytes(draw.randrange(256) for _ in range(draw.randrange(1, 9)))
    elif kind == 3:
        del changed[place : place + draw.randrange(1, 40)]
    elif kind == 4:
        changed[:8] = struct.pack("<Q", draw.choice((0, 1, 2**20, 2**32, 2**63, 2**64 - 1, len(content))))
    else:
        changed += bytes(draw.randrange(1, 40))
    return bytes(changed)


def _places(value, place=()):
    yield place
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield from _places(entry, (*place, key))


def changed(value, draw):
    """Return a value of JSON with one entry of it replaced, removed, doubled, or with one more beside it."""
    value, place = copy.deepcopy(value), draw.choice(list(_places(value)))
    if not place:
        return draw.choice(ODD)
    inside = value
    for key in place[:-1]:
        inside = inside[key]
    kind = draw.randrange(6)
    if kind == 0:
        del inside[place[-1]]
    elif kind == 1 and isinstance(inside, list):
        inside.insert(place[-1], copy.deepcopy(inside[place[-1]]))
    elif kind == 1:
        inside["of a later version"] = draw.choice(ODD)
    else:
        inside[place[-1]] = draw.choice(ODD)
    return value


def _facts(content, draw):
    header, rest = parts(content)
    facts = changed(json.loads(header["__metadata__"]["attribution"]), draw)
    header["__metadata__"]["attribution"] = json.dumps(facts)
    return joined(header, rest)


def _header(content, draw):
    header, rest = parts(content)
    return joined(changed(header, draw), rest)


def _texts(content, draw):
    header, rest = parts(content)
    deep = draw.choice((60, 400, 900, 5000, 100_000))
    nested = "[" * deep + "]" * deep
    odd = (
        '{"tokens": ' + nested + "}", "", "null", "[]", "NaN", '{"a":', "\ufeff{}", '{"tokens": 1e999}',
        header["__metadata__"]["attribution"].replace('"diagnostics": {', f'"diagnostics": {{"x": {nested}, ', 1),
    )  # fmt: skip
    header["__metadata__"]["attribution"] = draw.choice(odd)
    return joined(header, rest)


def _tensor(content, draw):
    """Return the file with one tensor of another type, shape or content; its place in the file fits, or nearly so."""
    header, rest = parts(content)
    names = [name for name in header if name != "__metadata__"]
    name = draw.choice(names)
    entry, kind = header[name], draw.randrange(5)
    if kind == 0:
        values = np.frombuffer(rest, "<f4", count=len(rest) // 4).copy()
        values[draw.randrange(len(values))] = draw.choice((np.nan, np.inf, -np.inf, 1e38, 1e-45))
        return joined(header, values.tobytes() + rest[4 * len(values) :])
    if kind == 1:
        del header[name]
        return joined({**header, draw.choice(("scores", "image", "pixels", "other")): entry}, rest)
    if kind == 2:
        header[draw.choice(("image", "pixels", "other"))] = header[draw.choice(names)]
        return joined(header, rest)
    shape = draw.choice(
        ([], [0], [1], [2, 2], [2, 4, 4], [1, 1, 1], [2, 3, 3], [2**40, 2**40], [2, 0, 4], [5, 6, 3], [4, 4])
    )
    shape = shape if kind == 3 else entry["shape"]
    dtype = draw.choice(list(DTYPES))
    size = min(int(np.prod(shape, dtype=object)) * DTYPES[dtype], 10_000)
    values = np.frombuffer(draw.randbytes(size) if kind == 4 else bytes(size), "u1")
    held = {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}
    others = {other: header[other] for other in names if other != name}
    after = rest[: max((end["data_offsets"][1] for end in others.values()), default=0)] if others else b""
    moved = {
        other: {**end, "data_offsets": [number + size for number in end["data_offsets"]]}
        for other, end in others.items()
    }
    return joined({"__metadata__": header["__metadata__"], name: held, **moved}, values.tobytes() + after)


def use(result, folder, drawn):
    """Do everything with a result that can be done; yields the name of each deed before it is done."""
    deeds = {
        "repr": lambda: repr(result),
        "top": lambda: result.top(3),
        "rows": lambda: [result.row(place) for place in result.axes["target"]],
        "matrices": lambda: [result.matrix(layer) for layer in (None, *result.axes["layer"])],
        "layer_mass": result.layer_mass,
        "anchors": lambda: result.anchors,
        "to_dict": lambda: json.dumps(result.to_dict()),
        "show": lambda: show.print_attribution(result, Console(file=io.StringIO(), width=80)),
        "to_html": result.to_html,
        "to_xarray": result.to_xarray,
        **{
            ending: (lambda ending=ending: result.save(folder / f"used{ending}"))
            for ending in (".json", ".csv", ".npz")
        },
        "safetensors": lambda: type(result).load(result.save(folder / "used.safetensors")),
    }
    if result.grid is not None:
        deeds["picture"] = result.picture
    if drawn:
        deeds["notebook"] = result._repr_html_
        deeds["plot"] = lambda: result.save(folder / "used.svg")
    yield from deeds.items()


def seeded(seed):
    """Return random numbers of their own."""
    return random.Random(seed)
