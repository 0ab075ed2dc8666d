"""VMamba (Liu et al., arXiv 2401.10166): our own implementation, since transformers has none."""

from mambascope.models.vmamba.mixer import SS2D
from mambascope.models.vmamba.model import VMamba, VMambaConfig

__all__ = ["SS2D", "VMamba", "VMambaConfig"]
