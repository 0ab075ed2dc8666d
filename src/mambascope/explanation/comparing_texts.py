"""Several models and methods asked one question about a text, or about two that differ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

from mambascope.attribution import Attribution
from mambascope.brief import brief
from mambascope.errors import InputError
from mambascope.explanation.answering import answer
from mambascope.explanation.defaults import answering, has_head
from mambascope.explanation.options import ask, check_targets
from mambascope.explanation.patched_texts import patched
from mambascope.explanation.question import Question, resolve
from mambascope.explanation.subject import Subject, read_subject
from mambascope.families import kinds_of
from mambascope.inputs.preparation import reads_pictures
from mambascope.methods.method import Method, says_kinds
from mambascope.methods.registry import find_method
from mambascope.numbering import shown
from mambascope.readouts import Readout
from mambascope.results.alignment import beside, common_units, unit_names
from mambascope.results.text_comparison import TextComparison, compared_row
from mambascope.trace.private_copy import plain_model
from mambascope.trace.putting import Part

#: How many methods are compared on a model when none is named.
DEFAULTS = 2


@dataclass(frozen=True, eq=False)
class _Answers:
    """One model's results for each text, method by method, why others have none, and what patching found."""

    results: tuple[tuple[Attribution, ...], ...]
    left_out: tuple[str, ...]
    patched: tuple[Attribution, ...]

    __repr__ = brief

    def pieces(self, text: int) -> tuple[str, ...]:
        """Return the tokens of a text."""
        return self.results[0][text].tokens


class _Columns(NamedTuple):
    """The columns of a comparison: for each model and text its units, and for each text their names."""

    units: list[list[list[range]]]
    names: tuple[tuple[str, ...], ...]


def compare_texts(
    models: Iterable[tuple[nn.Module, Any]],
    text: str,
    other: str | None = None,
    *,
    methods: Sequence[str] | None = None,
    target: str | int | None = None,
    foil: str | int | None = None,
    position: int | None = None,
    patch_in: Part | None = None,
) -> TextComparison:
    """Return what several models and methods say about one text, or about two texts, column by column.

    Of one text, columns are its tokens; where tokenizers cut it differently, the finest pieces that all of them have
    in common. Two texts are aligned, column by column, by what they have in common; the same number is explained in
    both, which is the logit of what the model predicts after the first text unless a target is named.

    Args:
        models: Models, each with its tokenizer; they may be loaded as they are asked for.
        text: The text.
        other: The other text.
        methods: Names of methods; those that cannot read a model are left out there, and the result says why. By
            default the first two that can of those that `explain` uses for predictions.
        target, foil, position: As in `explain`, for every model; a position must be the same place in every text for
            every tokenizer.
        patch_in: With two texts: also put this part of the first text's run into the second's, layer by layer and
            position by position, see `methods.patching`.

    Raises:
        InputError: as `explain` and `methods.patching` do, if there is no model, none of the methods can read one of
            them, the tokenizers change the text so that it cannot be aligned, or a position is not the same place for
            all of them.
        UnsupportedModelError, ReconstructionError: as `explain` and `methods.patching` do.
    """
    chosen = None if methods is None else [find_method(name) for name in dict.fromkeys(methods)]
    check_targets(chosen or (), target, foil)
    texts = [text] if other is None else [text, other]
    if patch_in is not None and other is None:
        raise InputError(f"patch_in={patch_in!r} puts parts of one text into another; pass the other text")
    loaded = models if chosen or chosen is None else ()
    asked: dict[str, Any] = {"target": target, "foil": foil, "position": position}
    answers = [_answers(model, tokenizer, texts, chosen, asked, patch_in) for model, tokenizer in loaded]
    if not answers:
        raise InputError("there is nothing to compare: name at least one model and one method")
    columns = _columns(answers, len(texts))
    rows = []
    for one, units in zip(answers, columns.units, strict=True):
        for results in one.results:
            places = [_column(own, result.target.position) for own, result in zip(units, results, strict=True)]
            rows.append(compared_row(results, units, places))
    if position is not None:
        _check_place(rows, columns, position)
    return TextComparison(
        tuple(rows),
        columns.names,
        tuple(reason for one in answers for reason in one.left_out),
        patched=tuple(result for one in answers for result in one.patched),
        merged=any(len({one.pieces(text) for one in answers}) > 1 for text in range(len(texts))),
    )


def _answers(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    methods: Sequence[Method] | None,
    asked: dict[str, Any],
    patch_in: Part | None,
) -> _Answers:
    """Return one model's results for each text by the methods that can read it."""
    model = plain_model(model)
    if reads_pictures(model):
        raise InputError(
            f"{type(model).__name__} reads pictures, not the text {shown(texts[0])}; give the path of a picture"
        )
    reasons = {method.name: _reason(model, method) for method in methods or answering()}
    able = [find_method(name) for name, reason in reasons.items() if not reason]
    able, reasons = (able[:DEFAULTS], {}) if methods is None and able else (able, reasons)
    if not able:
        name, reason = next(iter(reasons.items()))
        raise InputError(f"none of the methods {', '.join(reasons)} can explain one of the models: {name} {reason}")
    subjects = [read_subject(model, tokenizer, text) for text in texts]
    results = []
    for number, subject in enumerate(subjects):
        if number and asked["target"] is None:
            asked = asked | {"target": _token(subjects[0], ask(subjects[0], able, **asked))}
        results.append(answer(subject, able, ask(subject, able, **asked)))
    both = () if patch_in is None else (patched(subjects, ask(subjects[0], able, **asked), patch_in, results[0][0]),)
    name = results[0][0].model.name
    left_out = tuple(f"{method} on {name}: it {reason}" for method, reason in reasons.items() if reason)
    return _Answers(tuple(zip(*results, strict=True)), left_out, both)


def _reason(model: nn.Module, method: Method) -> str:
    """Return why a method cannot explain a model; empty if it can."""
    if method.asks and not has_head(model):
        return "explains a logit, and this model has no head"
    kinds = kinds_of(model)
    return "" if method.reads(kinds) else f"does not read {says_kinds(kinds)}"


def _token(subject: Subject, question: Question) -> int | None:
    """Return the token or class that a question is about; None for a model without a head."""
    readout = resolve(subject, subject.trace(), question).readouts[-1]
    return readout.terms[0].entry if isinstance(readout, Readout) else None


def _columns(answers: Sequence[_Answers], texts: int) -> _Columns:
    units: list[list[list[range]]] = [[] for _ in answers]
    names = []
    for text in range(texts):
        pieces = [one.pieces(text) for one in answers]
        common = common_units(pieces)
        named = [unit_names(own, runs) for own, runs in zip(pieces, common, strict=True)]
        names.append(tuple(next(filter(None, own), "") for own in zip(*named, strict=True)))
        for own, runs in zip(units, common, strict=True):
            own.append(runs)
    if texts == 1:
        return _Columns(units, tuple(names))
    pairs = beside(*names)
    both = [list(own) for own in zip(*pairs, strict=True)]
    aligned = [[[_joined(runs, own) for own in both[text]] for text, runs in enumerate(each)] for each in units]
    return _Columns(
        aligned,
        tuple(tuple("".join(named[own.start : own.stop]) for own in both[text]) for text, named in enumerate(names)),
    )


def _joined(units: Sequence[range], own: range) -> range:
    """Return the tokens of several units that follow each other."""
    return range(units[own.start].start, units[own.stop - 1].stop) if own else range(0)


def _column(units: Sequence[range], position: int) -> int:
    return next(number for number, unit in enumerate(units) if position in unit)


def _check_place(rows: Sequence[Any], columns: _Columns, position: int) -> None:
    """Raise InputError if a position is not the same place everywhere."""
    places = sorted({place for row in rows for place in row.targets})
    if len(places) > 1:
        found = " and ".join(shown(columns.names[0][place] or columns.names[-1][place]) for place in places[:2])
        raise InputError(
            f"position {position} is not the same place for all models and texts: it is {found}; count from the end "
            "with a negative number, or leave it out"
        )
