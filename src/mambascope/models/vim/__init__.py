"""Vision Mamba, or Vim (Zhu et al., arXiv 2401.09417): our own implementation, since transformers has none."""

from mambascope.models.vim.configuration import VisionMambaConfig
from mambascope.models.vim.model import VisionMamba, VisionMambaOutput

__all__ = ["VisionMamba", "VisionMambaConfig", "VisionMambaOutput"]
