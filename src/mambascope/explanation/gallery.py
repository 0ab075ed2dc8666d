"""The gallery of a page: what each head of the model does, and its map of the text that the page shows."""

from __future__ import annotations

from typing import Any

from mambascope.errors import InputError, MambascopeError
from mambascope.explanation.subject import Subject, read_subject
from mambascope.inputs.preparation import reads_pictures
from mambascope.theory.channel_groups import GROUPS, by_channel, channel_groups
from mambascope.theory.gallery import Gallery, mixer_galleries
from mambascope.theory.heads import heads_of
from mambascope.theory.probe_texts import ProbeTexts, probe_texts
from mambascope.trace import capture
from mambascope.trace.private_copy import plain_model
from mambascope.trace.running import own_precision

#: What a page shows unasked: the most maps, tokens, and seconds that it may take, as estimated.
MAPS, TOKENS, SECONDS = 600, 512, 3.0
#: Forward passes of a gallery; seconds for each number of a map; and for each number of a channel's map and of its
#: state that goes into a group's, twice for the rows. Measured on one core of a server.
PASSES, PER_NUMBER, PER_STATE = 3, 1e-7, 7e-10


@own_precision()
def head_gallery(
    model: Any, processor: Any, source: Any, *, continuation: str | None = None, generate: int | None = None
) -> Gallery:
    """Return what each head of a model does, and its map of a text, for `Attribution.to_html(gallery=…)`.

    Heads are a layer's maps: attention's heads, those of Mamba-2 and of delta rules. Where every channel has a map of
    its own, as in Mamba-1, channels of like memory length are taken together, in at most 16 groups. What they do is
    measured on rows of random tokens that repeat and on a text with marks of punctuation, not on the text of the maps.

    Args:
        model: A stock model of a supported family that reads text.
        processor: Its tokenizer.
        source: A text, or the model's own inputs, as for `explain`.
        continuation: A text that follows it, as for `explain`.
        generate: How many tokens the model adds, as for `explain`.

    Raises:
        InputError: if the model reads pictures, or there is no text that it can read.
        UnsupportedModelError: as `capture` does.
        MapTooLargeError: if a layer's maps would not fit in memory.
    """
    model = plain_model(model)
    _refuse_pictures(model)
    return _gallery(read_subject(model, processor, source, continuation=continuation, generate=generate))


@own_precision()
def quick_gallery(
    model: Any, processor: Any, source: Any, *, continuation: str | None = None, generate: int | None = None
) -> Gallery | None:
    """Return the same if it is small and, as estimated, done within seconds; else, or where it is refused, None."""
    try:
        model = plain_model(model)
        _refuse_pictures(model)
        subject = read_subject(model, processor, source, continuation=continuation, generate=generate)
        probes = probe_texts(model, subject.tokenizer)
        return _gallery(subject, probes) if _is_quick(subject, probes) else None
    except MambascopeError:
        return None


def _refuse_pictures(model: Any) -> None:
    if reads_pictures(model):
        raise InputError(f"{type(model).__name__} reads pictures; the gallery shows what heads do with texts")


def _gallery(subject: Subject, probes: ProbeTexts | None = None) -> Gallery:
    """Return the gallery of a subject."""
    probes = probes or probe_texts(subject.model, subject.tokenizer)
    trace = subject.trace()
    if trace.shape[0] != 1:
        raise InputError(f"the gallery shows one text; these inputs hold {trace.shape[0]}")
    if trace.attention_mask is not None and not trace.attention_mask.all():
        raise InputError("the gallery shows a text without padding; leave out the padding and its attention_mask")
    repeated, marked = capture(subject.model, input_ids=probes.rows), None
    if probes.ids is not None and probes.separators is not None:
        marked = capture(subject.model, input_ids=probes.ids), probes.separators
    groups = channel_groups(repeated)
    found = heads_of(repeated, marked, groups)
    tokens = subject.tokens or tuple(map(str, range(trace.shape[1])))
    return Gallery(tokens, mixer_galleries(trace, found, groups), probes)


def _is_quick(subject: Subject, probes: ProbeTexts) -> bool:
    """Return whether a gallery is small, and quickly made."""
    if subject.tokens is not None and len(subject.tokens) > TOKENS:
        return False
    trace = subject.trace()
    length, marked = trace.shape[1], 0 if probes.ids is None else probes.ids.shape[1]
    rows = probes.rows.shape[0] * probes.rows.shape[1] ** 2
    numbers, maps, seconds = rows + marked**2 + length**2, 0, PASSES * trace.seconds
    for block in trace.layers:
        for branch in block.branches:
            operator: Any = branch.operator()
            scan = operator.scan
            grouped = by_channel(scan)
            shown = GROUPS if grouped else scan.maps
            maps, seconds = maps + shown, seconds + PER_NUMBER * numbers * shown
            seconds += PER_STATE * (numbers + rows) * scan.maps * scan.state_size if grouped else 0.0
    return maps <= MAPS and length <= TOKENS and seconds <= SECONDS
