"""From a model and a text or a picture to a result."""

from mambascope.explanation.asking import Question
from mambascope.explanation.defaults import DEFAULT_METHOD, default_method
from mambascope.explanation.explaining import explain, explain_inputs, explain_methods
from mambascope.explanation.pictures import explain_picture, explain_picture_methods

__all__ = [
    "DEFAULT_METHOD",
    "Question",
    "default_method",
    "explain",
    "explain_inputs",
    "explain_methods",
    "explain_picture",
    "explain_picture_methods",
]
