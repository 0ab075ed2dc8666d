"""Small Vision Mambas with weights from N(0, 0.4): the usual initialisation lets the skip hide everything else."""

import torch

from mambascope.models.vim import VisionMamba, VisionMambaConfig

CLASS_TOKENS = ("middle", "first", "last", "none")
SIZES = {
    "image_size": (12, 16),
    "patch_size": 4,
    "num_channels": 2,
    "hidden_size": 6,
    "num_hidden_layers": 2,
    "state_size": 3,
    "num_labels": 5,
    "use_bias": True,
}


def vision_mamba(dtype=torch.float32, seed=0, **options):
    """Return a model with every weight drawn from N(0, 0.4), norms around 1."""
    torch.manual_seed(seed)
    model = VisionMamba(VisionMambaConfig(**SIZES | options)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1 if "norm" in name else 0, 0.4)
    return model.to(dtype)


def pictures(model, batch=1, size=None, seed=0):
    """Return random pictures in the model's precision, of the position embedding's size or another."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size or model.config.image_size
    return torch.randn(batch, model.config.num_channels, height, width, dtype=model.dtype, generator=generator)
