"""What picture models with stages have in common: pictures in, tokens on the way, classes out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from mambascope.errors import InputError
from mambascope.models.vim.embedding import TokenSequence


@dataclass
class PictureOutput(ModelOutput):
    """What a picture model returns.

    Attributes:
        logits: Logits of the classes.
        last_hidden_state: Features of the last stage, as a grid, before the final norm.
    """

    logits: Float[Tensor, "b classes"] | None = None
    last_hidden_state: Float[Tensor, "b H W E"] | None = None


@dataclass(frozen=True)
class Sequences:
    """What the parts of one stage read of some pictures.

    Attributes:
        count: How many sequences: one of each picture, or one of each window.
        tokens: L, the number of tokens of each.
        width: E, the width of the stream.
    """

    count: int
    tokens: int
    width: int


class StagedModel(PreTrainedModel):
    """A model whose stages read fewer and fewer tokens; its tokens are those of the first stage.

    A subclass has `tokens`, a `TokenSequence`, and defines its patches and its stages. There is no position embedding,
    so pictures of any size can be read without resizing.
    """

    main_input_name = "pixel_values"
    base_model_prefix = ""
    tokens: TokenSequence
    #: Side of an embedded token in pixels.
    embedded_cell = 4
    #: Whether only LayerNorms read the last stage's stream: its gradient then has zero mean over the width.
    centred_end = False

    def get_input_embeddings(self) -> nn.Module:
        """Return the module whose output is the tokens of the first stage."""
        return self.tokens

    def get_output_embeddings(self) -> None:
        """Return None: the head's outputs are classes, not tokens."""

    def cells(self) -> tuple[int, ...]:
        """Return the side of a token in pixels, for each stage that mixes tokens."""
        raise NotImplementedError

    def sequences(self, pictures: int, height: int, width: int) -> tuple[Sequences, ...]:
        """Return what each stage reads of some pictures of this size in pixels, also stages that mix no tokens."""
        raise NotImplementedError

    def patches(self, pixel_values: Float[Tensor, "b c h w"]) -> Float[Tensor, "b H W E"]:
        """Return the pictures' patches, as a grid."""
        raise NotImplementedError

    def classify(self, patches: Float[Tensor, "b H W E"]) -> PictureOutput:
        """Return the output of the stages and the head, given patches."""
        raise NotImplementedError

    def embed(self, pixel_values: Float[Tensor, "b c h w"]) -> Float[Tensor, "b L E"]:
        """Return the tokens of pictures, row by row.

        Raises:
            InputError: if the pictures have the wrong number of channels.
        """
        return self.tokens(self._checked_patches(pixel_values).flatten(1, 2))

    def forward(
        self,
        pixel_values: Float[Tensor, "b c h w"] | None = None,
        inputs_embeds: Float[Tensor, "b L E"] | None = None,
    ) -> PictureOutput:
        """Return logits and features.

        Args:
            pixel_values: Pictures.
            inputs_embeds: The tokens of square pictures as `embed` returns them, instead of pictures.

        Raises:
            InputError: if neither or both are given, if the tokens do not form a square, or as `embed` does.
        """
        if (pixel_values is None) == (inputs_embeds is None):
            raise InputError("pass exactly one of pixel_values and inputs_embeds")
        if pixel_values is not None:
            patches = self._checked_patches(pixel_values)
            tokens, grid = self.tokens(patches.flatten(1, 2)), patches.shape[1:3]
            return self.classify(tokens.unflatten(1, grid))
        assert inputs_embeds is not None
        side = math.isqrt(inputs_embeds.shape[1])
        if side**2 != inputs_embeds.shape[1]:
            raise InputError(f"{inputs_embeds.shape[1]} tokens do not make a square picture; pass pixel_values")
        return self.classify(inputs_embeds.unflatten(1, (side, side)))

    def _checked_patches(self, pixel_values: Tensor) -> Float[Tensor, "b H W E"]:
        channels = self.config.num_channels
        if pixel_values.ndim != 4 or pixel_values.shape[1] != channels:
            raise InputError(
                f"pixel_values must have shape (batch, {channels}, height, width), found {tuple(pixel_values.shape)}"
            )
        return self.patches(pixel_values)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Keep each module's initial weights."""


class ChannelsLast(nn.Module):
    """Moves channels last: (b, E, H, W) to (b, H, W, E)."""

    def forward(self, x: Float[Tensor, "b E H W"]) -> Float[Tensor, "b H W E"]:
        """Return the same values with channels last."""
        return x.permute(0, 2, 3, 1)


class ChannelsFirst(nn.Module):
    """Moves channels first: (b, H, W, E) to (b, E, H, W)."""

    def forward(self, x: Float[Tensor, "b H W E"]) -> Float[Tensor, "b E H W"]:
        """Return the same values with channels first."""
        return x.permute(0, 3, 1, 2)


class Mlp(nn.Module):
    """Two linear layers with a GELU between them, token by token."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Float[Tensor, "*b E"]) -> Float[Tensor, "*b E"]:
        """Return the layers' output for every token."""
        return self.fc2(nn.functional.gelu(self.fc1(x)))
