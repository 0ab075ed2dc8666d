"""From a name, a folder or a hub id to a model: checkpoints in our own layout and in those of other projects."""
