"""What the residual stream predicts layer by layer at the explained positions, kept beside a result's scores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mambascope.attribution import Attribution
from mambascope.errors import MambascopeError
from mambascope.explanation.question import Question, resolve, token_name
from mambascope.explanation.subject import Subject
from mambascope.methods.logit_lens import logit_lens
from mambascope.methods.method import AnyReadout
from mambascope.readouts import Readout
from mambascope.trace import Trace

#: How many tokens are named after each layer.
NAMED = 3

#: The most targets of a page for which the lens is read unasked; it is one pass for all of them.
MOST_TARGETS = 16


def with_lens(subject: Subject, result: Attribution, question: Question) -> Attribution:
    """Return a result that also says what the stream predicts after each layer; the same one where that cannot be read.

    `diagnostics["lens"]` lists, for every target: its `position`; `layers`, the number of the layer that each stream
    enters, None for the one that leaves the last; the `likeliest` tokens of each stream with their probabilities; the
    probability of the token explained, `explained`, and its `rank`, from 1, both None where it is not one token; and
    the `error` of the last stream's logits.
    """
    if result.grid is not None or len(result.axes["target"]) > MOST_TARGETS:
        return result
    try:
        trace = subject.trace()
        resolved = resolve(subject, trace, question)
        lens = logit_lens(trace, resolved.places)
    except MambascopeError:
        return result
    entries = [
        {
            "position": place,
            "layers": list(lens.layers),
            **_row(subject, trace, logits, place, readout),
            "error": lens.error,
        }
        for place, readout, logits in zip(resolved.places, resolved.readouts, lens.logits, strict=True)
    ]
    return replace(result, diagnostics={**result.diagnostics, "lens": entries})


def _row(
    subject: Subject, trace: Trace, logits: Float[Tensor, "stream v"], place: int, readout: AnyReadout
) -> dict[str, Any]:
    probabilities = logits.double().softmax(dim=-1)
    best = probabilities.topk(min(NAMED, probabilities.shape[-1]), dim=-1)
    likeliest = [
        [(token_name(subject, trace, place, token), share) for token, share in zip(tokens, shares, strict=True)]
        for tokens, shares in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    terms = [term for term in readout.terms if term.position == place] if isinstance(readout, Readout) else []
    asked = terms[0].entry if terms and len(readout.positions) == 1 else None
    if asked is None:
        return {"likeliest": likeliest, "explained": None, "rank": None}
    chosen = probabilities[:, asked]
    rank = (probabilities > chosen[:, None]).sum(dim=-1) + 1
    return {"likeliest": likeliest, "explained": chosen.tolist(), "rank": rank.tolist()}
