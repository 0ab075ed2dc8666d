"""Layer and position numbers as users write them: read if they have one meaning, refused if not."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Literal, SupportsIndex

from mambascope.errors import InputError

#: A choice of layers, as `read_layers` returns it: one, several in order, a slice, or all.
Layers = int | tuple[int, ...] | slice | Literal["all"]

#: A choice of layers, as users write it; see `read_layers`.
LayersAsked = SupportsIndex | Sequence[int] | slice | str

#: More numbers than anyone means; a range or an expanded tensor of billions would take hours to read.
MOST_NUMBERS = 1 << 20

NUMBER = re.compile(r"[+-]?[0-9]+")


def whole_number(value: Any, name: str) -> int:
    """Return a whole number as an int; accepts integers of numpy and torch.

    Args:
        value: What was given.
        name: What to call it in the message.

    Raises:
        InputError: if it is not an integer; 2.0, True and "3" are not.
    """
    plain = plain_value(value)
    if isinstance(plain, bool) or not isinstance(plain, int):
        raise InputError(f"{name} must be a whole number, found {shown(value)}")
    return plain


def plain_value(value: Any) -> Any:
    """Return a number or an array of numpy or torch as plain numbers and lists; anything else as it is.

    So is an array of more than `MOST_NUMBERS` numbers.
    """
    try:
        if math.prod(getattr(value, "shape", ())) > MOST_NUMBERS:
            return value
        return value.tolist()
    except (AttributeError, TypeError, RuntimeError):  # a class has it, and a tensor without values
        return value


def whole_numbers(values: Any, name: str) -> tuple[int, ...]:
    """Return one or several whole numbers (list, tuple, range, array) as a tuple; raises as `whole_number` does."""
    plain = plain_value(values)
    if isinstance(plain, (list, tuple, range)):
        if _is_endless(plain):
            raise InputError(f"{name} must be at most {MOST_NUMBERS:,} whole numbers, found {shown(values)}")
        return tuple(whole_number(value, name) for value in plain)
    return (whole_number(values, name),)


def read_layers(layer: Any, name: str = "layer") -> Layers:
    """Return a choice of layers in standard form; one already in that form is returned unchanged.

    Args:
        layer: A number, several (list, tuple, range, array), a slice, any of these as text ("3", "2,5", "2:4", "15:"),
            or "all".
        name: Name of the argument, for the message.

    Raises:
        InputError: if it cannot be read, or names a layer twice.
    """
    return _read(layer, name, "layer")


def read_positions(positions: Any, name: str = "positions") -> Layers:
    """Return which positions are asked for; forms and errors as in `read_layers`."""
    return _read(positions, name, "position")


def _read(given: Any, name: str, noun: str) -> Layers:
    plain = plain_value(given)
    read: Layers | None = None
    if isinstance(plain, str):
        read = _from_text(plain.strip())
    elif isinstance(plain, slice):
        read = _slice(plain.start, plain.stop, plain.step)
    elif isinstance(plain, (list, tuple, range)):
        usable = plain and not _is_endless(plain) and all(map(_is_whole, plain))
        read = tuple(map(int, plain)) if usable else None
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
    """Return the numbers of the chosen layers, counted from 0, in a model of `count` layers.

    Raises:
        InputError: if a layer does not exist, no layer is chosen, or one is named twice.
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
    """Return a layer's number counted from 0, in a model of `count` layers; negative numbers count from the end.

    Raises:
        InputError: if it is not a whole number, or there is no such layer.
    """
    number = whole_number(layer, "layer")
    if not -count <= number < count:
        raise InputError(f"layer {number} does not exist; this model has layers {_all(count)}")
    return number % count


def shown(value: Any, letters: int = 60) -> str:
    """Return a value as text for a message: on one line, shortened to at most `letters` characters."""
    text = re.sub(r"<([\w.]+) object at 0x[0-9a-fA-F]+>", r"a \1", " ".join(repr(value).split()))
    text = re.sub(r" at 0x[0-9a-fA-F]+>", ">", text)  # where it is in memory says nothing
    return text if len(text) <= letters else text[: letters - 1] + "…"


def _is_endless(numbers: Sequence[Any]) -> bool:
    """Return whether these are more than `MOST_NUMBERS`; a range may be longer than `len` can say."""
    return len(numbers[: MOST_NUMBERS + 1]) > MOST_NUMBERS


def _is_whole(value: Any) -> bool:
    plain = plain_value(value)
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
    """Return a slice of whole numbers, or None if one of its parts is not a whole number, or its step is 0."""
    parts = [part for part in (start, stop, step) if part is not None]
    return slice(start, stop, step) if all(map(_is_whole, parts)) and (step is None or step != 0) else None


def _require_once(layers: Layers, name: str, noun: str) -> None:
    if isinstance(layers, tuple) and len(set(layers)) < len(layers):
        twice = next(layer for layer in layers if layers.count(layer) > 1)
        raise InputError(f"{name} {twice} is named twice; name each {noun} once")


def _written(layers: slice) -> str:
    """Return a slice as text, such as `3:7`."""
    first, last = ("" if part is None else part for part in (layers.start, layers.stop))
    return f"{first}:{last}" + ("" if layers.step is None else f":{layers.step}")


def _all(count: int) -> str:
    return "0" if count == 1 else f"0–{count - 1}"
