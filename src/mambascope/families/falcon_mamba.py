"""FalconMamba (Zuo et al., arXiv 2410.05355): Mamba with norms on Δ, B and C, which are captured after the norms."""

from __future__ import annotations

from mambascope.families import mamba
from mambascope.families.family import Family

FAMILY = Family(
    model_type="falcon_mamba",
    mixer_class="FalconMambaMixer",
    module="transformers.models.falcon_mamba.modeling_falcon_mamba",
    scan_function="mamba_selective_scan",
    token_axis=2,
    read=mamba.read,
    scan=mamba.selective_scan,
    affine=mamba.affine,
)
