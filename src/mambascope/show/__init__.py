"""Drawing results: one screen of text, figures for papers, a self-contained page, a notebook frame."""

from mambascope.show.figure import figure, save_figure, save_picture_figure
from mambascope.show.notebook import notebook_frame
from mambascope.show.page import html_page
from mambascope.show.picture_figure import picture_figure
from mambascope.show.saving import FORMATS, check_file, save
from mambascope.show.terminal import print_attribution

__all__ = [
    "FORMATS",
    "check_file",
    "figure",
    "html_page",
    "notebook_frame",
    "picture_figure",
    "print_attribution",
    "save",
    "save_figure",
    "save_picture_figure",
]
