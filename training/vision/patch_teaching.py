"""Teaching a model what each patch shows, beside what the picture shows.

A small model that is told only which classes a picture has takes very long to find out where to look. Where the class
of every pixel is known, a linear head on the patches' features is asked for it too; the head is thrown away afterwards.
Such a model has the evidence for a class where the class is, which is what its maps are judged by, and has been helped
to it: its card says so.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from mambascope.models.vim import VisionMamba


class Taught(NamedTuple):
    """The logits of the picture's classes, and of each patch's, none of them being the last."""

    logits: Float[Tensor, "b classes"]
    patches: Float[Tensor, "b patches more"]


class PatchTaught(nn.Module):
    """A model with a head for its patches."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.patch_head = nn.Linear(model.config.hidden_size, model.config.num_labels + 1)

    def forward(self, pixel_values: Float[Tensor, "b 3 H W"]) -> Taught:
        """Return both kinds of logits; the picture's are the model's own."""
        model = self.model
        if isinstance(model, VisionMamba):
            found = model(pixel_values=pixel_values)
            places = list(model.config.grid().patch_positions)
            return Taught(found.logits, self.patch_head(found.last_hidden_state[:, places]))
        features = model.vit(pixel_values=pixel_values).last_hidden_state
        return Taught(model.classifier(features[:, 0]), self.patch_head(features[:, 1:]))
