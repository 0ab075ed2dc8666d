"""Vision Mamba (Zhu et al., arXiv 2401.09417): patches, bidirectional layers, a head on the class token or the mean.

Tensors have the released names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from mambascope.errors import InputError
from mambascope.models.vim.configuration import VisionMambaConfig
from mambascope.models.vim.embedding import PatchEmbedding, TokenSequence, interpolated
from mambascope.models.vim.grid import class_position, inserted
from mambascope.models.vim.mixer import VimMixer

#: Initial range of Δ, and its smallest value (Gu & Dao, arXiv 2312.00752, section 3.6).
FIRST_STEPS = (1e-3, 1e-1)
SMALLEST_STEP = 1e-4


@dataclass
class VisionMambaOutput(ModelOutput):
    """What a Vision Mamba returns.

    Attributes:
        logits: Logits of the classes.
        last_hidden_state: Features of every token, after the final norm.
    """

    logits: Float[Tensor, "b classes"] | None = None
    last_hidden_state: Float[Tensor, "b L E"] | None = None


class VimRMSNorm(nn.Module):
    """Root mean square norm, computed in at least float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, hidden_states: Float[Tensor, "*b E"]) -> Float[Tensor, "*b E"]:
        """Return the normalised vectors times the weight."""
        x = hidden_states.to(torch.promote_types(hidden_states.dtype, torch.float32))
        scaled = x * torch.rsqrt(x.pow(2).mean(dim=-1, keepdim=True) + self.eps)
        return (self.weight * scaled).to(hidden_states.dtype)


class VimBlock(nn.Module):
    """One layer: the mixer reads the normalised stream, and its output is added to the stream."""

    def __init__(self, config: VisionMambaConfig) -> None:
        super().__init__()
        self.norm = VimRMSNorm(config.hidden_size, config.norm_epsilon)
        self.mixer = VimMixer(config)

    def forward(self, hidden_states: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return the stream after the layer."""
        return hidden_states + self.mixer(self.norm(hidden_states))


class VisionMamba(PreTrainedModel):
    """A Vision Mamba with its classification head."""

    config_class = VisionMambaConfig
    main_input_name = "pixel_values"
    base_model_prefix = ""
    _no_split_modules = ("VimBlock",)

    def __init__(self, config: VisionMambaConfig) -> None:
        super().__init__(config)
        grid = config.grid()
        self.patch_embed = PatchEmbedding(config)
        self.cls_token = None if grid.class_position is None else nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.pos_embed = nn.Parameter(torch.zeros(1, grid.tokens, config.hidden_size))
        self.tokens = TokenSequence()
        self.layers = nn.ModuleList([VimBlock(config) for _ in range(config.num_hidden_layers)])
        self.norm_f = VimRMSNorm(config.hidden_size, config.norm_epsilon)
        self.head = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the module whose output is the tokens that the first layer reads."""
        return self.tokens

    def get_output_embeddings(self) -> None:
        """Return None: the head's outputs are classes, not tokens."""

    def embed(self, pixel_values: Float[Tensor, "b c H W"]) -> Float[Tensor, "b L E"]:
        """Return the tokens of pictures: patches and class token, with position embeddings added.

        Raises:
            InputError: if the pictures have the wrong number of channels, or are smaller than one patch.
        """
        config = self.config
        if pixel_values.ndim != 4 or pixel_values.shape[1] != config.num_channels:
            raise InputError(
                f"pixel_values must have shape (batch, {config.num_channels}, height, width), found "
                f"{tuple(pixel_values.shape)}"
            )
        grid = config.grid(*pixel_values.shape[2:])
        tokens = self.patch_embed(pixel_values)
        if self.cls_token is not None:
            tokens = inserted(grid, tokens, self.cls_token.expand(len(tokens), -1, -1))
        return self.tokens(tokens + interpolated(self.pos_embed, config.grid(), grid))

    def forward(
        self,
        pixel_values: Float[Tensor, "b c H W"] | None = None,
        inputs_embeds: Float[Tensor, "b L E"] | None = None,
    ) -> VisionMambaOutput:
        """Return logits and features.

        Args:
            pixel_values: Pictures.
            inputs_embeds: Their tokens as `embed` returns them, instead of pictures.

        Raises:
            InputError: if neither or both are given, or as `embed` does.
        """
        if (pixel_values is None) == (inputs_embeds is None):
            raise InputError("pass exactly one of pixel_values and inputs_embeds")
        stream = self.embed(pixel_values) if pixel_values is not None else inputs_embeds
        assert stream is not None
        for layer in self.layers:
            stream = layer(stream)
        features = self.norm_f(stream)
        place = None
        if self.cls_token is not None:
            place = class_position(features.shape[1] - 1, self.config.class_token)
        pooled = features.mean(dim=1) if place is None else features[:, place]
        return VisionMambaOutput(logits=self.head(pooled), last_hidden_state=features)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise a module's weights as the released training code does."""
        spread = self.config.initializer_range
        if isinstance(module, VimMixer):
            _begin_mixer(module, self.config)
        elif isinstance(module, VimRMSNorm):
            init.ones_(module.weight)
        elif isinstance(module, PatchEmbedding):
            fan_in = module.proj.weight[0].numel()
            init.trunc_normal_(module.proj.weight, std=fan_in**-0.5)
            init.zeros_(module.proj.bias)
        elif isinstance(module, VisionMamba):
            init.trunc_normal_(module.pos_embed, std=spread)
            if module.cls_token is not None:
                init.trunc_normal_(module.cls_token, std=spread)
            init.trunc_normal_(module.head.weight, std=spread)
            init.zeros_(module.head.bias)


def _begin_mixer(mixer: VimMixer, config: VisionMambaConfig) -> None:
    """Initialise a mixer's weights by Mamba's scheme, for both directions."""
    kaiming = math.sqrt(5)
    init.kaiming_uniform_(mixer.in_proj.weight, a=kaiming)
    init.kaiming_uniform_(mixer.out_proj.weight, a=kaiming)
    init.copy_(mixer.out_proj.weight, mixer.out_proj.weight / math.sqrt(config.num_hidden_layers))
    for bias in (mixer.in_proj.bias, mixer.out_proj.bias):
        if bias is not None:
            init.zeros_(bias)
    rates = torch.arange(1, config.state_size + 1, dtype=torch.float32).log()
    for suffix, A_log in (("", mixer.A_log), ("_b", mixer.A_b_log)):
        conv: Any = mixer.get_submodule(f"conv1d{suffix}")
        dt_proj: Any = mixer.get_submodule(f"dt_proj{suffix}")
        init.kaiming_uniform_(conv.weight, a=kaiming)
        init.uniform_(conv.bias, -(config.conv_kernel**-0.5), config.conv_kernel**-0.5)
        init.kaiming_uniform_(mixer.get_submodule(f"x_proj{suffix}").weight, a=kaiming)
        init.uniform_(dt_proj.weight, -(config.time_step_rank**-0.5), config.time_step_rank**-0.5)
        low, high = (math.log(step) for step in FIRST_STEPS)
        steps = torch.exp(torch.empty_like(dt_proj.bias).uniform_(low, high)).clamp(min=SMALLEST_STEP)
        init.copy_(dt_proj.bias, steps + torch.log(-torch.expm1(-steps)))  # inverse softplus
        init.copy_(A_log, rates.to(A_log).expand_as(A_log))
        init.ones_(mixer.get_parameter(f"D{suffix}"))
