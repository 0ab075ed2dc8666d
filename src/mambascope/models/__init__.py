"""Model code of our own: Vim, VMamba, MambaVision, which transformers does not have, and reference layers."""
