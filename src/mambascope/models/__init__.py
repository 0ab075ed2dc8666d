"""Our own implementations of models that transformers does not have: Vim, VMamba, MambaVision."""
