"""Model code of our own: Vim, VMamba, MambaVision, which transformers lacks; reference layers; constructed models."""
