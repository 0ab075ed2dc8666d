"""MambaVision (Hatamizadeh & Kautz, arXiv 2407.08083): our own implementation, since transformers has none."""

from mambascope.models.mambavision.mixer import MambaVisionMixer
from mambascope.models.mambavision.model import MambaVision, MambaVisionConfig

__all__ = ["MambaVision", "MambaVisionConfig", "MambaVisionMixer"]
