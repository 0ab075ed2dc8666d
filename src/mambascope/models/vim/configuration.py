"""The sizes of a Vision Mamba."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast, get_args

from transformers.configuration_utils import PreTrainedConfig

from mambascope.errors import InputError
from mambascope.grid import Grid
from mambascope.models.vim.grid import ClassToken, grid_of
from mambascope.numbering import shown


class VisionMambaConfig(PreTrainedConfig):
    """The sizes of a Vision Mamba; the defaults are the released tiny model's.

    Attributes:
        image_size: Height and width of the pictures that the position embedding fits, or one number for a square; for a
            picture of another size the embedding is interpolated.
        patch_size: Side of a patch in pixels.
        stride: Pixels from one patch to the next; by default the side of a patch.
        num_channels: Number of colour channels.
        hidden_size: E, the width of the residual stream.
        num_hidden_layers: Number of layers.
        state_size: N, the state size per channel.
        conv_kernel: K, the number of taps of the convolutions.
        expand: D/E.
        time_step_rank: Rank of the projection that makes Δ; by default E/16 rounded up.
        class_token: Position of the class token among the patches: `middle`, `first`, `last`, or `none`, when the
            classes are read from the mean of the patches.
        divide_output: Whether the two directions are averaged rather than summed.
        norm_epsilon: ε of the RMS norms.
        use_bias: Whether in_proj and out_proj have biases.
        initializer_range: Initial standard deviation of class token, positions and head.
    """

    model_type = "vision-mamba"

    def __init__(
        self,
        image_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        stride: int | None = None,
        num_channels: int = 3,
        hidden_size: int = 192,
        num_hidden_layers: int = 24,
        state_size: int = 16,
        conv_kernel: int = 4,
        expand: int = 2,
        time_step_rank: int | None = None,
        class_token: str = "middle",
        divide_output: bool = True,
        norm_epsilon: float = 1e-5,
        use_bias: bool = False,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        if class_token not in get_args(ClassToken):
            raise InputError(f"class_token is {shown(class_token)}; choose one of {', '.join(get_args(ClassToken))}")
        sides = [image_size, image_size] if isinstance(image_size, int) else list(image_size)
        if len(sides) != 2:
            raise InputError(f"image_size must be one number or a height and a width, found {image_size}")
        self.image_size = sides
        self.patch_size = patch_size
        self.stride = stride or patch_size
        self.num_channels = num_channels
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.state_size = state_size
        self.conv_kernel = conv_kernel
        self.expand = expand
        self.time_step_rank = time_step_rank or math.ceil(hidden_size / 16)
        self.class_token: ClassToken = cast(ClassToken, class_token)
        self.divide_output = divide_output
        self.norm_epsilon = norm_epsilon
        self.use_bias = use_bias
        self.initializer_range = initializer_range
        super().__init__(**kwargs)

    @property
    def intermediate_size(self) -> int:
        """D, the inner width."""
        return self.expand * self.hidden_size

    def grid(self, height: int | None = None, width: int | None = None) -> Grid:
        """Return how a picture is cut into patches, by default a picture of `image_size`.

        Raises:
            InputError: if the picture is smaller than one patch.
        """
        height, width = height or self.image_size[0], width or self.image_size[1]
        return grid_of(height, width, self.patch_size, self.stride, self.class_token)
