"""The number that is explained, read from a model's output: the kinds of readout, and the positions that explain it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from mambascope.arguments import real_number
from mambascope.brief import brief
from mambascope.errors import InputError
from mambascope.numbering import shown, whole_number, whole_numbers
from mambascope.positions import positions_in


class Term(NamedTuple):
    """One logit with its weight: of token `entry` at a position or, if the position is None, of class `entry`.

    Negative positions count back from each text's own last token.
    """

    position: int | None
    entry: int
    weight: float = 1.0


@dataclass(frozen=True)
class Readout:
    """A weighted sum of logits, or of log-probabilities, of one text.

    Attributes:
        label: A readable name: "logit of ' ol'".
        positions: The positions where it is read, whose rows explain it; empty if the model has no such positions.
        terms: The logits that it sums.
        log_probability: Whether it sums log-probabilities instead of logits.

    Raises:
        InputError: if a position, token or class is not a whole number, or one that cannot exist.
    """

    label: str
    positions: tuple[int, ...]
    terms: tuple[Term, ...]
    log_probability: bool = False

    __repr__ = brief

    def __post_init__(self) -> None:
        object.__setattr__(self, "positions", whole_numbers(self.positions, "position"))
        if not isinstance(self.terms, (tuple, list)) or not all(isinstance(term, Term) for term in self.terms):
            raise InputError(f"a readout sums readouts.Term(position, entry, weight), found {shown(self.terms)}")
        object.__setattr__(self, "terms", tuple(map(_checked_term, self.terms)))

    def __call__(self, outputs: Any) -> Float[Tensor, " b"]:
        """Return the number for every text of a model's outputs.

        Raises:
            InputError: if the outputs have no logits, or lack those that are read.
        """
        return self.of_logits(logits_of(outputs))

    def in_texts(self, mask: Shaped[Tensor, "b L"]) -> InTexts:
        """Return the readout for padded texts, with its positions counted within each of them."""
        return InTexts(self, mask)

    def of_logits(
        self, logits: Float[Tensor, "b *v"], mask: Shaped[Tensor, "m L"] | None = None
    ) -> Float[Tensor, " b"]:
        """Return the number for every text, from logits (b, L, tokens) or (b, classes); `mask` is zero at padding.

        Raises:
            InputError: if a position, token or class does not exist, or the position is padding in one of the texts.
        """
        entries = self._entries(logits)
        if self.log_probability:
            return self._total(self._rows(logits, mask).log_softmax(dim=-1))
        weights = logits.new_tensor([term.weight for term in self.terms])
        if logits.ndim == 2:
            return (logits[:, entries] * weights).sum(dim=-1)
        return (logits[*self._places(logits, mask), entries] * weights).sum(dim=-1)

    def _entries(self, logits: Float[Tensor, "b *v"]) -> Int[Tensor, " terms"]:
        """Return the tokens or classes that are read."""
        count, what = logits.shape[-1], "classes" if logits.ndim == 2 else "tokens"
        wrong = [term.entry for term in self.terms if not 0 <= term.entry < count]
        if wrong:
            raise InputError(f"there is no logit {wrong[0]}: the model predicts {count} {what}, 0 to {count - 1}")
        return torch.tensor([term.entry for term in self.terms], device=logits.device)

    def _places(
        self, logits: Float[Tensor, "b L v"], mask: Shaped[Tensor, "m L"] | None
    ) -> tuple[Int[Tensor, "b 1"], Int[Tensor, "m terms"]]:
        """Return the texts and positions of the logits that are read, as an index."""
        places = [term.position for term in self.terms if term.position is not None]
        if len(places) < len(self.terms):
            raise InputError("the readout is a class, but this model predicts a token at every position, not classes")
        found = positions_in(mask, (len(logits), logits.shape[1]), places, "position")
        return torch.arange(len(logits), device=logits.device)[:, None], found.to(logits.device)

    def _rows(self, logits: Float[Tensor, "b *v"], mask: Shaped[Tensor, "m L"] | None) -> Float[Tensor, "b terms v"]:
        """Return the row of logits of each term, in at least single precision."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if logits.ndim == 2:
            return logits[:, None].expand(-1, len(self.terms), -1)
        return logits[self._places(logits, mask)]

    def _total(self, rows: Float[Tensor, "b terms v"]) -> Float[Tensor, " b"]:
        """Return the weighted sum of each term's entry in its row."""
        entries = self._entries(rows)
        weights = rows.new_tensor([term.weight for term in self.terms])
        return (rows[:, torch.arange(len(entries)), entries] * weights).sum(dim=-1)

    def first_order(self, outputs: Any, mask: Shaped[Tensor, "m L"] | None = None) -> Float[Tensor, " b"]:
        """Return Σ c · logits with c the readout's gradient at the logits: the total of a linear explanation.

        For logits that is the readout itself; for log-probabilities c is the term's one-hot vector less the softmax.
        A word that cannot come, whose logit is minus infinity, has c = 0 and adds nothing.
        """
        logits = logits_of(outputs)
        if not self.log_probability:
            return self.of_logits(logits, mask)
        with torch.enable_grad():
            rows = self._rows(logits.detach(), mask).requires_grad_()
            (c,) = torch.autograd.grad(self._total(rows.log_softmax(dim=-1)).sum(), rows)
        return (c * rows.detach()).masked_fill(c == 0, 0).sum(dim=(1, 2))


@dataclass(frozen=True)
class Place:
    """Positions to explain for a model without a head, which returns no number to read.

    Attributes:
        positions: The positions.
    """

    positions: tuple[int, ...]

    __repr__ = brief

    def __post_init__(self) -> None:
        object.__setattr__(self, "positions", whole_numbers(self.positions, "position"))


@dataclass(frozen=True, eq=False)
class FeatureReadout:
    """The projection of one token's features, after the final norm, onto a direction.

    Attributes:
        label: A readable name.
        positions: The one position where it is read.
        direction: The direction; None for that of the features themselves, held constant, so that the number is their
            norm.
    """

    label: str
    positions: tuple[int]
    direction: Float[Tensor, " E"] | None = None

    __repr__ = brief

    def __post_init__(self) -> None:
        object.__setattr__(self, "positions", whole_numbers(self.positions, "position"))
        along = self.direction
        if along is None:
            return
        fits = isinstance(along, Tensor) and not along.is_meta and along.ndim == 1 and along.numel()
        if not fits or not along.is_floating_point():
            raise InputError(f"a direction is a tensor of floats, one for each feature, found {shown(along)}")
        if not along.isfinite().all():
            raise InputError("the direction holds NaN or infinite values")

    def __call__(self, outputs: Any) -> Float[Tensor, " b"]:
        """Return the number for every text or picture.

        Raises:
            InputError: if the outputs have no features, or none at this position.
        """
        return self.first_order(outputs)

    def in_texts(self, mask: Shaped[Tensor, "b L"]) -> InTexts:
        """Return the readout for padded texts, with its position counted within each of them."""
        return InTexts(self, mask)

    def first_order(self, outputs: Any, mask: Shaped[Tensor, "m L"] | None = None) -> Float[Tensor, " b"]:
        """Return the total of a linear explanation: the number itself."""
        features = getattr(outputs, "last_hidden_state", None)
        if not isinstance(features, Tensor) or features.ndim != 3:
            raise InputError("this model returns no features (last_hidden_state) of its tokens")
        places = positions_in(mask, (len(features), features.shape[1]), self.positions, "position")[:, 0]
        here = features[torch.arange(len(features), device=features.device), places.to(features.device)]
        along = torch.nn.functional.normalize(here.detach(), dim=-1) if self.direction is None else self.direction
        if along.shape[-1] != here.shape[-1]:
            raise InputError(
                f"the direction has {along.shape[-1]} numbers, but this model has {here.shape[-1]} features"
            )
        return (here * along.to(here)).sum(dim=-1)


@dataclass(frozen=True, eq=False)
class OneEach:
    """One readout for each text of a batch, such as several readouts of copies of one text.

    Attributes:
        readouts: The readouts, in the order of the texts.
        mask: The attention mask of padded texts, within each of which positions are then counted; or None.
    """

    readouts: tuple[Readout, ...]
    mask: Shaped[Tensor, "b L"] | None = None

    __repr__ = brief

    def __post_init__(self) -> None:
        given = self.readouts
        if not isinstance(given, (tuple, list)) or not given or not all(isinstance(one, Readout) for one in given):
            raise InputError(f"pass one readout for each text, such as readouts.token(…), found {shown(given)}")

    def __call__(self, outputs: Any) -> Float[Tensor, " b"]:
        """Return each text's own readout.

        Raises:
            InputError: if there are more or fewer readouts than texts, or as each readout does.
        """
        logits = logits_of(outputs)
        if len(logits) != len(self.readouts):
            raise InputError(f"{len(self.readouts)} readouts were given for {len(logits)} texts; pass one for each")
        each = [one.of_logits(logits[k : k + 1], self._mask(k)) for k, one in enumerate(self.readouts)]
        return torch.cat(each)

    def in_texts(self, mask: Shaped[Tensor, "b L"]) -> OneEach:
        """Return the readouts for padded texts, with positions counted within each of them."""
        return replace(self, mask=mask)

    def first_order(self, outputs: Any) -> Float[Tensor, " b"]:
        """Return the total of a linear explanation of each readout."""
        logits = logits_of(outputs)
        each = [one.first_order(logits[k : k + 1], self._mask(k)) for k, one in enumerate(self.readouts)]
        return torch.cat(each)

    def _mask(self, text: int) -> Shaped[Tensor, "1 L"] | None:
        return None if self.mask is None else self.mask[text : text + 1]


@dataclass(frozen=True, eq=False)
class InTexts:
    """A readout of padded texts: its positions are counted within each of them, and refused where they are padding.

    Attributes:
        readout: The readout.
        mask: The attention mask, of every text or of the one text that all are copies of.
    """

    readout: Readout | FeatureReadout
    mask: Shaped[Tensor, "m L"]

    __repr__ = brief

    def __call__(self, outputs: Any) -> Float[Tensor, " b"]:
        """Return the number for every text."""
        if isinstance(self.readout, Readout):
            return self.readout.of_logits(logits_of(outputs), self.mask)
        return self.readout.first_order(outputs, self.mask)

    def first_order(self, outputs: Any) -> Float[Tensor, " b"]:
        """Return the total of a linear explanation."""
        return self.readout.first_order(outputs, self.mask)


def logits_of(outputs: Any) -> Tensor:
    """Return the logits of a model's outputs.

    Raises:
        InputError: if there are none because the model has no head.
    """
    logits = outputs if isinstance(outputs, Tensor) else getattr(outputs, "logits", None)
    if logits is None:
        raise InputError(
            "this model has no head, so there is no logit to explain; load it with its language-model or "
            "classification head, or choose a method that scores layers only"
        )
    if not isinstance(logits, Tensor) or logits.ndim not in (2, 3) or not logits.is_floating_point():
        raise InputError(
            "logits must be floating-point numbers of shape (texts, tokens, vocabulary) or (texts, classes), found "
            f"{shown(tuple(logits.shape) if isinstance(logits, Tensor) else logits)}"
        )
    return logits


def _checked_term(term: Term) -> Term:
    place = None if term.position is None else whole_number(term.position, "position")
    return Term(place, checked_entry(term.entry, "token or class"), real_number(term.weight, "the weight of a term"))


def checked_entry(entry: Any, what: str) -> int:
    """Return the number of a token or class, which counts from 0."""
    number = whole_number(entry, f"the {what}")
    if number < 0:
        raise InputError(f"the {what} {number} does not exist; they are counted from 0")
    return number
