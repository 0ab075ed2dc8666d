"""From what a user asks about to the number that is explained: a token, a class, a contrast, a continuation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mambascope import readouts
from mambascope.characters import LONGEST_CHARACTER, predicted_name
from mambascope.errors import InputError
from mambascope.inputs.patches import class_positions, patch_grid
from mambascope.inputs.tokens import decode_token, single_token
from mambascope.models.picture_models import StagedModel
from mambascope.numbering import whole_number
from mambascope.positions import positions_in
from mambascope.readouts import FeatureReadout, Readout
from mambascope.trace import Trace
from mambascope.trace.differentiate import differentiate

#: How many next tokens a result names.
NEXT_TOKENS = 5


@dataclass(frozen=True)
class Question:
    """What a user asks about.

    Attributes:
        target: A token or class, by text or number; None for the model's own first choice.
        foil: One to contrast with.
        position: The position to explain; negative numbers count back from the text's own last token; None for that.
        features: Ask about the size of the position's own features, in place of a logit.
        continuation: Position of its first token, its ids and its text; None unless a continuation is asked about.
    """

    target: str | int | None = None
    foil: str | int | None = None
    position: int | None = None
    continuation: tuple[int, tuple[int, ...], str] | None = None
    features: bool = False


@dataclass(frozen=True)
class Asked:
    """A question understood.

    Attributes:
        place: The position in focus.
        positions: The positions whose rows explain it.
        readout: The number; None for a model without a head.
    """

    place: int
    positions: tuple[int, ...]
    readout: Readout | FeatureReadout | None


def resolve(
    model: Any,
    tokenizer: PreTrainedTokenizerBase | None,
    trace: Trace,
    inputs: Mapping[str, Any],
    question: Question,
) -> Asked:
    """Return the number and the positions that a question is about.

    A classifier is asked about where it reads its logits from: the class token, the last one, or all.

    Raises:
        InputError: if the position, target or foil does not exist, the target is several tokens, the foil is the
            target, or the parts of the question contradict each other.
    """
    place = _place(trace, question.position)
    if question.features:
        if question.target is not None or question.foil is not None or question.continuation is not None:
            raise InputError("features are explained as they are; ask for them without target, foil and continuation")
        grid = patch_grid(model, inputs)
        name = f"token {grid.name(place)}" if grid is not None and grid.tokens == trace.shape[1] else ""
        return Asked(place, (place,), readouts.features(place, name=name))
    logits = trace.logits
    if logits is None:
        if question.target is not None or question.foil is not None or question.continuation is not None:
            raise InputError(
                f"{type(model).__name__} has no head, so there is no logit of a target or foil to explain; load the "
                "model with its language-model or classification head"
            )
        return Asked(place, (place,), None)
    if question.continuation is not None:
        return _continuation(question)
    if logits.ndim == 2:
        return _class(model, logits, inputs, place, question, trace.shape[1])
    token = _token(tokenizer, question.target, logits.shape[-1], "target")
    token = int(logits[0, place].argmax()) if token is None else token
    foil = _token(tokenizer, question.foil, logits.shape[-1], "foil")
    names = None
    if tokenizer is not None:
        before = _before(tokenizer, trace, place)
        names = _name(tokenizer, token, before), "" if foil is None else _name(tokenizer, foil, before)
    return Asked(place, (place,), readouts.token(place, token, foil, names))


def next_tokens(
    model: Any, tokenizer: PreTrainedTokenizerBase | None, trace: Trace, place: int
) -> tuple[tuple[str, float], ...]:
    """Return what the model predicts after a position, or of a whole text or picture its classes, best first.

    Where classes are independent (see `has_independent_classes`), each has its own probability.
    """
    logits = trace.logits
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


def has_independent_classes(model: Any, trace: Trace) -> bool:
    """Return whether several classes may be there at once, so that their probabilities need not add up to one."""
    kind = getattr(getattr(model, "config", None), "problem_type", None)
    return trace.logits is not None and trace.logits.ndim == 2 and kind == "multi_label_classification"


def class_name(model: Any, index: int) -> str:
    """Return what the model's configuration calls a class."""
    names = getattr(getattr(model, "config", None), "id2label", None) or {}
    return str(names.get(index, index))


def _place(trace: Trace, position: int | None) -> int:
    length, place = trace.shape[1], -1 if position is None else whole_number(position, "position")
    if not -length <= place < length:
        raise InputError(f"position {place} does not exist: the text has {length} tokens, 0 to {length - 1}")
    return int(positions_in(trace.attention_mask, trace.shape, place, "position"))


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
    """Return the last tokens up to a position, as many as one character may take."""
    if trace.input_ids is None:
        return []
    ids = trace.input_ids[0, max(place + 1 - LONGEST_CHARACTER, 0) : place + 1].tolist()
    return [decode_token(tokenizer, token) for token in ids]


def _name(tokenizer: PreTrainedTokenizerBase, token: int, before: list[str]) -> str:
    return predicted_name(before, decode_token(tokenizer, token))


def _continuation(question: Question) -> Asked:
    assert question.continuation is not None
    if question.target is not None or question.foil is not None or question.position is not None:
        raise InputError("a continuation is explained as a whole; ask for it without target, foil and position")
    start, tokens, text = question.continuation
    readout = readouts.continuation(start, tokens, text)
    return Asked(readout.positions[-1], readout.positions, readout)


def _class(model: Any, logits: Tensor, inputs: Mapping[str, Any], place: int, question: Question, length: int) -> Asked:
    count = logits.shape[-1]
    chosen = _class_index(model, question.target, count, "target")
    chosen = int(logits[0].argmax()) if chosen is None else chosen
    foil = _class_index(model, question.foil, count, "foil")
    names = (class_name(model, chosen), "" if foil is None else class_name(model, foil))
    readout = readouts.class_(chosen, foil, names)
    if question.position is not None:
        positions: tuple[int, ...] = (place,)
    elif isinstance(model, StagedModel):
        positions = tuple(range(length))
    else:
        positions = class_positions(model, inputs) or _pooled(model, readout, inputs) or (place,)
    readout = dataclasses.replace(readout, positions=positions)
    return Asked(positions[0] if len(positions) == 1 else place, positions, readout)


def _pooled(model: Any, readout: Readout, inputs: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the positions of the last mixer's output that a class's logit is read from: those with a gradient."""
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
