"""Scores of words, sentences and named spans, from those of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mambascope.attribution import Attribution
from mambascope.errors import InputError
from mambascope.explained import Target
from mambascope.numbering import shown, whole_number
from mambascope.results.units import UNITS

#: What becomes of the scores of a unit's sources, and of the rows of its targets.
WAYS = {"sources": ("sum", "max"), "targets": ("mean", "sum")}
#: Evidence about single rows, which holds for none once rows are merged.
OF_ROWS = ("per_target",)
#: Evidence about single tokens.
OF_TOKENS = ("verified", "seconds_verified", "lens")


def in_units(
    result: Attribution,
    units: str | Mapping[str, tuple[int, int]],
    *,
    sources: str = "sum",
    targets: str = "mean",
) -> Attribution:
    """Return a result whose positions are units of several tokens each.

    Args:
        result: The result of a text.
        units: "words", "sentences", "lines" or "paragraphs", as `mambascope.results.units` finds them; or spans by
            name, `{"the question": (12, 40)}`, each from its first token up to, not including, its last. Tokens in no
            span stay as they are.
        sources: What a unit as source has: the sum of its tokens' scores, which keeps what adds up adding up, or the
            one of largest absolute value.
        targets: What a unit as target has: the mean of its tokens' rows, or their sum.

    Raises:
        InputError: if the result is of a picture, or the spans are not in the text or overlap.
    """
    if result.grid is not None:
        raise InputError("patches of a picture make no words; this is for results of texts")
    for name, value in {"sources": sources, "targets": targets}.items():
        if not isinstance(value, str) or value not in WAYS[name]:
            raise InputError(f"{name} must be {' or '.join(map(repr, WAYS[name]))}, found {shown(value)}")
    runs, names = _runs(result, units)
    unit_of = {position: number for number, run in enumerate(runs) for position in run}
    merged = _sources(result.scores, runs, sources)
    rows: dict[int, list[int]] = {}
    for row, position in enumerate(result.axes["target"]):
        rows.setdefault(unit_of[position], []).append(row)
    if 1 < result.target.pooled == len(result.axes["target"]):  # one number, read from the mean of all rows
        rows = {unit_of[result.target.position]: list(range(len(result.axes["target"])))}
    each = [merged[:, own].mean(dim=1) if targets == "mean" or result.target.pooled > 1 else merged[:, own].sum(dim=1)
            for own in rows.values()]  # fmt: skip
    kept = {
        name: value
        for name, value in result.diagnostics.items()
        if name not in OF_TOKENS and (name not in OF_ROWS or len(rows) == len(result.targets))
    }
    return replace(
        result,
        scores=torch.stack(each, dim=1),
        tokens=tuple(names),
        axes={**result.axes, "target": tuple(rows), "source": tuple(range(len(runs)))},
        target=_in_unit(result.target, unit_of, names),
        targets=tuple(_one([result.targets[row] for row in own], unit_of, names, targets) for own in rows.values())
        if result.targets
        else (),
        diagnostics={
            **kept,
            "merged": {
                "units": units if isinstance(units, str) else "spans",
                "tokens": len(result.tokens),
                "sources": sources,
                "targets": targets,
            },
        },
    )


def _runs(result: Attribution, units: Any) -> tuple[list[range], list[str]]:
    """Return the positions of each unit, and its text or name."""
    if isinstance(units, str):
        if units not in UNITS:
            raise InputError(f"there are no units called {shown(units)}; choose one of {', '.join(UNITS)}")
        runs = UNITS[units](result.tokens)
        return runs, ["".join(result.tokens[run.start : run.stop]) for run in runs]
    runs, names, done = [], [], 0
    for name, (start, stop) in ordered(units, len(result.tokens)).items():
        runs += [range(k, k + 1) for k in range(done, start)] + [range(start, stop)]
        names += [*result.tokens[done:start], name]
        done = stop
    runs += [range(k, k + 1) for k in range(done, len(result.tokens))]
    return runs, [*names, *result.tokens[done:]]


def ordered(spans: Any, length: int) -> dict[str, tuple[int, int]]:
    """Return spans by name in the order of a text of so many tokens, each with its ends counted from 0.

    Raises:
        InputError: if they are not spans by name, are not in the text, or overlap.
    """
    if not isinstance(spans, Mapping) or not spans:
        raise InputError(f"spans must be given by name, such as {{'the question': (12, 40)}}, found {shown(spans)}")
    named = sorted((_span(length, name, span), name) for name, span in spans.items())
    done = 0
    for (start, stop), name in named:
        if start < done:
            raise InputError(f"the span {shown(name)} begins at {start}, before the one before it ends, at {done}")
        done = stop
    return {name: span for span, name in named}


def with_the_rest(spans: Any, length: int) -> dict[str, tuple[int, int]]:
    """Return spans by name and each stretch before, between and after them, which is named by its ends, `12:40`.

    Raises:
        InputError: as `ordered` does, or if a span has the name of such a stretch.
    """
    found: dict[str, tuple[int, int]] = {}
    done, own = 0, ordered(spans, length)
    for name, (start, stop) in [*own.items(), ("", (length, length))]:
        if done < start:
            rest = f"{done}:{start}"
            if rest in own:
                raise InputError(f"the tokens {rest} are in no span, but {shown(rest)} is the name of one; rename it")
            found[rest] = (done, start)
        if name:
            found[name] = (start, stop)
        done = stop
    return found


def _span(length: int, name: Any, span: Any) -> tuple[int, int]:
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"a span needs a name, found {shown(name)}")
    if not isinstance(span, Sequence) or isinstance(span, str) or len(span) != 2:
        raise InputError(
            f"the span {shown(name)} must be its first token and the one after its last, found {shown(span)}"
        )
    start, stop = (whole_number(end, "the end of a span") for end in span)
    start, stop = (end + length if end < 0 else end for end in (start, stop))
    if not 0 <= start < stop <= length:
        raise InputError(f"the span {shown(name)}, {start}:{stop}, holds no tokens of a text of {length}")
    return start, stop


def _sources(scores: Tensor, runs: Sequence[range], how: str) -> Tensor:
    """Return the scores of units as sources, (layer, target, unit)."""
    if how == "sum":
        unit = torch.repeat_interleave(torch.arange(len(runs)), torch.tensor([len(run) for run in runs]))
        total = scores.new_zeros(*scores.shape[:2], len(runs), dtype=torch.float64)
        return total.index_add_(2, unit, scores.double()).to(scores.dtype)
    parts = [scores[..., run.start : run.stop] for run in runs]
    return torch.cat([part.gather(2, part.abs().argmax(dim=2, keepdim=True)) for part in parts], dim=2)


def _in_unit(target: Target, unit_of: Mapping[int, int], names: Sequence[str]) -> Target:
    generated = None if target.generated is None else unit_of[target.generated]
    place = unit_of[target.position]
    return replace(target, position=place, token=names[place], generated=generated, pooled=1)


def _one(targets: Sequence[Target], unit_of: Mapping[int, int], names: Sequence[str], how: str) -> Target:
    """Return what a merged row explains: the last target, or the mean or sum of several."""
    last = _in_unit(targets[-1], unit_of, names)
    if len(targets) == 1:
        return last
    values = [one.value for one in targets if one.value is not None]
    total = sum(values) / (len(values) if how == "mean" else 1) if len(values) == len(targets) else None
    asked = f"the {how} of {len(targets)} numbers" if any(one.asked for one in targets) else ""
    return replace(last, asked=asked, value=total)
