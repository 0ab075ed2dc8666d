"""`mambascope maps`: a layer's matrices per channel or head, in a file that any safetensors reader opens."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mambascope.cli.asked import short, text_asked
from mambascope.cli.delivering import continued_later
from mambascope.cli.pictures_asked import check_text
from mambascope.errors import InputError
from mambascope.files import check_place
from mambascope.growing_files import Band, bands_of, grow
from mambascope.inputs.patches import patch_grid
from mambascope.inputs.pictures import is_picture, read_picture
from mambascope.inputs.preparation import reads_pictures
from mambascope.inputs.tokens import encode
from mambascope.methods.hidden_attention import hidden_attention
from mambascope.methods.implicit_attention import implicit_attention
from mambascope.numbering import shown
from mambascope.progress import LateProgress
from mambascope.trace import Trace, capture
from mambascope.trace.embedding import token_table

#: Numbers in a band (64 MiB), and the least rows.
BAND, LEAST_ROWS = 1 << 24, 16


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
    """Capture a text or picture and write its maps as they are computed, with the tokens in the header."""
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
    number = trace.index(layer)
    header = {
        "tokens": json.dumps(pieces),
        "method": method,
        "layer": str(number),
        "channels": channels,
        "reconstruction_error": repr(trace.reconstruction_error[number]),
    }
    if notes:
        header["preparation"] = "; ".join(notes)
        print(f"picture   {header['preparation']}")
    compute = hidden_attention if method == "hidden-attention" else implicit_attention
    shape = _write(out, trace, number, compute, chosen, header)
    print(f"written   {out}: maps of shape {shape}, row = target, column = source")


def _write(
    out: Path,
    trace: Trace,
    layer: int,
    compute: Callable[..., Tensor],
    chosen: Literal["mean"] | list[int] | None,
    header: dict[str, str],
) -> tuple[int, ...]:
    """Write a layer's maps band by band, and return their shape."""
    length = trace.shape[1]
    single = compute(trace, layer, chosen, targets=slice(0, 1))[0]  # refuses what does not exist
    shape = (*single.shape[:-2], length, length)
    rows = max(LEAST_ROWS, BAND // (length * math.prod(shape[:-2])))

    def band(one: Band) -> Tensor:
        found = compute(trace, layer, chosen, targets=one.rows)[0]
        return found if found.ndim == 3 else found[None]

    identity = json.dumps({name: text for name, text in header.items() if name != "reconstruction_error"})
    with LateProgress(f"writing {out}") as steps, continued_later(out):
        grow(out, "maps", shape, identity, bands_of(shape, rows, together=True), band, lambda: header, said=steps)
    return shape


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
