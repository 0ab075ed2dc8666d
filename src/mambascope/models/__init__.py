"""Models of our own, which transformers does not have: Vim, VMamba, MambaVision."""
