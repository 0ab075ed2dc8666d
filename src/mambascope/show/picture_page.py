"""The self-contained page of a picture: it holds the picture, and lays scores over it as they are looked at.

Each method brings its own layers and targets. Rows are packed as a text's are (see `pack.py`) without the class token,
whose score is often a hundred times a patch's and would use up the scale; it has a block of its own.
Where classes are read from the mean of all tokens, that mean is one more target, at the position after the last.
"""

from __future__ import annotations

import base64
import io
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from mambascope.attribution import Attribution
from mambascope.grid import Grid
from mambascope.show.check import require_finite, require_picture, require_same_picture
from mambascope.show.overlay import FLOOR, PALEST, ground_of, read_pixels
from mambascope.show.pack import CODES, TOP, deflated, pack_layer, quantise
from mambascope.show.page_parts import assembled, block, layer_kinds, method_facts
from mambascope.show.palette import ANCHORS
from mambascope.show.tokens import visible

SCRIPTS = (
    "decode.js", "colour.js", "sources.js", "scene.js", "exports.js", "address.js", "evidence.js", "patches.js",
    "overlay.js", "folding.js", "picturepage.js",
)  # fmt: skip

#: Pictures of more pixels are stored as JPEG; smaller ones exactly.
LARGE = 64 * 64
JPEG_QUALITY = 92


def picture_page(attribution: Attribution, *others: Attribution, command: str | None = None) -> str:
    """Return a page that shows the result and loads nothing: picture, top sources, layers and evidence.

    If the result holds all targets, a click on a patch shows what it drew from.

    Args:
        attribution: The result that the page opens with.
        others: Results of other methods on the same picture, with any layers and targets, which the page can
            switch to.
        command: The command line that makes the page again; by default the one in `diagnostics["command"]`.

    Raises:
        InputError: if the results are of different pictures or of a text, or hold scores that are not finite numbers.
    """
    results = (attribution, *others)
    grid = require_picture(attribution)
    require_same_picture(*results)
    for result in results:
        require_finite(result)
    image = ground_of(attribution.image, grid) if attribution.image is None else attribution.image
    mime, packed = encoded(image)
    palette = ANCHORS["light"]  # the picture is equally light in both themes
    description = {
        "tokens": list(attribution.tokens),
        "shown": {},
        "grid": asdict(grid) | {"size": grid.size},
        "picture": {
            "name": visible(str(attribution.diagnostics.get("picture", "picture"))),
            "mime": mime,
            "height": image.shape[0],
            "width": image.shape[1],
        },
        "command": command or attribution.diagnostics.get("command"),
        "methods": [_facts(result, grid) for result in results],
        "palette": {"light": palette, "dark": palette},
        "top": TOP,
        "codes": CODES,
        "palest": PALEST,
        "floor": FLOOR,
    }
    removed = any("verified" in result.diagnostics for result in results)
    blocks = [one for index, result in enumerate(results) for one in _blocks(index, result, grid)]
    return assembled(
        sections=["picture.html"],
        about=attribution.model.name,
        styles=["page.css", "picture.css", *(["removal.css"] if removed else [])],
        scripts=[*(["removal.js"] if removed else []), *SCRIPTS],
        result=description,
        blocks=[block("picture", packed), *blocks],
    )


def encoded(image: UInt8[Tensor, "h w 3"]) -> tuple[str, str]:
    """Return a picture's media type and its file in base64."""
    kind = "png" if image.shape[0] * image.shape[1] <= LARGE else "jpeg"
    file = io.BytesIO()
    options = {"quality": JPEG_QUALITY, "subsampling": 0} if kind == "jpeg" else {"optimize": True}
    Image.fromarray(image.numpy()).save(file, kind, **options)
    return f"image/{kind}", base64.b64encode(file.getvalue()).decode("ascii")


def _facts(result: Attribution, grid: Grid) -> dict[str, Any]:
    """Return what the page says about one result, with its layers, its targets, and which of them is in focus."""
    targets = _targets(result)
    focus = len(result.tokens) if result.target.pooled > 1 else result.target.position
    facts = method_facts(result) | {
        "causal": False,
        "layers": list(result.axes["layer"]),
        "kinds": layer_kinds(result),
        "targets": targets,
        "focus": targets.index(focus),
        "pixels": None,
    }
    if result.pixels is not None:
        read = read_pixels(result)
        facts["pixels"] = {"rows": read.shape[0], "columns": read.shape[1], "largest": float(read.abs().max())}
    return facts


def _targets(result: Attribution) -> list[int]:
    """Return the targets' positions; the mean of all tokens comes after the last."""
    mean = [len(result.tokens)] if result.target.pooled > 1 else []
    return mean if mean and len(result.axes["target"]) == 1 else [*result.axes["target"], *mean]


def _rows(result: Attribution, layer: int | str | None) -> Float[Tensor, "target source"]:
    """Return one layer's scores, with a row for every entry of `_targets`."""
    matrix = result.matrix(layer)
    if result.target.pooled > 1 and len(matrix) > 1:
        return torch.cat([matrix, matrix.mean(dim=0, keepdim=True)])
    return matrix


def _blocks(index: int, result: Attribution, grid: Grid) -> list[str]:
    """Return one result's scores: a block for all layers and each layer, for row sums, the class token, and pixels."""
    targets, sources = _targets(result), len(result.tokens)
    blocks, totals, of_class = [], [], []
    for number, layer in enumerate((None, *result.axes["layer"])):
        matrix = _rows(result, layer)
        totals.append(matrix.abs().sum(dim=1).numpy())
        patches = matrix.clone()
        if grid.class_position is not None:
            of_class.append(matrix[:, grid.class_position].numpy())
            patches[:, grid.class_position] = 0
        blocks.append(block(f"block-{index}-{number}", pack_layer(patches, targets, [sources] * len(targets))))
    blocks.append(block(f"totals-{index}", deflated(np.stack(totals).astype("<f4").tobytes())))
    if of_class:
        blocks.append(block(f"class-{index}", deflated(np.stack(of_class).astype("<f4").tobytes())))
    if result.pixels is not None:
        codes = quantise(read_pixels(result).reshape(1, -1))
        blocks.append(block(f"pixels-{index}", deflated(codes.tobytes())))
    return blocks
