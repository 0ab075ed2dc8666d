"""Numbers of layers and positions as they are given: read where they have one meaning, refused where they do not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, SupportsIndex

from mambascope.errors import InputError

#: The layers that are asked for, read: one, several in their order, a slice of them, or all.
Layers = int | tuple[int, ...] | slice | Literal["all"]

#: The layers that are asked for, as people give them, see `read_layers`.
LayersAsked = SupportsIndex | Sequence[int] | slice | str

NUMBER = re.compile(r"[+-]?[0-9]+")


def whole_number(value: Any, name: str) -> int:
    """Return a number that counts something as an int; numpy's and torch's integers are read.

    Args:
        value: What was given.
        name: What it is, for the message.

    Raises:
        InputError: if it is no whole number, such as 2.0, True or "3".
    """
    plain = value.tolist() if hasattr(value, "tolist") else value  # of numpy and torch
    if isinstance(plain, bool) or not isinstance(plain, int):
        raise InputError(f"{name} must be a whole number, found {shown(value)}")
    return plain


def whole_numbers(values: Any, name: str) -> tuple[int, ...]:
    """Return one whole number or several (a list, a tuple, a range, an array) as a tuple; errors as `whole_number`."""
    plain = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(plain, (list, tuple, range)):
        return tuple(whole_number(value, name) for value in plain)
    return (whole_number(values, name),)


def read_layers(layer: Any, name: str = "layer") -> Layers:
    """Return which layers are asked for; what is read already comes back as it is.

    Args:
        layer: A number, several (a list, a tuple, a range, an array), a slice, all of that as text ("3", "2,5", "2:4",
            "15:"), or "all".
        name: What it was given as, for the message.

    Raises:
        InputError: if it has no meaning, or names a layer twice.
    """
    return _read(layer, name, "layer")


def read_positions(positions: Any, name: str = "positions") -> Layers:
    """Return which positions are asked for; forms and errors as in `read_layers`."""
    return _read(positions, name, "position")


def _read(given: Any, name: str, noun: str) -> Layers:
    plain = given.tolist() if hasattr(given, "tolist") else given
    read: Layers | None = None
    if isinstance(plain, str):
        read = _from_text(plain.strip())
    elif isinstance(plain, slice):
        read = _slice(plain.start, plain.stop, plain.step)
    elif isinstance(plain, (list, tuple, range)):
        read = tuple(map(int, plain)) if plain and all(map(_is_whole, plain)) else None
    elif _is_whole(plain):
        read = int(plain)
    if read is None:
        raise InputError(
            f"{name} {shown(given)} is neither a number, a range such as 15: or 3:7, several numbers such as 2,5, nor "
            f"all; {noun}s are counted from 0"
        )
    _require_once(read, name, noun)
    return read


def chosen_layers(layers: Layers, count: int) -> list[int]:
    """Return the numbers of the layers that are asked for, counted from 0, in a model of so many.

    Raises:
        InputError: if one does not exist, there is none, or one is named twice.
    """
    if isinstance(layers, slice):
        chosen = list(range(count))[layers]
        if not chosen:
            raise InputError(f"no layers in {_written(layers)}; this model has layers {_all(count)}")
        return chosen
    if isinstance(layers, str):
        return list(range(count))
    asked = (layers,) if isinstance(layers, int) else layers
    found = [existing_layer(layer, count) for layer in asked]
    _require_once(tuple(found), "layer", "layer")
    return found


def chosen_positions(positions: Layers, length: int) -> list[int]:
    """Return the positions that are asked for of so many, negative numbers as they are.

    Raises:
        InputError: if a range holds none.
    """
    if isinstance(positions, slice):
        chosen = list(range(length))[positions]
        if not chosen:
            raise InputError(f"no positions in {_written(positions)}; the text has {length} tokens, {_all(length)}")
        return chosen
    if isinstance(positions, str):
        return list(range(length))
    return [positions] if isinstance(positions, int) else list(positions)


def existing_layer(layer: Any, count: int) -> int:
    """Return a layer's number counted from 0, in a model of so many; negative numbers count from the end.

    Raises:
        InputError: if it is no whole number, or there is no such layer.
    """
    number = whole_number(layer, "layer")
    if not -count <= number < count:
        raise InputError(f"layer {number} does not exist; this model has layers {_all(count)}")
    return number % count


def shown(value: Any, letters: int = 60) -> str:
    """Return what was given, for a message: on one line, cut to a length that suits one."""
    text = " ".join(repr(value).split())
    return text if len(text) <= letters else text[: letters - 1] + "…"


def _is_whole(value: Any) -> bool:
    plain = value.tolist() if hasattr(value, "tolist") else value
    return isinstance(plain, int) and not isinstance(plain, bool)


def _from_text(text: str) -> Layers | None:
    """Return the layers that a text names, or None if it names none."""
    if text == "all":
        return "all"
    if NUMBER.fullmatch(text):
        return int(text)
    numbers = [part.strip() for part in text.split(",")]
    if len(numbers) > 1 and all(map(NUMBER.fullmatch, numbers)):
        return tuple(map(int, numbers))
    parts = [part.strip() for part in text.split(":")]
    if len(parts) in (2, 3) and all(not part or NUMBER.fullmatch(part) for part in parts):
        return _slice(*(int(part) if part else None for part in parts))
    return None


def _slice(start: Any, stop: Any = None, step: Any = None) -> slice | None:
    """Return a slice of whole numbers, or None if one of its parts is none, or its step is 0."""
    parts = [part for part in (start, stop, step) if part is not None]
    return slice(start, stop, step) if all(map(_is_whole, parts)) and (step is None or step != 0) else None


def _require_once(layers: Layers, name: str, noun: str) -> None:
    if isinstance(layers, tuple) and len(set(layers)) < len(layers):
        twice = next(layer for layer in layers if layers.count(layer) > 1)
        raise InputError(f"{name} {twice} is named twice; name each {noun} once")


def _written(layers: slice) -> str:
    """Return a slice as people write it."""
    first, last = ("" if part is None else part for part in (layers.start, layers.stop))
    return f"{first}:{last}" + ("" if layers.step is None else f":{layers.step}")


def _all(count: int) -> str:
    return "0" if count == 1 else f"0–{count - 1}"
