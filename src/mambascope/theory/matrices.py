"""How many matrices a model mixes its tokens with: per layer, against a Transformer of the same width.

A Transformer has one attention matrix per head. A Mamba layer has one hidden attention per channel, so about a hundred
times as many (Ali, Zimerman & Wolf, arXiv 2403.01590): with D = 2 E channels against heads of P channels each,

    2 E / (E / P) = 2 P ,     128 for heads of 64, 256 for heads of 128.

In Mamba-2 a head of 64 channels shares one matrix, which leaves 2 E / 64 / (E / P) = P / 32, two or four times as many.

`count_matrices` takes a trace, whose operators say how many maps they have (`TokenMixer.maps`); a model, whose modules
are read; or a configuration, of which the modules are built without their weights. Directions or orders whose matrices
are added up, as in Vision Mamba, count as one matrix. Channels of MambaVision without a scan are maps of zeros to its
operator; its modules do not count them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoModel
from transformers.configuration_utils import PreTrainedConfig

from mambascope.errors import InputError, UnsupportedModelError
from mambascope.families import Kind, MixerFamily, find_mixers
from mambascope.models.mambavision.model import MambaVision
from mambascope.models.vim.configuration import VisionMambaConfig
from mambascope.models.vim.model import VisionMamba
from mambascope.models.vmamba.model import VMamba
from mambascope.numbering import shown
from mambascope.trace import Trace

#: RWKV's token-wise parts mix each token with the one before it by a fixed factor, which is no attention.
SHIFT = "shift"

#: Models of the package's own, which transformers does not build.
OWN = (VisionMamba, VMamba, MambaVision)


@dataclass(frozen=True)
class MixerMatrices:
    """Mixers of one kind that have as many matrices each.

    Attributes:
        kind: Their kind.
        mixers: How many there are.
        matrices: How many matrices each has.
    """

    kind: Kind
    mixers: int
    matrices: int


@dataclass(frozen=True)
class Comparison:
    """A model's matrices, and those of a Transformer of the same width.

    Attributes:
        name: What the model is called.
        sizes: Its sizes, where they are not the defaults of its configuration's class.
        width: E, the width of its residual stream.
        mixers: Its mixers.
        beside: The Transformer, and its matrices per layer; None for a Transformer itself.
    """

    name: str
    sizes: str
    width: int
    mixers: tuple[MixerMatrices, ...]
    beside: tuple[str, int] | None

    @property
    def times(self) -> tuple[float, ...]:
        """How many times as many matrices as the Transformer's a mixer of each kind has; empty for a Transformer."""
        return () if self.beside is None else tuple(each.matrices / self.beside[1] for each in self.mixers)


def count_matrices(source: Any) -> tuple[MixerMatrices, ...]:
    """Return how many matrices the mixers of a model have, in the order in which their kinds first come.

    Args:
        source: A trace, a model, or the configuration of one.

    Raises:
        InputError: if it is none of these.
        UnsupportedModelError: if a mixer cannot be read, or does not say how many heads or channels it has.
    """
    if isinstance(source, PreTrainedConfig):
        return count_matrices(_without_weights(source))
    if isinstance(source, Trace):
        mixing = [branch for branch in source.branches if branch.kind != SHIFT]
        found = [(branch.kind, branch.operator().scan.maps) for branch in mixing]
    elif isinstance(source, nn.Module):
        mixers = [each for each in find_mixers(source) if each[2].kind != SHIFT]
        found = [(family.kind, _maps(name, mixer, family)) for name, mixer, family in mixers]
    else:
        raise InputError(f"source must be a trace, a model or a configuration, found {shown(source)}")
    return tuple(MixerMatrices(kind, times, maps) for (kind, maps), times in Counter(found).items())


def comparisons() -> Iterator[Comparison]:
    """Yield well-known models with their matrices: Transformers, then each model beside one of the same width."""
    heads: dict[str, tuple[int, int]] = {}
    for known in KNOWN:
        config = known.config(**known.sizes)
        mixers, width = count_matrices(config), config.hidden_size
        if known.beside:
            other_width, matrices = heads[known.beside]
            assert other_width == width, f"{known.name} and {known.beside} differ in width"
        else:
            heads[known.name] = width, mixers[0].matrices
        beside = (known.beside, heads[known.beside][1]) if known.beside else None
        sizes = ", ".join(f"{name} {_short(size)}" for name, size in known.sizes.items())
        yield Comparison(known.name, sizes, width, mixers, beside)


def _without_weights(config: PreTrainedConfig) -> nn.Module:
    """Return the modules of a configuration, on the device that holds no numbers."""
    own = next((model for model in OWN if isinstance(config, model.config_class)), None)
    with torch.device("meta"):
        return AutoModel.from_config(config) if own is None else own(config)


def _maps(name: str, mixer: Any, family: MixerFamily) -> int:
    """Return how many matrices a mixer has, as its operator would say.

    Scans and delta rules have one per rate, without the states of a channel; other recurrences one per head or channel,
    and attention one per head, as they say themselves.
    """
    if isinstance(rates := getattr(mixer, "A_log", None), nn.Parameter):
        return torch.Size(rates.shape[:-1] or rates.shape).numel()
    if isinstance(rates := getattr(mixer, "A_logs", None), nn.Parameter):  # of all orders, one after the other
        return len(rates) // len(getattr(family, "readings", ("one",)))
    if isinstance(decay := getattr(mixer, "time_decay", None), nn.Parameter):
        return len(decay)
    if isinstance(convolution := getattr(mixer, "conv", None), nn.Conv1d):
        return convolution.out_channels
    parts = (mixer, *mixer.children())
    places = (*parts, *(part.config for part in parts if hasattr(part, "config")))
    for place in places:
        for number in ("lru_width", "num_heads", "num_attention_heads"):
            if isinstance(own := getattr(place, number, None), int):
                return own
    raise UnsupportedModelError(
        f"{name} is a {type(mixer).__name__}, which does not say how many heads or channels it has; run the model and "
        "pass the trace: count_matrices(mambascope.capture(model, …))"
    )


@dataclass(frozen=True)
class _Known:
    """A model that is compared: its configuration, the sizes in which it differs from the class's defaults."""

    name: str
    config: Callable[..., Any]
    beside: str = ""
    sizes: dict[str, Any] = field(default_factory=dict)


def _sizes(width: int, layers: int, heads: int | None = None, **others: Any) -> dict[str, Any]:
    attention = {} if heads is None else {"num_attention_heads": heads}
    return {"hidden_size": width, "num_hidden_layers": layers} | attention | others


def _short(size: Any) -> str:
    """Return a size as text; of a list of layers, how many there are of each kind."""
    if not isinstance(size, list) or not all(isinstance(one, str) for one in size):
        return str(size)
    return " + ".join(f"{times} {kind}" for kind, times in Counter(size).items())


_NEMOTRON = ["linear_attention", "mlp"] * 24 + ["full_attention"] * 4

KNOWN = (
    _Known("GPT-2", transformers.GPT2Config),
    _Known("Pythia 2.8B", transformers.GPTNeoXConfig, sizes=_sizes(2560, 32, 32)),
    _Known("Llama 7B", transformers.LlamaConfig),
    _Known("Llama 3.2 1B", transformers.LlamaConfig, sizes=_sizes(2048, 16, 32)),
    _Known("DeiT-Tiny", transformers.ViTConfig, sizes=_sizes(192, 12, 3)),
    _Known("Mamba 130M", transformers.MambaConfig, "GPT-2", _sizes(768, 24)),
    _Known("Mamba 2.8B", transformers.MambaConfig, "Pythia 2.8B", _sizes(2560, 64)),
    _Known("Falcon-Mamba 7B", transformers.FalconMambaConfig, "Llama 7B", _sizes(4096, 64)),
    _Known("Vim-Tiny", VisionMambaConfig, "DeiT-Tiny"),
    _Known("Jamba", transformers.JambaConfig, "Llama 7B"),
    _Known("Mamba-2 130M", transformers.Mamba2Config, "GPT-2", _sizes(768, 24, num_heads=24)),
    _Known("Mamba-2 2.7B", transformers.Mamba2Config, "Pythia 2.8B", _sizes(2560, 64, num_heads=80)),
    _Known("Codestral Mamba 7B", transformers.Mamba2Config, "Llama 7B"),
    _Known("Bamba 9B", transformers.BambaConfig, "Llama 7B", {"attn_layer_indices": [9, 18, 27]}),
    _Known("Nemotron-H 8B", transformers.NemotronHConfig, "Llama 7B", {"layers_block_type": _NEMOTRON}),
    _Known("Qwen3-Next 80B", transformers.Qwen3NextConfig, "Llama 3.2 1B"),
    _Known("MiniMax", transformers.MiniMaxConfig, "Llama 7B"),
    _Known("xLSTM 7B", transformers.xLSTMConfig, "Llama 7B"),
    _Known("RecurrentGemma 2B", transformers.RecurrentGemmaConfig, "Pythia 2.8B"),
    _Known("RWKV-4 7B", transformers.RwkvConfig, "Llama 7B"),
)
