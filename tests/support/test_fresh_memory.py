"""Memory that nobody wrote to holds NaN in these tests, so that no model runs with parameters left as found."""

import pytest
import torch
import transformers

from mambascope.models.mambavision import MambaVision, MambaVisionConfig
from mambascope.models.vim import VisionMamba, VisionMambaConfig
from mambascope.models.vmamba import VMamba, VMambaConfig
from models import CONFIGS, TRANSFORMERS
from small_staged_models import MAMBAVISION, VMAMBA
from vision_models import SIZES


def test_fresh_memory_is_not_a_number():
    assert torch.empty(3).isnan().all()
    assert torch.empty_like(torch.ones(2, 3, dtype=torch.float64)).isnan().all()


def test_a_part_of_a_stock_model_built_alone_is_seen_to_lack_parameters():
    """Only a whole model of transformers draws A and D: a block that a test builds itself must be given them."""
    block = transformers.models.mamba.modeling_mamba.MambaBlock(CONFIGS["mamba"](), 0)
    assert {name for name, value in block.named_parameters() if value.isnan().any()} == {"mixer.A_log", "mixer.D"}


WHOLE = {name: lambda name=name: transformers.AutoModelForCausalLM.from_config(CONFIGS[name]()) for name in CONFIGS}
WHOLE |= {
    name: lambda name=name: getattr(transformers, TRANSFORMERS[name][0])(TRANSFORMERS[name][1]())
    for name in TRANSFORMERS
}
WHOLE |= {
    "vision-mamba": lambda: VisionMamba(VisionMambaConfig(**SIZES)),
    "vmamba": lambda: VMamba(VMambaConfig(**VMAMBA)),
    "mambavision": lambda: MambaVision(MambaVisionConfig(**MAMBAVISION)),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_model_draws_all_of_its_parameters(name):
    model = WHOLE[name]()
    values = [*model.named_parameters(), *model.named_buffers()]
    assert [key for key, value in values if value.is_floating_point() and value.isnan().any()] == []
