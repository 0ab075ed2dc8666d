"""`mambascope methods`: the table of methods, for the terminal and for the documentation.

It is read from a file that `make methods` writes from the registry: a list need not wait for the registry to import
torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

TABLE = Path(__file__).with_name("methods.json")

PAGE = """# Methods

Made by `make methods`; do not edit.

Every method scores source tokens. Those *per layer* explain a position and give one row per layer; those of the *model*
explain a number read from the output (a next token's logit unless you ask otherwise: `target`, `foil`, `continuation`)
or, where they ask for none, a position. *Time* is for one target as the text grows; softmax attention itself is
quadratic. *Reads* names the models: of selective scans alone (Mamba), of softmax attention alone (Transformers), or
all, hybrids among them. Some take `variant="reference-code"`, which does what the paper's code does where it differs
from its formulas. The default is `{answer}` (`alti-logit` for Transformers), which explains what is predicted, and
`{default}` for single layers, for all positions and for models without a head. Three pages say why, in this order:
[constructed.md](constructed.md), on models whose weights were written down, so that the truth is known;
[trained_seeds.md](trained_seeds.md), on small models trained from several seeds on tasks whose answers can come from
one token alone; [agreement.md](agreement.md), on interventions. [evaluation.md](evaluation.md) has single trained
models.

{rows}
"""


def print_methods(*, markdown: bool = False) -> None:
    """Print every method with what it shows, its paper, what it needs and costs."""
    if markdown:
        print(page(), end="")
        return
    known = read_table()
    lines = Text()
    for line in known["methods"]:
        sign = "signed" if line["signed"] == "yes" else "unsigned"
        lines.append(f"{line['method']}\n", style="bold")
        lines.append(f"  {line['shows']}\n")
        lines.append(f"  {line['of']} · {line['reads']} · {line['needs']} · {line['time']} · {sign}\n", style="dim")
        lines.append(f"  {line['paper']}\n", style="dim")
    defaults = known["defaults"]
    lines.append(
        f"The default is {defaults['prediction']}; for single layers and for all positions, {defaults['layers']}."
    )
    Console().print(lines, highlight=False)


def page() -> str:
    """Return the documentation's page on methods."""
    known = read_table()
    defaults, methods = known["defaults"], known["methods"]
    rows = [list(methods[0]), ["---"] * len(methods[0])]
    for line in methods:
        name, *rest = line.values()
        rows.append([f"**{name}**" if name in defaults.values() else name, *rest])
    written = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return PAGE.format(default=defaults["layers"], answer=defaults["prediction"], rows=written)


def read_table() -> dict[str, Any]:
    """Return the default methods and every method's line, as `methods_table.table` made them."""
    return dict(json.loads(TABLE.read_text(encoding="utf-8")))
