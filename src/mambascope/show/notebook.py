"""The page in a frame, for notebooks."""

from __future__ import annotations

import html

from mambascope.methods.attribution import Attribution
from mambascope.show.page import html_page

HEIGHT = 760


def notebook_frame(attribution: Attribution) -> str:
    """Return an `<iframe>` that holds the result's page whole, for a notebook's rich output.

    The frame is sandboxed: the page's script runs, but sees nothing of the notebook around it.
    """
    page = html.escape(html_page(attribution), quote=True)
    return (
        f'<iframe title="mambascope: what the model looked at" sandbox="allow-scripts allow-downloads" width="100%" '
        f'height="{HEIGHT}" style="border: 0" srcdoc="{page}"></iframe>'
    )
