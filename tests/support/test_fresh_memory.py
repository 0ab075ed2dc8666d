"""Memory that nobody wrote to holds NaN in these tests, so that no model runs with parameters left as found."""

import torch
import transformers

from models import CONFIGS


def test_fresh_memory_is_not_a_number():
    assert torch.empty(3).isnan().all()
    assert torch.empty_like(torch.ones(2, 3, dtype=torch.float64)).isnan().all()


def test_a_part_of_a_stock_model_built_alone_is_seen_to_lack_parameters():
    """Only a whole model of transformers draws A and D: a block that a test builds itself must be given them."""
    block = transformers.models.mamba.modeling_mamba.MambaBlock(CONFIGS["mamba"](), 0)
    assert {name for name, value in block.named_parameters() if value.isnan().any()} == {"mixer.A_log", "mixer.D"}
