"""Occlusion (Zeiler & Fergus 2014, arXiv 1311.2901, section 4.2, here for tokens): the text read without one token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import transformers
from jaxtyping import Float, Int
from torch import Tensor, nn

from mambascope.errors import InputError
from mambascope.inputs.tokens import check_ids
from mambascope.methods.ablation import Effect, chosen, copies, measure, padding_of, require_one_text
from mambascope.methods.checked import checked
from mambascope.methods.method import AnyReadout, Method, MethodResult, at_positions, number_of
from mambascope.methods.targets import positions, reach
from mambascope.numbering import shown
from mambascope.readouts import Readout, read, read_at
from mambascope.trace import Trace
from mambascope.trace.embedding import embedded, mean_embedding, reading, token_table
from mambascope.trace.intervene import intervening
from mambascope.trace.running import call, in_texts, running


@checked
def occlusion(
    trace: Trace,
    readout: Callable[[Any], Float[Tensor, " b"]],
    *,
    replacement: str | int = "zero",
    sources: Sequence[int] | None = None,
    batch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Effect:
    """Return how far a readout falls when one token of the text is occluded, for every token.

    Works for any transformers model that reads tokens, including Transformers.

    Args:
        trace: A capture of one text.
        readout: Given the model's outputs, returns one number per text; see `mambascope.readouts`.
        replacement: What replaces a token: `zero`, a vector of zeros; `mean`, the mean of all embeddings; a token id;
            or `delete`, nothing, so that the text becomes shorter. A position's outputs are then read where its token
            has moved to, and those of the deleted token at the token before it; the score is NaN if there is none.
        sources: The tokens to occlude, one at a time; negative numbers count back from the text's own last token. None
            for all; others score NaN.
        batch: Copies of the text per batch; by default as many as make 2048 tokens.
        progress: Called with (tokens done, tokens in all) after each batch.

    Raises:
        InputError: if the trace is not of one text, or the replacement or the readout cannot be used.
    """
    inputs = dict(trace.inputs)
    require_one_text(inputs)
    number = in_texts(readout, inputs)
    with running(trace.model) as own:
        text = embedded(own, inputs)
        length = text.shape[1]
        mask = trace.attention_mask if length == trace.shape[1] else None
        occluded = _occluding(own, inputs, replacement, length)

        def without(places: Tensor) -> Any:
            with intervening(own, None):
                return occluded(places.to(text.device))

        return measure(
            number, trace.outputs, without,
            length=length, reach=_seen(trace, readout, length), sources=chosen(sources, mask, length),
            padding=padding_of(inputs), batch=batch, progress=progress,
        )  # fmt: skip


def _seen(trace: Trace, readout: Any, length: int) -> int:
    """Return how many of the embedded tokens, from the first on, a readout may depend on."""
    places = read_at(readout)
    if places is None or length != trace.shape[1]:
        return length
    return reach(trace, positions(trace, places)[0].tolist())


def _occluding(
    model: nn.Module, inputs: dict[str, Any], replacement: str | int, length: int
) -> Callable[[Int[Tensor, " b"]], Any]:
    """Return the function that gives the model's outputs for copies of the text, each without the token at a place."""
    if isinstance(replacement, int) and not isinstance(replacement, bool):
        if inputs.get("input_ids") is None:
            raise InputError("a token id can only replace a token id; pass input_ids, or occlude with 'zero'")
        check_ids([replacement], token_table(model).num_embeddings)
        return partial(_with_id, model, inputs, replacement)
    if replacement == "delete":
        if length == 1:
            raise InputError("a text of one token is empty without it; occlude with 'zero'")
        places = inputs.get("position_ids")
        if places is not None and inputs.get("attention_mask") is None:
            if (places.diff(dim=-1) != 1).any():
                raise InputError("a token of texts packed into one row cannot be deleted; occlude with 'zero'")
            # without a mask, transformers takes a gap in the positions for the end of a text
            inputs = inputs | {"attention_mask": torch.ones_like(places).expand(1, -1)}
        return partial(_deleted, model, inputs)
    if replacement == "zero":
        return partial(_with_vector, model, inputs, None)
    if replacement == "mean":
        return partial(_with_vector, model, inputs, mean_embedding(model))
    raise InputError(f"unknown replacement {shown(replacement)}; choose 'zero', 'mean', 'delete' or a token id")


def _with_vector(
    model: nn.Module, inputs: dict[str, Any], vector: Float[Tensor, " E"] | None, places: Int[Tensor, " b"]
) -> Any:
    def put(embeddings: Tensor) -> Tensor:
        changed = embeddings.clone()
        changed[torch.arange(len(places)), places] = 0 if vector is None else vector.to(changed.dtype)
        return changed

    with reading(model, copies(inputs, len(places)), put) as given:
        return call(model, given)


def _with_id(model: nn.Module, inputs: dict[str, Any], token: int, places: Int[Tensor, " b"]) -> Any:
    batch = copies(inputs, len(places))
    batch["input_ids"] = batch["input_ids"].scatter(1, places[:, None], token)
    return call(model, batch)


def _deleted(model: nn.Module, inputs: dict[str, Any], places: Int[Tensor, " b"]) -> Any:
    """Remove the token from every input with one entry per token, including positions if the caller passed them."""
    batch = copies(inputs, len(places))
    text = batch["inputs_embeds"] if batch.get("input_ids") is None else batch["input_ids"]
    rest = torch.arange(text.shape[1] - 1, device=places.device)
    kept = rest + (rest >= places[:, None])
    rows = torch.arange(len(places), device=places.device)[:, None]
    for name, value in batch.items():
        if isinstance(value, Tensor) and value.shape[:2] == text.shape[:2]:
            batch[name] = value[rows, kept]
    outputs = call(model, batch)
    if isinstance(outputs, Tensor):
        return _moved_back(outputs, places, kept.shape)
    if isinstance(outputs, transformers.utils.ModelOutput):
        tensors = {name: value for name, value in outputs.items() if isinstance(value, Tensor)}
        return type(outputs)(**{name: _moved_back(value, places, kept.shape) for name, value in tensors.items()})
    raise InputError(f"outputs of class {type(outputs).__name__} cannot be read after a deletion; occlude with 'zero'")


def _moved_back(output: Tensor, places: Int[Tensor, " b"], text: torch.Size) -> Tensor:
    """Return an output with one entry per token, aligned with the whole text; other outputs are unchanged."""
    if output.ndim < 3 or output.shape[:2] != text:
        return output
    positions = torch.arange(text[1] + 1, device=places.device)
    moved = positions - (positions >= places[:, None]).long()
    aligned = output[torch.arange(len(places), device=places.device)[:, None], moved.clamp(min=0)]
    aligned[moved < 0] = torch.nan
    return aligned


def _scored(trace: Trace, readout: AnyReadout, variant: str) -> MethodResult:
    effect = occlusion(trace, number_of(readout))
    return MethodResult(at_positions(trace, effect.scores[None]), {"value": effect.value})


def _scored_many(trace: Trace, readouts: Sequence[Readout]) -> list[MethodResult]:
    """Read all readouts from the same passes: the intact one, then those without a token."""
    numbers = [in_texts(readout, trace.inputs) for readout in readouts]
    noted: list[Float[Tensor, "T b"]] = []

    def noting(outputs: Any) -> Float[Tensor, " b"]:
        values = torch.stack([read(number, outputs, gaps=True) for number in numbers])
        noted.append(values.to(torch.promote_types(values.dtype, torch.float32)))
        return values[0]

    occlusion(trace, noting)
    intact, *without = noted
    scores = intact - torch.cat(without, dim=1)
    for row, readout in zip(scores, readouts, strict=True):
        row[_seen(trace, readout, len(row)) :] = 0
    padding = padding_of(dict(trace.inputs))
    rows = at_positions(trace, scores if padding is None else scores.masked_fill(padding, 0))
    return [MethodResult(row[None], {"value": float(value)}) for row, value in zip(rows, intact, strict=True)]


METHODS = [
    Method(
        "occlusion",
        "drop of the logit when one token's embedding is replaced by zero",
        "Zeiler & Fergus 2014, arXiv 1311.2901",
        signed=True,
        needs="interventions",
        cost="quadratic",
        growth=1.0,
        score=_scored,
        score_many=_scored_many,
        asks=True,
        by_place=False,
        reaches_embeddings=True,
    ),
]
