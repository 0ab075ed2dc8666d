"""Drawing results: one screen of text, figures for papers, a self-contained page, a notebook frame."""

from mambascope.show.figure import figure, save_figure
from mambascope.show.text import print_attribution

__all__ = ["figure", "print_attribution", "save_figure"]
