"""What was explained: a position with the number asked about there, and the model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import InstanceOf

#: Any text, even one that UTF-8 cannot write: a token may be half a character, and a command may hold any bytes.
Text = Annotated[str, InstanceOf()]

#: The layer axis of a method that explains the whole model at once.
WHOLE_MODEL = "all"


@dataclass(frozen=True)
class Target:
    """The position that was explained, what the model predicts there, and the number that was asked about.

    Attributes:
        position: Index of the target token, counted from 0.
        token: The token at that position.
        next_tokens: The likeliest next tokens (for a classifier, classes) with their probabilities, best first; empty
            for a model without a head.
        asked: What was asked about, such as "logit of ' ol'"; empty for methods that explain only a position.
        value: The value of what was asked about.
        pooled: How many positions' rows were averaged, if what is explained is read from several.
        independent: Whether `next_tokens` are classes of which several may apply at once, each with its own
            probability.
        generated: The position of the token that the model generated after this one, if that token is explained.
    """

    position: int
    token: Text
    next_tokens: tuple[tuple[Text, float], ...] = ()
    asked: Text = ""
    value: float | None = None
    pooled: int = 1
    independent: bool = False
    generated: int | None = None

    def without_number(self) -> Target:
        """Return the target without what was asked about it, for a method that explains only a position."""
        return replace(self, asked="", value=None)


@dataclass(frozen=True)
class Model:
    """The model that was explained.

    Attributes:
        name: The name it was loaded by.
        family: Its family.
        class_name: Its class.
        layers: How many layers it has.
        hidden_size: Their width.
        kinds: The kind of mixer in each layer, such as `scan`, `attention`, or `scan + attention` where two stand side
            by side; empty in results of earlier versions.
    """

    name: Text
    family: Text
    class_name: Text
    layers: int
    hidden_size: int
    kinds: tuple[Text, ...] = ()
