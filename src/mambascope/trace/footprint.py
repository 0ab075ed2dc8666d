"""How much memory a pass through a model will take, estimated and held against what is free before it runs.

A capture keeps, of every mixer, its input, its output and its coefficients, which are what its linear maps return, and
the stream around it; of attention its probabilities, H·L². What a scan holds beyond that, its family says (`holds`).
While one mixer is checked its values are held once more, and at a softmax a few more copies of one layer's
probabilities; the logits are held twice. A backward pass keeps what each step of the forward pass read, and each token
passes the experts that are chosen for it. Each stage of a picture model reads tokens of its own.
`tests/trace/test_footprint.py` holds the estimate to measured peaks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers.configuration_utils import PreTrainedConfig

from mambascope.families import AttentionFamily, MixerFamily, find_mixers
from mambascope.inputs.patches import patch_grid
from mambascope.memory import require_bytes
from mambascope.models.picture_models import Sequences, StagedModel

#: Copies of one layer's probabilities that are held at once while they are made and checked.
AT_ONCE = 3

#: How often a token's stream is kept around each mixer by a capture: before it, normalised, and after it.
STREAMS = 3

#: How often what a part outside the mixers returns is held while it runs, such as an MLP's inner values.
INNER = 2

#: How often a token's values are kept by a backward pass: with what each function between two linear maps read. The
#: picture models of this project call fewer functions than those of transformers, whose norms are written out.
KEPT_BACKWARD, KEPT_BACKWARD_HERE = 4, 2.5

#: Copies of what a scan of transformers' own holds per token: decays, what is written, their product, and one more.
STATES = 4

#: Names that layers and configurations give to the number of attention heads.
HEADS = ("num_heads", "num_attention_heads", "n_head")

#: What a capture keeps of each layer: all, or the inputs of its mixers.
Keep = Literal["all", "inputs"]

Mixers = Sequence[tuple[str, nn.Module, MixerFamily]]


def require_pass(
    model: nn.Module,
    mixers: Mixers,
    inputs: Mapping[str, Any],
    *,
    backward: bool = False,
    keep: Keep = "all",
    way_out: str = "shorten the text, or pass fewer texts at a time",
) -> None:
    """Raise MapTooLargeError, with the numbers, if a pass through the model would take more memory than is free.

    Args:
        model: The model.
        mixers: Its mixers, as `find_mixers` returns them.
        inputs: What it is called with.
        backward: Whether a backward pass follows.
        keep: What the capture keeps.
        way_out: What to do instead where the model reads a text, as a clause.
    """
    reads = _reads(model, inputs)
    if reads is None:
        return
    pixels = inputs.get("pixel_values")
    read = reads(mixers[0][0])
    texts = read.count if pixels is None else len(pixels)
    what = f"a pass over {texts} x {read.count * read.tokens // texts} {'tokens' if pixels is None else 'patches'}"
    way_out = way_out if pixels is None else "read the picture at a smaller size"
    needed = bytes_of_pass(model, mixers, inputs, backward=backward, keep=keep)
    require_bytes(needed, next(model.parameters()).device, what, way_out)


def require_generation(model: nn.Module, input_ids: Int[Tensor, "1 L"], count: int) -> None:
    """Raise MapTooLargeError if a text and so many more tokens would take more memory than is free.

    All of it is captured afterwards. Before, the model's own code reads the text, whose scans hold states and decays.

    Args:
        model: A language model.
        input_ids: One text.
        count: How many tokens are asked for; the model may end before.
    """
    mixers, length = find_mixers(model), input_ids.shape[1]
    way_out = f"shorten the text, or ask for less than generate={count}"
    whole = input_ids.new_zeros(()).expand(1, length + count)
    require_pass(model, mixers, {"input_ids": whole}, way_out=way_out)
    scans = max((_stock_scan(mixer) for _, mixer, _ in mixers), default=0)
    device = next(model.parameters()).device
    require_bytes(4 * length * scans, device, f"{type(model).__name__}'s own pass over {length} tokens", way_out)


def bytes_of_pass(
    model: nn.Module, mixers: Mixers, inputs: Mapping[str, Any], *, backward: bool = False, keep: Keep = "all"
) -> int:
    """Return about how many bytes a pass takes beyond the model itself; 0 if what it reads has no length."""
    reads = _reads(model, inputs)
    if reads is None:
        return 0
    element = next(model.parameters()).element_size()
    kept, at_once, probabilities = 0, [0 if backward else _inner(model, mixers, reads)], 0
    for name, mixer, family in mixers:
        read, held, width = reads(name), family.holds(mixer), _width(mixer)
        tokens, heads = read.count * read.tokens, heads_of(mixer) if isinstance(family, AttentionFamily) else 0
        softmax = AT_ONCE * heads * read.tokens
        probabilities += tokens * heads * read.tokens if keep == "all" else 0
        if backward:
            kept += tokens * held.backward
            at_once.append(tokens * softmax)
        elif keep == "inputs":
            kept += tokens * read.width
            at_once.append(tokens * (2 * width + STREAMS * read.width + held.kept + held.at_once + softmax))
        else:
            kept += tokens * (width + STREAMS * read.width + held.kept)
            at_once.append(tokens * (width + held.at_once + softmax))
    factor = KEPT_BACKWARD_HERE if isinstance(model, StagedModel) else KEPT_BACKWARD
    for name, part in model.named_modules() if backward else ():
        own = _experts_width(model, part) + (0 if list(part.children()) else _width(part))
        before = isinstance(model, StagedModel) and name.startswith("patch_embed")  # the tokens are the graph's leaf
        kept += 0 if before else int(factor * own) * reads(name).count * reads(name).tokens
    head, whole = getattr(model, "get_output_embeddings", lambda: None)(), reads("")
    kept += 0 if head is None else 2 * _width(head) * whole.count * whole.tokens
    return (kept + max(at_once)) * max(element, 4) + probabilities * element


def bytes_of_inputs(model: nn.Module, mixers: Mixers, inputs: Mapping[str, Any]) -> int:
    """Return how many bytes the inputs of all mixers and of the head take; 0 if what the model reads has no length."""
    reads = _reads(model, inputs)
    if reads is None:
        return 0
    numbers = sum(read.count * read.tokens * read.width for read in map(reads, [*(name for name, _, _ in mixers), ""]))
    return numbers * next(model.parameters()).element_size()


def _reads(model: nn.Module, inputs: Mapping[str, Any]) -> Callable[[str], Sequences] | None:
    """Return what the part of a name reads, given the name; None if that is not known."""
    if isinstance(model, StagedModel):
        return _reads_in_stages(model, inputs)
    size = _texts_and_tokens(model, inputs)
    return None if size is None else lambda _: Sequences(*size, width=_stream_width(model))


def _reads_in_stages(model: StagedModel, inputs: Mapping[str, Any]) -> Callable[[str], Sequences] | None:
    """Return the same for a picture model with stages; its head reads one token, and what makes patches four."""
    pixels, tokens = inputs.get("pixel_values"), inputs.get("inputs_embeds")
    if isinstance(pixels, Tensor) and pixels.ndim == 4:
        pictures, (height, width) = len(pixels), pixels.shape[-2:]
    elif isinstance(tokens, Tensor) and tokens.ndim == 3:
        pictures, height = len(tokens), math.isqrt(tokens.shape[1]) * model.embedded_cell
        width = height
    else:
        return None
    stages = model.sequences(pictures, height, width)

    def reads(name: str) -> Sequences:
        place = re.match(r"(?:layers|levels)\.([0-9]+)\.|(patch_embed)", name)
        if place is None:
            return Sequences(pictures, 1, stages[-1].width)
        return replace(stages[0], tokens=4 * stages[0].tokens) if place[2] else stages[int(place[1])]

    return reads


def _texts_and_tokens(model: nn.Module, inputs: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return how many texts or pictures there are, and of how many tokens; None if that is not known."""
    for name in ("input_ids", "inputs_embeds"):
        text = inputs.get(name)
        if isinstance(text, Tensor) and text.ndim >= 2:
            return text.shape[0], text.shape[1]
    pixels = inputs.get("pixel_values")
    if not isinstance(pixels, Tensor) or pixels.ndim != 4:
        return None
    grid = patch_grid(model, inputs)
    return None if grid is None else (len(pixels), grid.tokens)


def _inner(model: nn.Module, mixers: Mixers, reads: Callable[[str], Sequences]) -> int:
    """Return how many numbers the largest part outside the mixers holds at once, the head apart."""
    mixing = tuple(f"{name}." for name, _, _ in mixers)  # with the mixers' own names
    head = getattr(model, "get_output_embeddings", lambda: None)()
    found = [0]
    for name, part in model.named_modules():
        if part is head or f"{name}.".startswith(mixing):
            continue
        own = _experts_width(model, part) if list(part.children()) else _width(part) + _experts_width(model, part)
        found.append(INNER * own * reads(name).count * reads(name).tokens)
    return max(found)


def heads_of(mixer: nn.Module) -> int:
    """Return the number of heads of an attention layer; 1 if it does not say."""
    places = (mixer, getattr(mixer, "config", None))
    found = (getattr(place, name, None) for place in places for name in HEADS)
    return next((count for count in found if isinstance(count, int)), 1)


def _stock_scan(mixer: nn.Module) -> int:
    """Return how many numbers per token transformers' own scan holds: its states, or pairs of tokens within a chunk."""
    rates = getattr(mixer, "A_log", None)
    if not isinstance(rates, Tensor):
        return 0
    return STATES * rates.numel() if rates.ndim > 1 else STATES * len(rates) * getattr(mixer, "chunk_size", 0)


def _width(part: nn.Module) -> int:
    """Return how many values per token the linear maps and convolutions of a part return."""
    widths = 0
    for module in part.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, torch.Tensor) and weight.ndim >= 2 and not isinstance(module, nn.Embedding):
            transposed = type(module).__name__ == "Conv1D"  # GPT-2's linear map, whose weight is (in, out)
            widths += weight.shape[1 if transposed else 0]
    return widths


def _experts_width(model: nn.Module, part: nn.Module) -> int:
    """Return how many values per token the chosen experts of a part return, stacked there: (experts, out, in)."""
    chosen = getattr(_text_config(model), "num_experts_per_tok", None)
    stacks = (weight for name, weight in part.named_parameters(recurse=False) if name != "weight" and weight.ndim == 3)
    return sum(min(chosen or len(weight), len(weight)) * weight.shape[1] for weight in stacks)


def _stream_width(model: nn.Module) -> int:
    """Return E, the width of the stream; 0 if the configuration does not say."""
    width = getattr(_text_config(model), "hidden_size", 0)
    return width if isinstance(width, int) else 0


def _text_config(model: nn.Module) -> Any:
    config = getattr(model, "config", None)
    return config.get_text_config() if isinstance(config, PreTrainedConfig) else config
