"""All exceptions of mambascope. A message says in one sentence what was wrong, what was found and what to do."""

import re

#: Characters of messages that are not printable and stay: ends of lines, tabs, and spaces at which no line may end.
KEPT = "\n\t\u00a0\u202f"


class MambascopeError(Exception):
    """Anything that mambascope refuses or cannot do; the command line prints it as one sentence and exits with 2.

    A message may name what a file or a caller gave. What a terminal would obey, as control characters and marks that
    turn the direction of writing, is shown as �, however many stand side by side.
    """

    def __str__(self) -> str:
        seen = (one if one.isprintable() or one in KEPT else "�" for one in super().__str__())
        return re.sub("�+", "�", "".join(seen))


class InputError(MambascopeError):
    """The caller's input cannot be used: empty text, a token id out of range, a layer that does not exist."""


class CheckpointError(MambascopeError):
    """A checkpoint is missing, incomplete, damaged, or holds values that are NaN or infinite."""


class OutputError(MambascopeError):
    """A result could not be written; an existing file is untouched."""


class UnsupportedModelError(MambascopeError):
    """Mambascope cannot read the model, or a method cannot explain a model of this kind."""


class ReconstructionError(MambascopeError):
    """A mixer's output, rebuilt from its captured tensors, is not what the model computed."""


class MapTooLargeError(MambascopeError):
    """The map that was asked for would not fit in memory."""
