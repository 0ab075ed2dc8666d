"""From a model and a text, a picture or its own inputs to a result."""

from mambascope.explanation.explaining import explain

__all__ = ["explain"]
