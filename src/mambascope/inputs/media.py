"""Pictures, videos and sounds beside a text: of models that read them too, mambascope reads the text alone.

Such a model puts what it made of a picture in the place of tokens that stand for it, so the tokens' embeddings, which
scores are shared among, would not be what the layers read.
"""

from __future__ import annotations

from typing import Any

import transformers
from torch import Tensor, nn

from mambascope.errors import InputError
from mambascope.inputs.names import read_by
from mambascope.inputs.preparation import reads_pictures

#: What stands for something other than text: words in the names of arguments, and in those of a configuration's tokens.
MEDIA = {"image": "pictures", "pixel": "pictures", "video": "videos", "audio": "sounds", "input_features": "sounds"}

#: Arguments that say what kind each token is, or hold what was made of pictures before.
KINDS = ("mm_token_type_ids", "mm_encoder_outputs")


def check_media(model: nn.Module, inputs: dict[str, Any]) -> None:
    """Raise InputError if a model that reads text is given something else beside it, or a token that stands for it."""
    if not isinstance(model, transformers.PreTrainedModel) or reads_pictures(model):
        return
    known, _ = read_by(model)
    for name, value in inputs.items():
        if value is None or name not in known or (isinstance(value, Tensor) and name in KINDS and not value.any()):
            continue
        what = next((what for word, what in MEDIA.items() if word in name), "pictures" if name in KINDS else "")
        if what:
            raise InputError(
                f"{name} cannot be used here: of {type(model).__name__} mambascope reads the text only, and {what} in "
                "it are not read; pass a text without them"
            )
    ids = inputs.get("input_ids")
    if not isinstance(ids, Tensor):
        return
    for token, name, what in _placeholders(model):
        places = ids.eq(token).nonzero()
        if len(places):
            raise InputError(
                f"token {int(places[0, -1])} of text {int(places[0, 0])} is {token}, the {name} of "
                f"{type(model).__name__}, which stands for {what}; mambascope reads the text only, and {what} in it "
                "are not read; pass a text without them"
            )


def _placeholders(model: transformers.PreTrainedModel) -> list[tuple[int, str, str]]:
    """Return the tokens that stand for something other than text: id, name in the configuration, and what it is."""
    names = [(f"{word}_token_{end}", what) for word, what in MEDIA.items() for end in ("id", "index")]
    found = [(getattr(model.config, name, None), name, what) for name, what in names]
    return [(token, name, what) for token, name, what in found if isinstance(token, int)]
