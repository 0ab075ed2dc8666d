"""`mambascope maps`: a layer's matrices per channel or head, in a file that any safetensors reader opens."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mambascope.cli.asked import short, text_asked
from mambascope.cli.pictures_asked import check_text
from mambascope.errors import InputError
from mambascope.files import check_place
from mambascope.inputs.patches import patch_grid
from mambascope.inputs.pictures import is_picture, read_picture
from mambascope.inputs.preparation import reads_pictures
from mambascope.inputs.tokens import encode
from mambascope.methods.hidden_attention import hidden_attention
from mambascope.methods.implicit_attention import implicit_attention
from mambascope.numbering import shown
from mambascope.tensor_files import write_tensors
from mambascope.trace import capture
from mambascope.trace.embedding import token_table


def write_maps(
    text: str,
    load: Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase | None]],
    *,
    as_text: bool,
    out: Path,
    layer: int,
    method: Literal["hidden-attention", "implicit-attention"],
    channels: str,
) -> None:
    """Capture a text or picture and write its maps, whole or not at all, with the tokens in the header."""
    chosen = _channels(channels)
    if out.suffix.lower() != ".safetensors":
        raise InputError(f"--out {out} must end in .safetensors")
    check_place(out)
    seen = not as_text and is_picture(text)
    if not as_text and not seen:
        check_text(text, "maps")
    text = text_asked(text)
    model, tokenizer = load()
    inputs, pieces, notes = _read(text, seen, model, tokenizer)
    trace = capture(model, **inputs)
    compute = hidden_attention if method == "hidden-attention" else implicit_attention
    result = compute(trace, layer, chosen)[0]
    header = {
        "tokens": json.dumps(pieces),
        "method": method,
        "layer": str(trace.index(layer)),
        "channels": channels,
        "reconstruction_error": repr(trace.reconstruction_error[trace.index(layer)]),
    }
    if notes:
        header["preparation"] = "; ".join(notes)
        print(f"picture   {header['preparation']}")
    write_tensors(out, {"maps": result.cpu()}, header)
    print(f"written   {out}: maps of shape {tuple(result.shape)}, row = target, column = source")


def _read(text: str, seen: bool, model: Any, tokenizer: Any) -> tuple[dict[str, Any], Sequence[str], Sequence[str]]:
    """Return what the model is called with, the names of its tokens, and what was done to the picture if it is one."""
    if not seen and not reads_pictures(model):
        ids, pieces = encode(tokenizer, text, vocab_size=token_table(model).num_embeddings)
        return {"input_ids": ids.to(model.device)}, pieces, ()
    if not seen:
        raise InputError(
            f"{type(model).__name__} reads pictures, not the text {short(text)}; give the path of a picture"
        )
    picture = read_picture(text, model)
    inputs = {"pixel_values": picture.pixel_values.to(model.device, model.dtype)}
    grid = patch_grid(model, inputs)
    names = [] if grid is None else [grid.name(position) for position in range(grid.tokens)]
    return inputs, names, picture.notes


def _channels(channels: str) -> Literal["mean"] | list[int] | None:
    if channels == "all":
        return None
    if channels == "mean":
        return "mean"
    try:
        return [int(number) for number in channels.split(",")]
    except ValueError:
        raise InputError(
            f"--channels {shown(channels)} is neither all, mean, nor numbers separated by commas"
        ) from None
