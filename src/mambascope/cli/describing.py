"""`mambascope info`: what a model is, and whether its maps can be trusted."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, get_args

import torch
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mambascope.cli import layer_lines
from mambascope.errors import InputError
from mambascope.inputs.checks import longest_text
from mambascope.inputs.patches import patch_grid
from mambascope.inputs.preparation import own_size, reads_pictures
from mambascope.inputs.tokens import encode, text_ids
from mambascope.loading.constructed import is_constructed
from mambascope.models.constructed import mechanism_of
from mambascope.operators.affine_map import ActivationRule, AffineMap
from mambascope.trace import Trace, capture
from mambascope.trace.embedding import token_table
from mambascope.trace.layer_map import layer_map

PROBE = "When Mary and John went to the store, John gave a drink to"

#: Length of the probe in tokens when the model has no tokenizer, or one that cannot read the text.
PROBE_LENGTH = 16

#: Length in tokens of the text that a constructed model is shown with.
EXAMPLE_LENGTH = 7


def print_info(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, *, as_json: bool) -> None:
    """Print what a model is, and the self-check on a probe."""
    trace = capture(model, partial=True, **probe(model, tokenizer))
    facts, layers = _facts(name, model, trace), layer_map(trace)
    if as_json:
        missing = [dataclasses.asdict(part) for part in trace.missing]
        print(json.dumps(facts | layer_lines.as_json(layers) | {"not_read": missing}))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in facts.items():
        table.add_row(key.replace("_", " "), f"{value:.1e}" if isinstance(value, float) else str(value))
    Console().print(table)
    print()
    print("\n".join(layer_lines.lines(layers, trace.missing)))


def _facts(name: str, model: PreTrainedModel, trace: Trace) -> dict[str, Any]:
    """Return family, sizes and self-check of a model as plain values."""
    return {
        "model": name,
        "family": trace.branches[0].family.model_type,
        "class": type(model).__name__,
        "layers": len(trace.layers),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dtype": str(model.dtype).removeprefix("torch."),
        **(_mechanism(name) if is_constructed(name) else {}),
        **_reads(model, trace.inputs),
        **_sizes(trace.operator(0)),
        "probe_tokens": trace.layers[0].x.shape[1],
        "probe_reconstruction_error": max(trace.reconstruction_error),
        "probe_scan_error": max(record.scan_error for record in trace.layers),
        "probe_seconds": round(trace.seconds, 3),
        **{f"residual_{rule}": _residual(trace, rule) for rule in get_args(ActivationRule)},
    }


def _mechanism(name: str) -> dict[str, Any]:
    """Return what a constructed model does, and a text with its answer and the words that the answer is made of."""
    mechanism = mechanism_of(name)
    case = mechanism.draw(EXAMPLE_LENGTH, torch.Generator().manual_seed(0))
    sources = sorted(case.signs)
    return {
        "does": mechanism.does,
        "words": " ".join(mechanism.machine.tokens),
        "text": " ".join(token for token in case.tokens if token != mechanism.opens),
        "text_answer": case.answer,
        "text_sources": ", ".join(f"{place} {case.tokens[place]!r}" for place in sources),
    }


def probe(model: Any, tokenizer: PreTrainedTokenizerBase | None) -> dict[str, Any]:
    """Return what to try a model on: a text, or a picture of random pixels."""
    if reads_pictures(model):
        channels = getattr(model.config, "num_channels", 3)
        draw = torch.Generator().manual_seed(0)
        pixels = torch.randn(1, channels, *own_size(model), generator=draw, dtype=torch.float32)
        return {"pixel_values": pixels.to(model.device, model.dtype)}
    vocabulary = token_table(model).num_embeddings
    if tokenizer is None or not _can_read(tokenizer, PROBE):
        ids = torch.arange(PROBE_LENGTH)[None] * 7919 % vocabulary
    else:
        ids = encode(tokenizer, PROBE, vocab_size=vocabulary)[0]
    return {"input_ids": ids[:, : longest_text(model)].to(model.device)}


def _can_read(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Return whether a tokenizer knows the words, or the letters, of a text."""
    try:
        return bool(text_ids(tokenizer, text))
    except InputError:
        return False


def _reads(model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the size of what a model reads: its vocabulary, or its pictures and their patches."""
    if "pixel_values" not in inputs:
        embedding, head = token_table(model), model.get_output_embeddings()
        tied = {} if head is None else {"head_is_tied": getattr(head, "weight", None) is embedding.weight}
        return {"vocabulary": embedding.num_embeddings, **tied}
    grid, (height, width) = patch_grid(model, inputs), own_size(model)
    cut = (
        {} if grid is None else {"patches": f"{grid.rows} x {grid.columns}", "patch": grid.patch, "stride": grid.stride}
    )
    return {"picture": f"{height} x {width}", **cut, "classes": getattr(model.config, "num_labels", 0)}


def _residual(trace: Trace, rule: ActivationRule) -> float:
    """Return the share of a layer's output that a rule's contributions leave unexplained, averaged over layers."""
    return sum(trace.operator(layer).residual(rule) for layer in range(len(trace.layers))) / len(trace.layers)


def _sizes(operator: AffineMap) -> dict[str, int]:
    return {
        "hidden_size_E": operator.x.shape[-1],
        "inner_width_D": operator.inner_width,
        "state_size_N": operator.scan.state_size,
        "convolution_taps_K": operator.taps,
        "maps_per_layer": operator.scan.maps,
    }
