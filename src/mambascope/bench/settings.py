"""What is measured: models of the published sizes with random weights, made by transformers' own classes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import torch
import transformers
from jaxtyping import Int
from torch import Tensor

from mambascope.brief import brief
from mambascope.memory import require_bytes
from mambascope.trace import Trace
from mambascope.trace.capture import capture

#: Layers and width of every size; those of Mamba's released checkpoints, but for `tiny`.
SIZES = {"tiny": (4, 256), "130m": (24, 768), "370m": (48, 1024), "1.4b": (48, 2048)}
#: Tokens in the vocabulary, as in the released checkpoints; a tiny model would be little else.
VOCABULARY = {"tiny": 1024}
RELEASED = 50280
FAMILIES = ("mamba", "mamba2")
SEED = 0


@dataclass(frozen=True)
class Shape:
    """The shape of a random model.

    Attributes:
        family: `mamba` or `mamba2`.
        layers: How many layers it has.
        width: E, the width of its stream.
        vocabulary: How many tokens it knows.
    """

    family: str
    layers: int
    width: int
    vocabulary: int

    @property
    def parameters(self) -> int:
        """About how many weights it has: 6 E² a layer for the projections and a little more, and the embedding."""
        return self.layers * 13 * self.width**2 // 2 + self.vocabulary * self.width

    def config(self) -> transformers.PreTrainedConfig:
        """Return its configuration: inner width 2 E; N = 16 for Mamba, N = 128 and heads of 64 for Mamba-2."""
        ids = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
        size = {"hidden_size": self.width, "num_hidden_layers": self.layers, "vocab_size": self.vocabulary} | ids
        if self.family == "mamba":
            return transformers.MambaConfig(**size, state_size=16)
        heads = {"num_heads": 2 * self.width // 64, "head_dim": 64, "n_groups": 1, "state_size": 128}
        return transformers.Mamba2Config(**size, **heads)


def shape_of(family: str, size: str, *, layers: int | None = None) -> Shape:
    """Return the shape of a size, with fewer layers if asked."""
    of_size, width = SIZES[size]
    return Shape(family, of_size if layers is None else layers, width, VOCABULARY.get(size, RELEASED))


@lru_cache(maxsize=2)
def build(shape: Shape, device: str) -> Any:
    """Return a model of this shape with random weights, the same each time.

    Raises:
        MapTooLargeError: if its weights would not fit in memory.
    """
    place = torch.device(device)
    require_bytes(4 * shape.parameters, place, f"a random {shape.family} of this size", "choose a smaller --size")
    torch.manual_seed(SEED)
    return transformers.AutoModelForCausalLM.from_config(shape.config()).eval().requires_grad_(False).to(place)


@dataclass(frozen=True, eq=False)
class Setting:
    """A model and a text of random tokens.

    Attributes:
        model: The model.
        ids: The text.
    """

    model: Any
    ids: Int[Tensor, "1 L"]

    __repr__ = brief

    @property
    def length(self) -> int:
        """L, the number of tokens."""
        return self.ids.shape[1]

    @cached_property
    def trace(self) -> Trace:
        """A capture of the text, unchecked."""
        return capture(self.model, input_ids=self.ids, check=False)

    @cached_property
    def operator(self) -> Any:
        """The first layer's map."""
        return self.trace.operator(0)

    def cut(self, length: int) -> Setting:
        """Return the setting with the first tokens only."""
        return self if length == self.length else replace(self, ids=self.ids[:, :length])


def setting(shape: Shape, length: int, device: str) -> Setting:
    """Return a setting of this shape and so many tokens."""
    ids = torch.randint(0, shape.vocabulary, (1, length), generator=torch.Generator().manual_seed(SEED))
    return Setting(build(shape, device), ids.to(device))
