"""Small models with stages."""

import torch

from mambascope.models.mambavision import MambaVision, MambaVisionConfig
from mambascope.models.vmamba import VMamba, VMambaConfig
from picture_mixer_models import drawn

VMAMBA = {"depths": (1, 2), "hidden_sizes": (8, 12), "mlp_ratio": 2.0, "num_labels": 4, "num_channels": 2}


MAMBAVISION = {
    "depths": (1, 1, 3, 2),
    "hidden_size": 4,
    "stem_size": 3,
    "num_heads": (1, 1, 2, 4),
    "windows": (8, 8, 3, 2),
    "state_size": 2,
    "mlp_ratio": 1.5,
    "num_labels": 4,
    "num_channels": 2,
}


def small(kind, dtype=torch.float64, **options):
    """Return a small model with weights from N(0, 0.4) and variances around 1."""
    if kind == "vmamba":
        made = VMamba(VMambaConfig(**VMAMBA | options))
    else:
        made = MambaVision(MambaVisionConfig(**MAMBAVISION | options))
    model = drawn(made, dtype)
    draw = torch.Generator().manual_seed(1)
    for name, buffer in model.named_buffers():
        values = torch.rand(buffer.shape, generator=draw, dtype=dtype)
        buffer.copy_(0.5 + values if name.endswith("var") else values - 0.5)
    return model.requires_grad_(False)
