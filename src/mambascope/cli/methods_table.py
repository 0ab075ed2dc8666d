"""Write `methods.json`, what `mambascope methods` prints, from the registry: `python -m mambascope.cli.methods_table`.

The registry imports torch, which takes seconds; the command reads this file instead. A test compares the two.
"""

from __future__ import annotations

import json
from typing import Any

from mambascope.cli.listing_methods import TABLE
from mambascope.explanation.defaults import DEFAULT_METHOD, answering
from mambascope.files import write_whole
from mambascope.methods.method import Method
from mambascope.methods.registry import METHODS

NEEDS = {
    "forward": "one forward pass",
    "backward": "forward and backward",
    "interventions": "a forward pass per token",
}
READS = {"scan": "Mamba", "attention": "Transformers"}


def table() -> dict[str, Any]:
    """Return the default methods and every method's line, by the columns of the documentation's table."""
    defaults = {"prediction": answering()[0].name, "layers": DEFAULT_METHOD}
    return {"defaults": defaults, "methods": [_line(method) for method in METHODS.values()]}


def written() -> str:
    """Return the table as its file holds it."""
    return json.dumps(table(), ensure_ascii=False, indent=1) + "\n"


def _line(method: Method) -> dict[str, str]:
    return {
        "method": method.name,
        "shows": method.title,
        "of": "each layer" if method.scope == "layer" else "the model",
        "reads": _reads(method),
        "needs": NEEDS[method.needs],
        "time": method.cost,
        "signed": "yes" if method.signed else "no",
        "reference code": "yes" if method.reference_code else "no",
        "paper": method.paper,
    }


def _reads(method: Method) -> str:
    """Return the models that a method can read, in words."""
    if method.kinds is None:
        return " but ".join(["all models", *(READS.get(kind, kind) for kind in sorted(method.never_alone))])
    return " and ".join(READS.get(kind, kind) for kind in sorted(method.kinds, reverse=True))


if __name__ == "__main__":
    write_whole(TABLE, written())
