"""Parts of a model that mix tokens and that no map describes: what they are, and how a model is refused for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from mambascope.errors import UnsupportedModelError
from mambascope.families import MixerFamily, found_by
from mambascope.loading.json_files import one_line


@dataclass(frozen=True)
class Missing:
    """One part of a model that mixes tokens and has no map.

    Attributes:
        name: Its name in the model, as in `named_modules`.
        mixer_class: Its class.
        reason: Why it is taken for a mixer, or why it could not be read as one.
    """

    name: str
    mixer_class: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name or 'the model'} ({self.mixer_class}): {self.reason}"


def misread(name: str, mixer: nn.Module, family: MixerFamily, error: Exception) -> Missing:
    """Return a mixer that was recognised as one of a family, and does not compute what that family's mixers do."""
    kind, why = type(mixer).__name__, one_line(error).removeprefix(f"{name} ({type(mixer).__name__}) ")
    _, cut, errors = why.partition("cannot be rebuilt from what was captured: ")
    said = f"the output rebuilt so is another: {errors}" if cut else f"it cannot be read so: {why}"
    return Missing(name, kind, f"{found_by(family)}, but {said}")


def in_order(model: nn.Module, missing: Iterable[Missing]) -> tuple[Missing, ...]:
    """Return missing parts in the order of the model's modules."""
    places = {name: place for place, (name, _) in enumerate(model.named_modules(remove_duplicate=False))}
    return tuple(sorted(missing, key=lambda part: places.get(part.name, len(places))))


def refuse_missing(model: nn.Module, missing: Sequence[Missing]) -> None:
    """Raise UnsupportedModelError, which names the parts and says what can be had, if any part is missing."""
    if missing:
        raise UnsupportedModelError(
            f"{type(model).__name__} mixes tokens in parts that mambascope cannot read: {told(missing)}; register a "
            "family for each (docs/architecture.md), or take the maps of the other layers alone: "
            "in Python, capture(…, partial=True)"
        )


def told(missing: Iterable[Missing]) -> str:
    """Return missing parts in words, one of each class."""
    classes: dict[str, list[Missing]] = {}
    for part in missing:
        classes.setdefault(part.mixer_class, []).append(part)
    return ", and ".join(
        f"{parts[0]}" + (f" (and {len(parts) - 1} more of its class)" if len(parts) > 1 else "")
        for parts in classes.values()
    )
