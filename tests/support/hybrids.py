"""Small stock hybrids with weights from N(0, 0.4), by model type: two or more layers, every kind of mixer in them."""

import torch
import transformers

SIZES = {"vocab_size": 50, "hidden_size": 12, "intermediate_size": 16, "pad_token_id": 0}
#: Class and configuration of small stock hybrids by model type; the options of a call replace those here.
HYBRIDS: dict = {}


def hybrid_model(family: str, dtype: torch.dtype = torch.float32, seed: int = 0, **options):
    """Return a stock hybrid with every weight drawn from N(0, 0.4), norms around 1, experts in their eager form."""
    name, config = HYBRIDS[family]
    torch.manual_seed(seed)
    model = getattr(transformers, name)(config(**options)).eval()
    with torch.no_grad():
        for parameter, value in model.named_parameters():
            value.normal_(1 if "norm" in parameter and parameter.endswith("weight") else 0, 0.4)
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # the grouped product has no float64 form
    return model.to(dtype)
