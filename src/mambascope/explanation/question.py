"""From a user's question to the number that is explained: a token, a class, a contrast, a continuation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mambascope import readouts
from mambascope.characters import LONGEST_CHARACTER, predicted_name
from mambascope.errors import InputError, ReconstructionError
from mambascope.explanation.subject import Subject
from mambascope.inputs.patches import class_positions
from mambascope.inputs.tokens import decode_token, single_token
from mambascope.methods.method import AnyReadout
from mambascope.models.picture_models import StagedModel
from mambascope.numbering import Layers, chosen_positions, whole_number
from mambascope.positions import positions_in
from mambascope.readouts import Readout
from mambascope.trace import Trace
from mambascope.trace.differentiate import differentiate

#: How many next tokens a result names.
NEXT_TOKENS = 5

#: How far below the largest logit a generated token's may be in the pass that is explained, as a share of the logits'
#: range: a pass with a cache sums in another order, so tokens that tie within rounding may change places.
TIES = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 4e-2}


@dataclass(frozen=True)
class Question:
    """What a user asks about.

    Attributes:
        target: A token or class, by text or number; None for the likeliest one.
        foil: A token or class to contrast with.
        positions: The positions to explain, each by itself; negative numbers count back from the text's own last token;
            None for the last one, or for those that a class is read from.
        each: Explain each token that the model generated, not what follows as a whole.
        features: Explain the size of the position's own features instead of a logit; without target and foil.
    """

    target: str | int | None = None
    foil: str | int | None = None
    positions: Layers | None = None
    each: bool = False
    features: bool = False


@dataclass(frozen=True)
class ResolvedQuestion:
    """A question resolved row by row.

    Attributes:
        places: The position of each row.
        readouts: What each row explains; for a model without a head, only a place. The last row is in focus.
    """

    places: tuple[int, ...]
    readouts: tuple[AnyReadout, ...]


def resolve(subject: Subject, trace: Trace, question: Question) -> ResolvedQuestion:
    """Return the readouts and the positions that a question is about.

    Unless positions are named, a classifier is explained at the positions that it reads its logits from: the class
    token, the last token, or all.

    Raises:
        InputError: if a position, target or foil does not exist, the target is several tokens, the foil is the
            target, or the parts of the question contradict each other.
    """
    model, logits, following = subject.model, trace.logits, subject.following
    named = question.target is not None or question.foil is not None
    places = _places(trace, question.positions)
    if question.features:
        grid = subject.grid(None)
        known = grid if grid is not None and grid.tokens == trace.shape[1] else None
        names = ["" if known is None else f"token {known.name(place)}" for place in places]
        found = [readouts.features(place, name=name) for place, name in zip(places, names, strict=True)]
        return ResolvedQuestion(places, tuple(found))
    if logits is None:
        if named or following is not None:
            raise InputError(
                f"{type(model).__name__} has no head, so there is no logit of a target or foil to explain; load the "
                "model with its language-model or classification head"
            )
        return ResolvedQuestion(places, tuple(readouts.Place((place,)) for place in places))
    if following is not None and not question.each:
        if question.foil is not None:
            raise InputError("a continuation is explained as a whole; ask for it without a foil")
        whole = readouts.continuation(following.start, following.ids, following.text)
        return ResolvedQuestion(whole.positions[-1:], (whole,))
    if logits.ndim == 2:
        return _classes(subject, logits, places, question, trace.shape[1])
    if following is None:
        chosen = _token(subject.tokenizer, question.target, logits.shape[-1], "target")
        tokens = [int(logits[0, place].argmax()) if chosen is None else chosen for place in places]
    else:
        places = tuple(range(following.start - 1, following.start - 1 + len(following.ids)))
        tokens = list(following.ids)
        _check_greedy(logits, places, tokens)
    foil = _token(subject.tokenizer, question.foil, logits.shape[-1], "foil")
    asked = [_about(subject, trace, place, token, foil) for place, token in zip(places, tokens, strict=True)]
    return ResolvedQuestion(places, tuple(asked))


def _about(subject: Subject, trace: Trace, place: int, token: int, foil: int | None) -> Readout:
    """Return the logit of the token after a position, or its lead over a foil, with their names."""
    if subject.tokenizer is None:
        return readouts.token(place, token, foil)
    before = _before(subject.tokenizer, trace, place)
    other = "" if foil is None else _name(subject.tokenizer, foil, before)
    return readouts.token(place, token, foil, (_name(subject.tokenizer, token, before), other))


def _check_greedy(logits: Float[Tensor, "1 L v"], places: Sequence[int], tokens: Sequence[int]) -> None:
    """Raise ReconstructionError unless each generated token is the likeliest one of this pass too, up to rounding."""
    rows = logits[0, list(places)].to(torch.promote_types(logits.dtype, torch.float32))
    short = rows.max(dim=-1).values - rows[torch.arange(len(tokens)), torch.tensor(tokens)]
    missed = short / (rows.max(dim=-1).values - rows.min(dim=-1).values).clamp_min(1e-30)
    bound = TIES.get(logits.dtype, TIES[torch.float32])
    if not bool((missed <= bound).all()):
        worst = int(missed.argmax())
        raise ReconstructionError(
            f"the model generated token {tokens[worst]} after position {places[worst]} with its cache, but predicts "
            f"another one there without it (its logit is short by {float(missed[worst]):.1e} of the logits' range, "
            f"rounding explains {bound:.0e}), so the generated text cannot be explained"
        )


def next_tokens(subject: Subject, trace: Trace, place: int) -> tuple[tuple[str, float], ...]:
    """Return what the model predicts after a position, or a classifier's likeliest classes, best first.

    Where classes are independent (see `has_independent_classes`), each has its own probability.
    """
    logits, model, tokenizer = trace.logits, subject.model, subject.tokenizer
    if logits is None:
        return ()
    chosen = (logits[0] if logits.ndim == 2 else logits[0, place]).float()
    probabilities = chosen.sigmoid() if has_independent_classes(model, trace) else chosen.softmax(dim=-1)
    best = probabilities.topk(min(NEXT_TOKENS, probabilities.shape[-1]))
    indices = best.indices.tolist()
    if logits.ndim == 2:
        names = [class_name(model, index) for index in indices]
    elif tokenizer is not None:
        before = _before(tokenizer, trace, place)
        names = [_name(tokenizer, index, before) for index in indices]
    else:
        return ()
    return tuple(zip(names, best.values.tolist(), strict=True))


def token_name(subject: Subject, trace: Trace, place: int, token: int) -> str:
    """Return what a token after a position is called: its text, or its id for a model without a tokenizer."""
    if subject.tokenizer is None:
        return f"token {token}"
    return _name(subject.tokenizer, token, _before(subject.tokenizer, trace, place))


def has_independent_classes(model: Any, trace: Trace) -> bool:
    """Return whether several classes may apply at once, so that their probabilities need not add up to one."""
    kind = getattr(getattr(model, "config", None), "problem_type", None)
    return trace.logits is not None and trace.logits.ndim == 2 and kind == "multi_label_classification"


def class_name(model: Any, index: int) -> str:
    """Return what the model's configuration calls a class."""
    names = getattr(getattr(model, "config", None), "id2label", None) or {}
    return str(names.get(index, index))


def _places(trace: Trace, positions: Layers | None) -> tuple[int, ...]:
    """Return the positions asked about, counted from 0; by default the text's own last one."""
    length = trace.shape[1]
    asked = [-1] if positions is None else chosen_positions(positions, length)
    for place in asked:
        if not -length <= place < length:
            raise InputError(f"position {place} does not exist: the text has {length} tokens, 0 to {length - 1}")
    if isinstance(positions, str) and trace.attention_mask is not None:
        asked = trace.attention_mask[0].nonzero()[:, 0].tolist()
    found = positions_in(trace.attention_mask, trace.shape, asked, "position")[0].tolist()
    if len(set(found)) < len(found):
        twice = next(place for place in found if found.count(place) > 1)
        raise InputError(f"position {twice} is named twice; name each position once")
    return tuple(found)


def _token(
    tokenizer: PreTrainedTokenizerBase | None, asked: str | int | None, vocabulary: int, role: str
) -> int | None:
    if asked is None:
        return None
    token = single_token(tokenizer, asked, role) if isinstance(asked, str) else whole_number(asked, f"the {role}")
    if not 0 <= token < vocabulary:
        raise InputError(
            f"the {role} {token} is not a token: the model predicts {vocabulary} tokens, 0 to {vocabulary - 1}"
        )
    return token


def _before(tokenizer: PreTrainedTokenizerBase, trace: Trace, place: int) -> list[str]:
    """Return the last tokens up to a position, as many as one character may need."""
    if trace.input_ids is None:
        return []
    ids = trace.input_ids[0, max(place + 1 - LONGEST_CHARACTER, 0) : place + 1].tolist()
    return [decode_token(tokenizer, token) for token in ids]


def _name(tokenizer: PreTrainedTokenizerBase, token: int, before: list[str]) -> str:
    return predicted_name(before, decode_token(tokenizer, token))


def _classes(
    subject: Subject, logits: Tensor, places: tuple[int, ...], question: Question, length: int
) -> ResolvedQuestion:
    model, inputs, count = subject.model, subject.inputs, logits.shape[-1]
    chosen = _class_index(model, question.target, count, "target")
    chosen = int(logits[0].argmax()) if chosen is None else chosen
    foil = _class_index(model, question.foil, count, "foil")
    names = (class_name(model, chosen), "" if foil is None else class_name(model, foil))
    readout = readouts.class_(chosen, foil, names)
    if question.positions is not None:
        return ResolvedQuestion(places, tuple(dataclasses.replace(readout, positions=(place,)) for place in places))
    if isinstance(model, StagedModel):
        positions: tuple[int, ...] = tuple(range(length))
    else:
        positions = class_positions(model, inputs) or _pooled(model, readout, inputs) or places
    place = positions if len(positions) == 1 else places
    return ResolvedQuestion(place, (dataclasses.replace(readout, positions=positions),))


def _pooled(model: Any, readout: Readout, inputs: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the positions of the last mixer's output that a class's logit depends on: those with a gradient."""
    _, flow = list(differentiate(model, readout, mixers=True, **inputs).mixers.values())[-1]
    return tuple(flow[0].any(dim=-1).nonzero()[:, 0].tolist())


def _class_index(model: Any, asked: str | int | None, count: int, role: str) -> int | None:
    if asked is None:
        return None
    labels = {class_name(model, index): index for index in range(count)}
    if isinstance(asked, str):
        index = labels.get(asked, int(asked) if asked.isdecimal() else -1)
    else:
        index = whole_number(asked, f"the {role}")
    if not 0 <= index < count:
        shown = ", ".join(list(labels)[:20]) + (", …" if count > 20 else "")
        raise InputError(f"the {role} {asked!r} is not a class of this model; its classes are {shown}")
    return index
