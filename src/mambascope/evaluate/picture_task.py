"""What all tasks on pictures share: their samples, and the check whether a model fits them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from mambascope.errors import InputError, UnsupportedModelError
from mambascope.evaluate.data.picture_sets import LabelledPicture, PictureSet, picture_set
from mambascope.evaluate.data.pictures import normalised
from mambascope.evaluate.patch_maps import class_grid
from mambascope.evaluate.task import Sample
from mambascope.evaluate.variants import check_supported, find_variant
from mambascope.inputs.preparation import own_size, reads_pictures


@dataclass(frozen=True)
class PictureTask:
    """The common part of tasks on pictures; each task adds its metrics and `evaluate`.

    Attributes:
        name: The name that people type.
        default_models: The models that are evaluated by default.
        pictures: The name of the set of pictures.
        most: The number of its pictures to use.
    """

    name: str
    default_models: Sequence[str] = ("zoo:vision-digits-vim", "zoo:vision-digits-vit")
    pictures: str = "digits"
    most: int = 300

    def samples(self, limit: int | None) -> Sequence[Sample]:
        """Return the first pictures of the set as samples: their numbers, from which they are made or read later."""
        return [Sample(str(number), {"picture": number}) for number in range(self._count())[:limit]]

    def data_hash(self) -> str:
        """Return a hash of the pictures and their labels."""
        digest = hashlib.sha256()
        pictures = picture_set(self.pictures)
        for number in range(self._count()):
            one = pictures.picture(number)
            digest.update(one.pixels.tobytes() + repr(one.classes).encode())
            if one.masks is not None:
                digest.update(one.masks.tobytes())
        return digest.hexdigest()

    def check(self, loaded: Any, methods: Sequence[str]) -> None:
        """Raise unless the model reads pictures of this size and has these classes, and every method can read it.

        Raises:
            InputError: if the model does not fit the pictures.
            UnsupportedModelError: if the model does not say where its patches are, or a method cannot read it;
                reference-code variants need a class token.
        """
        model, _ = loaded
        if not reads_pictures(model):
            raise InputError(
                f"{self.pictures} pictures need a vision model, and {type(model).__name__} reads no pictures"
            )
        pictures: PictureSet = picture_set(self.pictures)
        if own_size(model) != pictures.size:
            found, wanted = (f"{size[0]} x {size[1]}" for size in (own_size(model), pictures.size))
            raise InputError(f"this model reads pictures of {found} pixels, and those of {self.pictures} have {wanted}")
        count = model.config.num_labels
        if count != len(pictures.classes):
            raise InputError(
                f"this model has {count} classes, and the pictures of {self.pictures} have {len(pictures.classes)}"
            )
        check_supported(model, methods)
        _, positions = class_grid(model, model_inputs(model, pictures.picture(0)))
        reference = [one for one in methods if find_variant(one)[1] == "reference-code"]
        if reference and len(positions) != 1:
            raise UnsupportedModelError(
                f"{', '.join(reference)}: the reference code reads the class token's row, and this model has none"
            )

    def picture(self, sample: Sample) -> LabelledPicture:
        """Return the picture of a sample."""
        return picture_set(self.pictures).picture(int(sample.data["picture"]))

    def _count(self) -> int:
        return min(len(picture_set(self.pictures)), self.most)


def model_inputs(model: nn.Module, picture: LabelledPicture) -> dict[str, Any]:
    """Return a picture as inputs for a model."""
    return {"pixel_values": pixels_of(picture)[None].to(next(model.parameters()).device)}


def pixels_of(picture: LabelledPicture) -> Float[Tensor, "3 H W"]:
    """Return a picture's normalised pixels."""
    return normalised(picture.pixels)
