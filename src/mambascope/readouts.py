"""What is explained: makes readouts of a token's or a class's logit, of features or a continuation, and reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mambascope.errors import InputError
from mambascope.numbering import shown, whole_number, whole_numbers
from mambascope.readout import FeatureReadout, InTexts, OneEach, Place, Readout, Term, checked_entry, logits_of

__all__ = [
    "FeatureReadout",
    "InTexts",
    "OneEach",
    "Place",
    "Readout",
    "Term",
    "class_",
    "continuation",
    "features",
    "first_order",
    "logits_of",
    "read",
    "read_at",
    "token",
]


def token(position: int, token: int, foil: int | None = None, names: tuple[str, str] | None = None) -> Readout:
    """Return the logit of the token predicted after a position, or its lead over a foil.

    Args:
        position: The position after which the token is predicted; negative numbers count back from each text's own
            last token.
        token: Its id.
        foil: Id of the token to contrast with, or None.
        names: Texts of the token and the foil, for the label.

    Raises:
        InputError: if the position is not a whole number, the token or the foil no id, or the foil is the target.
    """
    position = whole_number(position, "position")
    token, foil = _distinct(token, foil, names, "token")
    named, other = names or (f"token {token}", f"token {foil}")
    terms = (Term(position, token),) if foil is None else (Term(position, token), Term(position, foil, -1.0))
    label = f"logit of {named!r}" if foil is None else f"logit of {named!r} minus that of {other!r}"
    return Readout(label, (position,), terms)


def class_(
    label: int, foil: int | None = None, names: tuple[str, str] | None = None, positions: Sequence[int] = ()
) -> Readout:
    """Return a class's logit, or its lead over another class; arguments as in `token`."""
    label, foil = _distinct(label, foil, names, "class")
    named, other = names or (f"class {label}", f"class {foil}")
    terms = (Term(None, label),) if foil is None else (Term(None, label), Term(None, foil, -1.0))
    text = f"logit of class {named!r}" if foil is None else f"logit of class {named!r} minus that of {other!r}"
    return Readout(text, whole_numbers(positions, "position"), terms)


def features(position: int, direction: Float[Tensor, " E"] | None = None, name: str = "") -> FeatureReadout:
    """Return the projection of the features at a position, for example of a patch, onto a direction.

    Args:
        position: The position, from 0; negative numbers count back from each text's own last token.
        direction: The direction, such as another token's features or a row of the head; by default the features' own,
            so that their norm is explained.
        name: Name of the token or patch at the position, for the label.
    """
    position = whole_number(position, "position")
    if not isinstance(name, str):
        raise InputError(f"name must be a text, found {shown(name)}")
    kind = "size of the features" if direction is None else "features in the given direction"
    return FeatureReadout(f"{kind} of {name or f'position {position}'}", (position,), direction)


def continuation(start: int, tokens: Sequence[int], text: str) -> Readout:
    """Return the log-probability of a whole continuation, each of its tokens given those before it.

    Args:
        start: Position of the continuation's first token in the text that the model reads; at least 1.
        tokens: The ids of its tokens.
        text: Its text, for the label.

    Raises:
        InputError: if the continuation is empty or nothing comes before it, or a token is no id.
    """
    start, tokens = whole_number(start, "start"), whole_numbers(tokens, "token")
    if start < 1 or not tokens:
        raise InputError("a continuation needs at least one token, and a text before it")
    positions = tuple(range(start - 1, start - 1 + len(tokens)))
    terms = tuple(Term(position, token) for position, token in zip(positions, tokens, strict=True))
    return Readout(f"log-probability of {text!r}", positions, terms, log_probability=True)


def read(readout: Callable[[Any], Any], outputs: Any, *, gaps: bool = False) -> Float[Tensor, " b"]:
    """Return the number that a readout reads from a model's outputs, one per text.

    Args:
        readout: Any function of a model's outputs.
        outputs: What the model returned.
        gaps: Whether the number may be NaN.

    Raises:
        InputError: if it returns something else.
    """
    value = readout(outputs)
    of_model = (outputs, getattr(outputs, "logits", None), getattr(outputs, "last_hidden_state", None))
    texts = next((len(one) for one in of_model if isinstance(one, Tensor)), None)
    fits = isinstance(value, Tensor) and value.ndim == 1 and value.is_floating_point()
    if not fits or texts not in (None, len(value)):
        found = f"a {value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else shown(value)
        here = "" if texts is None else f", here {texts}"
        raise InputError(f"a readout must return one number per text{here}, found {found}")
    if not gaps and not value.isfinite().all():
        raise InputError(f"the number to explain is {shown(value.tolist())}, which has no sources; ask another one")
    return value


def read_at(readout: Any) -> tuple[int, ...] | None:
    """Return the positions whose outputs a readout reads; None if that is not known, as for a class."""
    if isinstance(readout, FeatureReadout):
        return readout.positions
    places = [term.position for term in readout.terms] if isinstance(readout, Readout) else [None]
    return None if None in places else tuple(place for place in places if place is not None)


def first_order(readout: Any, outputs: Any, value: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Return the total of a linear explanation of a readout: its value, unless it has a `first_order` of its own.

    Args:
        readout: Any function of a model's outputs.
        outputs: What the model returned.
        value: The readout's value there.
    """
    return (readout.first_order(outputs) if hasattr(readout, "first_order") else value).detach()


def _distinct(entry: int, foil: int | None, names: tuple[str, str] | None, what: str) -> tuple[int, int | None]:
    """Return the numbers of a token or class and its foil."""
    if names is not None and not (isinstance(names, tuple) and [type(name) for name in names] == [str, str]):
        raise InputError(f"names must be two texts, that of the {what} and that of its foil, found {shown(names)}")
    number, other = checked_entry(entry, what), None if foil is None else checked_entry(foil, "foil")
    if number == other:
        named = repr(names[0]) if names else number
        raise InputError(f"the foil is the target itself, {named}; name another one to contrast with")
    return number, other
