"""Settings of the documentation's site, which `make docs` builds."""

import os
import sys
from pathlib import Path

from sphinx.pycode import ModuleAnalyzer

import mambascope

sys.path.insert(0, str(Path(__file__).parent))

project = "mambascope"
author = "the authors of mambascope"
copyright = "the authors of mambascope, under the MIT licence"
release = mambascope.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "mathml"]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]

html_theme = "furo"
html_title = f"mambascope {release}"
html_show_sphinx = False
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"

# Pages are Markdown; those that begin with a kernel's name are notebooks, whose cells run in every build.
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True
nb_render_markdown_format = "myst"
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # tqdm asks for widgets, which static pages have no use for

# Docstrings write code in single backticks.
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
python_maximum_signature_line_length = 100

# `explain` is shown with its options, not with what it returns for each of their types.
explaining = ModuleAnalyzer.for_module("mambascope.explanation.explaining")
explaining.analyze()
explaining.overloads.clear()
