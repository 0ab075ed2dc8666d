"""VMamba (Liu et al., arXiv 2401.10166, section 4.1): four stages of mixers, each at half the last one's resolution.

Built like the released `v05_noz` models (such as `vssm1_tiny_0230s`), with their tensors' names: two convolutions with
norms make the patches, a convolution joins each stage to the next, and a norm and a head read the mean of all patches.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from transformers.configuration_utils import PreTrainedConfig

from mambascope.models.picture_models import ChannelsFirst, ChannelsLast, Mlp, PictureOutput, Sequences, StagedModel
from mambascope.models.vim.embedding import TokenSequence
from mambascope.models.vmamba.mixer import SS2D


class VMambaConfig(PreTrainedConfig):
    """The sizes of a VMamba; the defaults are those of the released tiny model.

    Attributes:
        image_size: Height and width of the pictures that it was made for, or one number for a square.
        num_channels: Number of colour channels.
        depths: Number of layers of each stage.
        hidden_sizes: E of each stage.
        expand: D/E.
        state_size: N, the state size per channel.
        conv_kernel: Side of the kernel of the mixers' convolution.
        gated: Whether the mixers have a gate.
        conv_bias: Whether their convolution has a bias.
        mlp_ratio: Inner width of the MLPs, as a multiple of E.
        norm_epsilon: ε of the norms.
    """

    model_type = "vmamba"

    def __init__(
        self,
        image_size: int | Sequence[int] = 224,
        num_channels: int = 3,
        depths: Sequence[int] = (2, 2, 8, 2),
        hidden_sizes: Sequence[int] = (96, 192, 384, 768),
        expand: float = 1.0,
        state_size: int = 1,
        conv_kernel: int = 3,
        gated: bool = False,
        conv_bias: bool = False,
        mlp_ratio: float = 4.0,
        norm_epsilon: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        self.image_size = image_size if isinstance(image_size, int) else list(image_size)
        self.num_channels = num_channels
        self.depths = list(depths)
        self.hidden_sizes = list(hidden_sizes)
        self.expand = expand
        self.state_size = state_size
        self.conv_kernel = conv_kernel
        self.gated = gated
        self.conv_bias = conv_bias
        self.mlp_ratio = mlp_ratio
        self.norm_epsilon = norm_epsilon
        super().__init__(**kwargs)


class VMambaBlock(nn.Module):
    """One layer: mixer and MLP each read the normalised stream, and are added to the stream."""

    def __init__(self, config: VMambaConfig, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=config.norm_epsilon)
        self.op = SS2D(
            width,
            intermediate_size=int(config.expand * width),
            state_size=config.state_size,
            conv_kernel=config.conv_kernel,
            gated=config.gated,
            conv_bias=config.conv_bias,
            norm_epsilon=config.norm_epsilon,
        )
        self.norm2 = nn.LayerNorm(width, eps=config.norm_epsilon)
        self.mlp = Mlp(width, int(config.mlp_ratio * width))

    def forward(self, hidden_states: Float[Tensor, "b H W E"]) -> Float[Tensor, "b H W E"]:
        """Return the stream after the layer."""
        stream = hidden_states + self.op(self.norm(hidden_states))
        return stream + self.mlp(self.norm2(stream))


class VMambaHead(nn.Module):
    """The final norm, and the classes read from the mean over patches."""

    def __init__(self, config: VMambaConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_sizes[-1], eps=config.norm_epsilon)
        self.head = nn.Linear(config.hidden_sizes[-1], config.num_labels)

    def forward(self, x: Float[Tensor, "b H W E"]) -> Float[Tensor, "b classes"]:
        """Return logits."""
        return self.head(self.norm(x).mean(dim=(1, 2)))


class VMamba(StagedModel):
    """A VMamba with its classification head."""

    config_class = VMambaConfig
    _no_split_modules = ("VMambaBlock",)
    centred_end = True

    def __init__(self, config: VMambaConfig) -> None:
        super().__init__(config)
        widths, epsilon = config.hidden_sizes, config.norm_epsilon
        first = widths[0]
        self.patch_embed = nn.Sequential(
            nn.Conv2d(config.num_channels, first // 2, 3, stride=2, padding=1),
            ChannelsLast(),
            nn.LayerNorm(first // 2, eps=epsilon),
            ChannelsFirst(),
            nn.GELU(),
            nn.Conv2d(first // 2, first, 3, stride=2, padding=1),
            ChannelsLast(),
            nn.LayerNorm(first, eps=epsilon),
        )
        self.tokens = TokenSequence()
        self.layers = nn.ModuleList()
        for number, (depth, width) in enumerate(zip(config.depths, widths, strict=True)):
            blocks = nn.Sequential(*(VMambaBlock(config, width) for _ in range(depth)))
            following = widths[number + 1 : number + 2]
            self.layers.append(
                nn.Sequential(OrderedDict(blocks=blocks, downsample=_downsample(width, following, epsilon)))
            )
        self.classifier = VMambaHead(config)
        self.post_init()

    def cells(self) -> tuple[int, ...]:
        """Return the side of a token in pixels, stage by stage."""
        return tuple(self.embedded_cell * 2**stage for stage in range(len(self.config.depths)))

    def sequences(self, pictures: int, height: int, width: int) -> tuple[Sequences, ...]:
        """Return what each stage reads of some pictures of this size in pixels: a sequence of each."""
        sides = ((-(-height // cell), -(-width // cell)) for cell in self.cells())
        return tuple(
            Sequences(pictures, rows * columns, E)
            for (rows, columns), E in zip(sides, self.config.hidden_sizes, strict=True)
        )

    def patches(self, pixel_values: Float[Tensor, "b c h w"]) -> Float[Tensor, "b H W E"]:
        """Return the pictures' patches, as a grid."""
        return self.patch_embed(pixel_values)

    def classify(self, patches: Float[Tensor, "b H W E"]) -> PictureOutput:
        """Return the output of the stages and the head, given patches."""
        stream = patches
        for stage in self.layers:
            stream = stage(stream)
        return PictureOutput(logits=self.classifier(stream), last_hidden_state=stream)


def _downsample(width: int, following: Sequence[int], epsilon: float) -> nn.Module:
    """Return the module that halves the resolution between two stages; the identity after the last."""
    if not following:
        return nn.Identity()
    convolution = nn.Conv2d(width, following[0], 3, stride=2, padding=1)
    return nn.Sequential(ChannelsFirst(), convolution, ChannelsLast(), nn.LayerNorm(following[0], eps=epsilon))
