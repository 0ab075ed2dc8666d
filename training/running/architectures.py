"""The two bundled models' architectures, by name."""

from __future__ import annotations

from transformers import Mamba2Config, MambaConfig, PretrainedConfig, PreTrainedModel
from transformers.models.mamba import MambaForCausalLM
from transformers.models.mamba2 import Mamba2ForCausalLM

NAMES = ("tiny-mamba", "tiny-mamba2")


def configuration(name: str, vocabulary: int, **sizes: int) -> PretrainedConfig:
    """Return the configuration of a bundled model; `sizes` replaces some of its sizes (for tests)."""
    shared = {
        "vocab_size": vocabulary,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
    }
    if name == "tiny-mamba":
        size = {"hidden_size": 224, "state_size": 16, "num_hidden_layers": 7, "expand": 2, "time_step_rank": 14}
        return MambaConfig(**shared | size | sizes)
    if name == "tiny-mamba2":
        size = {"hidden_size": 256, "state_size": 64, "num_hidden_layers": 5, "expand": 2, "head_dim": 64}
        size |= {"num_heads": 8, "n_groups": 1, "chunk_size": 64}
        return Mamba2Config(**shared | size | sizes)
    raise ValueError(f"The model is called {name!r}, which is none of {', '.join(NAMES)}.")


def build(config: PretrainedConfig) -> PreTrainedModel:
    """Return a freshly initialised model; seed torch before."""
    return (MambaForCausalLM if config.model_type == "mamba" else Mamba2ForCausalLM)(config)
