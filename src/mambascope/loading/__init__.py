"""From a name, a folder or a hub id to a model: checkpoints, and the layouts that others release their weights in."""
