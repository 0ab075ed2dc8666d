"""How much memory a pass through a model will take, estimated and held against what is free before it runs.

A pass keeps every attention layer's probabilities, H·L² each, and for every token what its linear maps and scans
return; what a scan holds beyond that, its family says (`holds`). At a softmax a few more copies of one layer's
probabilities are held; the logits are held twice. A backward pass keeps what each step of the forward pass read, and
each token passes the experts that are chosen for it. `tests/trace/test_footprint.py` holds the estimate to measured
peaks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.configuration_utils import PreTrainedConfig

from mambascope.families import AttentionFamily, MixerFamily
from mambascope.inputs.patches import patch_grid
from mambascope.memory import require_bytes

#: Copies of one layer's probabilities that are held at once while they are made and checked.
AT_ONCE = 3

#: How often a token's values are kept: once by a capture, with their copies for the check; by a backward pass, what
#: each function between two linear maps read as well.
KEPT, KEPT_BACKWARD = 2, 4

#: Names that layers and configurations give to the number of attention heads.
HEADS = ("num_heads", "num_attention_heads", "n_head")

Mixers = Sequence[tuple[str, nn.Module, MixerFamily]]


def require_pass(model: nn.Module, mixers: Mixers, inputs: Mapping[str, Any], *, backward: bool = False) -> None:
    """Raise MapTooLargeError, with the numbers, if a pass through the model would take more memory than is free.

    Args:
        model: The model.
        mixers: Its mixers, as `find_mixers` returns them.
        inputs: What it is called with.
        backward: Whether a backward pass follows.
    """
    size = _texts_and_tokens(model, inputs)
    device = next(model.parameters()).device
    if size is None:
        return
    seen = inputs.get("pixel_values") is not None
    way_out = "read the picture at a smaller size" if seen else "shorten the text, or pass fewer texts at a time"
    what = f"a pass over {size[0]} x {size[1]} {'patches' if seen else 'tokens'}"
    require_bytes(bytes_of_pass(model, mixers, inputs, backward=backward), device, what, way_out)


def bytes_of_pass(model: nn.Module, mixers: Mixers, inputs: Mapping[str, Any], *, backward: bool = False) -> int:
    """Return about how many bytes a pass takes beyond the model itself; 0 if what it reads has no length."""
    size = _texts_and_tokens(model, inputs)
    if size is None:
        return 0
    texts, length = size
    element = next(model.parameters()).element_size()
    working = max(element, 4)
    heads = [_heads(mixer) for _, mixer, family in mixers if isinstance(family, AttentionFamily)]
    held = [family.holds(mixer) for _, mixer, family in mixers]
    at_once = [AT_ONCE * most * length for most in heads]
    if backward:
        width = sum(_width(part) for part in model.modules() if not list(part.children())) + _experts_width(model)
        kept = KEPT_BACKWARD * width + sum(one.backward for one in held)
    else:
        kept = KEPT * sum(_width(mixer) for _, mixer, _ in mixers)
        at_once += [one.at_once for one in held]
    head = getattr(model, "get_output_embeddings", lambda: None)()
    logits = 0 if head is None else 2 * _width(head)
    numbers = (kept + logits + max(at_once, default=0)) * working + sum(heads) * length * element
    return texts * length * numbers


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


def _heads(mixer: nn.Module) -> int:
    """Return the number of heads of an attention layer; 1 if it does not say."""
    places = (mixer, getattr(mixer, "config", None))
    found = (getattr(place, name, None) for place in places for name in HEADS)
    return next((count for count in found if isinstance(count, int)), 1)


def _width(part: nn.Module) -> int:
    """Return how many values per token the linear maps and convolutions of a part return."""
    widths = 0
    for module in part.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, torch.Tensor) and weight.ndim >= 2 and not isinstance(module, nn.Embedding):
            transposed = type(module).__name__ == "Conv1D"  # GPT-2's linear map, whose weight is (in, out)
            widths += weight.shape[1 if transposed else 0]
    return widths


def _experts_width(model: nn.Module) -> int:
    """Return how many values per token the chosen experts return, whose weights are stacked: (experts, out, in)."""
    config = getattr(model, "config", None)
    text = config.get_text_config() if isinstance(config, PreTrainedConfig) else config
    chosen = getattr(text, "num_experts_per_tok", None)
    named = (pair for part in model.modules() for pair in part.named_parameters(recurse=False))
    stacks = (weight for name, weight in named if name != "weight" and weight.ndim == 3)
    return sum(min(chosen or len(weight), len(weight)) * weight.shape[1] for weight in stacks)
