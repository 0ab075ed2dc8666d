"""The one exception family. Each message says in one sentence what was wrong, what was found and what to do."""


class MambascopeError(Exception):
    """Anything that mambascope refuses or cannot do; the command line prints it as one sentence and exits with 2."""


class InputError(MambascopeError):
    """The caller's input cannot be used: empty text, a token id out of range, a layer that does not exist."""


class CheckpointError(MambascopeError):
    """A checkpoint is missing, incomplete, half-written, or holds values that are not numbers."""


class OutputError(MambascopeError):
    """A result could not be written; the file that stood there before is untouched."""


class UnsupportedModelError(MambascopeError):
    """The model has no token mixer that mambascope knows how to read."""


class ReconstructionError(MambascopeError):
    """A mixer's output, rebuilt from its captured tensors, is not what the model computed."""


class MapTooLargeError(MambascopeError):
    """The map that was asked for would not fit in memory."""
