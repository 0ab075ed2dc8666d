"""MambaVision (Hatamizadeh & Kautz, arXiv 2407.08083, section 3.1): two stages of convolutions, two of token mixers.

In a stage of token mixers, the first half of the layers has MambaVision's mixer and the second half attention; both
read the picture in windows. Tensors have the released names. The batch norms are fixed at the statistics of the
training pictures, so the model can be explained but not trained.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers.configuration_utils import PreTrainedConfig

from mambascope.models.mambavision.attention import MambaVisionAttention
from mambascope.models.mambavision.mixer import MambaVisionMixer
from mambascope.models.mambavision.windows import from_windows, to_windows
from mambascope.models.picture_models import Mlp, PictureOutput, Sequences, StagedModel
from mambascope.models.vim.embedding import TokenSequence

#: Stages of convolutions, which come first.
CONVOLUTIONAL = 2


class MambaVisionConfig(PreTrainedConfig):
    """The sizes of a MambaVision; the defaults are those of the released tiny model.

    Attributes:
        image_size: Height and width of the pictures that it was made for, or one number for a square; by default the
            size at which one window covers the last stage.
        num_channels: Number of colour channels.
        depths: Number of layers of each stage.
        hidden_size: Width of the first stage; each later stage is twice as wide as the one before it.
        stem_size: Width between the two convolutions that make the patches.
        num_heads: Number of heads of the attention layers, by stage.
        windows: Side of the windows, by stage; not used by the first two.
        state_size: N, the state size per channel.
        conv_kernel: K, the number of taps of the mixers' convolutions.
        mlp_ratio: Inner width of the MLPs, as a multiple of the width.
    """

    model_type = "mambavision"

    def __init__(
        self,
        image_size: int | Sequence[int] | None = None,
        num_channels: int = 3,
        depths: Sequence[int] = (1, 3, 8, 4),
        hidden_size: int = 80,
        stem_size: int = 32,
        num_heads: Sequence[int] = (2, 4, 8, 16),
        windows: Sequence[int] = (8, 8, 14, 7),
        state_size: int = 8,
        conv_kernel: int = 3,
        mlp_ratio: float = 4.0,
        **kwargs: Any,
    ) -> None:
        size = StagedModel.embedded_cell * 2 ** (len(depths) - 1) * windows[-1] if image_size is None else image_size
        self.image_size = size if isinstance(size, int) else list(size)
        self.num_channels = num_channels
        self.depths = list(depths)
        self.hidden_size = hidden_size
        self.stem_size = stem_size
        self.num_heads = list(num_heads)
        self.windows = list(windows)
        self.state_size = state_size
        self.conv_kernel = conv_kernel
        self.mlp_ratio = mlp_ratio
        super().__init__(**kwargs)

    def width(self, stage: int) -> int:
        """Return E of a stage."""
        return self.hidden_size * 2**stage


class FixedBatchNorm(nn.Module):
    """A batch norm fixed at its training statistics: an affine map of every pixel."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x: Float[Tensor, "b E H W"]) -> Float[Tensor, "b E H W"]:
        """Return the normalised pixels."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class ConvolutionalBlock(nn.Module):
    """A layer of the first stages: the output of two convolutions is added to the stream."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1), FixedBatchNorm(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1), FixedBatchNorm(width)

    def forward(self, x: Float[Tensor, "b E H W"]) -> Float[Tensor, "b E H W"]:
        """Return the stream after the layer."""
        inner = F.gelu(self.norm1(self.conv1(x)), approximate="tanh")
        return x + self.norm2(self.conv2(inner))


class MixingBlock(nn.Module):
    """A layer of the last stages: mixer and MLP each read the normalised stream, and are added to the stream."""

    def __init__(self, config: MambaVisionConfig, stage: int, attends: bool) -> None:
        super().__init__()
        width = config.width(stage)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixer: nn.Module = (
            MambaVisionAttention(width, config.num_heads[stage])
            if attends
            else MambaVisionMixer(width, state_size=config.state_size, conv_kernel=config.conv_kernel)
        )
        self.mlp = Mlp(width, int(config.mlp_ratio * width))

    def forward(self, hidden_states: Float[Tensor, "w L E"]) -> Float[Tensor, "w L E"]:
        """Return the stream after the layer."""
        mixed = self.mixer(self.norm1(hidden_states))
        stream = hidden_states + (mixed[0] if isinstance(mixed, tuple) else mixed)
        return stream + self.mlp(self.norm2(stream))


class Stage(nn.Module):
    """The layers of one resolution, and the convolution that halves it for the next stage."""

    def __init__(self, config: MambaVisionConfig, stage: int) -> None:
        super().__init__()
        depth, width = config.depths[stage], config.width(stage)
        self.window = None if stage < CONVOLUTIONAL else config.windows[stage]
        self.blocks = nn.ModuleList(
            ConvolutionalBlock(width) if self.window is None else MixingBlock(config, stage, layer >= (depth + 1) // 2)
            for layer in range(depth)
        )
        self.downsample: nn.Module | None = None
        if stage + 1 < len(config.depths):
            halving = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)
            self.downsample = nn.Sequential(OrderedDict(reduction=nn.Sequential(halving)))

    def forward(self, x: Float[Tensor, "b E H W"]) -> Float[Tensor, "b F h w"]:
        """Return the input of the next stage."""
        rows, columns = x.shape[2:]
        if self.window is not None:
            x = to_windows(x.permute(0, 2, 3, 1), self.window)
        for block in self.blocks:
            x = block(x)
        if self.window is not None:
            x = from_windows(x, self.window, rows, columns).permute(0, 3, 1, 2)
        return x if self.downsample is None else self.downsample(x)


class MambaVision(StagedModel):
    """A MambaVision with its classification head."""

    config_class = MambaVisionConfig
    _no_split_modules = ("MixingBlock",)

    def __init__(self, config: MambaVisionConfig) -> None:
        super().__init__(config)
        stem, width, last = config.stem_size, config.hidden_size, config.width(len(config.depths) - 1)
        convolutions = nn.Sequential(
            nn.Conv2d(config.num_channels, stem, 3, stride=2, padding=1, bias=False),
            FixedBatchNorm(stem, eps=1e-4),
            nn.ReLU(),
            nn.Conv2d(stem, width, 3, stride=2, padding=1, bias=False),
            FixedBatchNorm(width, eps=1e-4),
            nn.ReLU(),
        )
        self.patch_embed = nn.Sequential(OrderedDict(conv_down=convolutions))
        self.tokens = TokenSequence()
        self.levels = nn.ModuleList(Stage(config, stage) for stage in range(len(config.depths)))
        self.norm = FixedBatchNorm(last)
        self.head = nn.Linear(last, config.num_labels)
        self.post_init()

    def cells(self) -> tuple[int, ...]:
        """Return the side of a token in pixels, for each stage that mixes tokens."""
        return tuple(self.embedded_cell * 2**stage for stage in range(CONVOLUTIONAL, len(self.config.depths)))

    def sequences(self, pictures: int, height: int, width: int) -> tuple[Sequences, ...]:
        """Return what each stage reads of some pictures of this size in pixels: grids, then windows."""
        found = []
        for stage, side in enumerate(self.config.windows):
            cell, E = self.embedded_cell * 2**stage, self.config.width(stage)
            rows, columns = -(-height // cell), -(-width // cell)
            if stage < CONVOLUTIONAL:
                found.append(Sequences(pictures, rows * columns, E))
            else:
                found.append(Sequences(pictures * -(-rows // side) * -(-columns // side), side**2, E))
        return tuple(found)

    def patches(self, pixel_values: Float[Tensor, "b c h w"]) -> Float[Tensor, "b H W E"]:
        """Return the pictures' patches, as a grid."""
        return self.patch_embed(pixel_values).permute(0, 2, 3, 1)

    def classify(self, patches: Float[Tensor, "b H W E"]) -> PictureOutput:
        """Return the output of the stages and the head, given patches."""
        stream = patches.permute(0, 3, 1, 2)
        for level in self.levels:
            stream = level(stream)
        logits = self.head(self.norm(stream).mean(dim=(2, 3)))
        return PictureOutput(logits=logits, last_hidden_state=stream.permute(0, 2, 3, 1))
