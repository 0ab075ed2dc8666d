"""What a page holds, read back from it."""

import base64
import dataclasses
import json
import zlib
from html.parser import HTMLParser

import numpy as np

from mambascope.show.pack import TOP


def unpacked(text, lengths):
    data = zlib.decompress(base64.b64decode(text))
    codes = np.frombuffer(data, np.int8, sum(lengths))
    count, start = len(lengths) * TOP, len(codes)
    behind = np.frombuffer(data, np.uint8, 2 * count, start).reshape(2, count).T.tobytes()
    exact = np.frombuffer(data, np.uint8, 4 * count, start + 2 * count).reshape(4, count).T.tobytes()
    assert len(data) == start + 6 * count
    behind = np.frombuffer(behind, "<u2").reshape(TOP, -1).T
    order = np.arange(len(lengths), dtype=np.uint16)[:, None] - behind  # modulo 65,536
    return np.split(codes, np.cumsum(lengths)[:-1]), order, np.frombuffer(exact, "<f4").reshape(TOP, -1).T


class Elements(HTMLParser):
    """Every start tag with its attributes, and the text of scripts and styles."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.raw, self.inside = [], [], False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.raw.append([tag, dict(attrs), ""])

        self.inside = tag in ("script", "style")

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.raw[-1][2] += data


def data_of(page):
    return json.loads(next(text for tag, attrs, text in Elements(page).raw if attrs.get("id") == "result"))


def one_row(attribution):
    """The same result for its focus alone, of the whole model."""
    place = attribution.target.position
    return dataclasses.replace(
        attribution,
        scores=attribution.scores[:1, place : place + 1],
        axes=attribution.axes | {"layer": ("all",), "target": (place,)},
        method="mamba-lrp",
        over_layers="sum",
    )
