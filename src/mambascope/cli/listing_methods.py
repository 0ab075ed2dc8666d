"""`mambascope methods`: the table of methods, for the terminal and for the documentation."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from mambascope.explanation.defaults import DEFAULT_ANSWERS, DEFAULT_METHOD
from mambascope.methods.registry import METHODS, Method

NEEDS = {
    "forward": "one forward pass",
    "backward": "forward and backward",
    "interventions": "a forward pass per token",
}
READS = {"scan": "Mamba", "attention": "Transformer"}

PAGE = """# Methods

Made by `mambascope methods --markdown`; do not edit.

Every method scores source tokens. Those *per layer* explain a position and give one row per layer; those of the *model*
explain a number read from the output (a next token's logit unless you ask otherwise: `target`, `foil`, `continuation`)
or, where they ask for none, a position. *Time* is for one target as the text grows; softmax attention itself is
quadratic. *Released* methods take `compat="released"`, which does what the paper's code does where it differs from its
formulas. The default is `{answer}` (`alti-logit` for Transformers), which explains what is predicted, and `{default}`
for single layers, for all positions and for models without a head; [evaluation.md](evaluation.md) and
[agreement.md](agreement.md) say why.

| method | shows | of | reads | needs | time | signed | released | paper |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
{rows}
"""


def print_methods(*, markdown: bool = False) -> None:
    """Print every method with what it shows, its paper, what it needs and costs."""
    if markdown:
        print(page(), end="")
        return
    lines = Text()
    for method in METHODS.values():
        name, title, scope, reads, needs, time, signed, _, paper = facts(method)
        sign = "signed" if signed == "yes" else "unsigned"
        lines.append(f"{name}\n", style="bold")
        lines.append(f"  {title}\n")
        lines.append(f"  {scope} · {reads} · {needs} · {time} · {sign}\n  {paper}\n", style="dim")
    lines.append(f"The default is {DEFAULT_ANSWERS[0]}; for single layers and for all positions, {DEFAULT_METHOD}.")
    Console().print(lines, highlight=False)


def page() -> str:
    """Return the page of the documentation."""
    rows = "\n".join("| " + " | ".join(_bold(method, facts(method))) + " |" for method in METHODS.values())
    return PAGE.format(default=DEFAULT_METHOD, answer=DEFAULT_ANSWERS[0], rows=rows)


def facts(method: Method) -> tuple[str, ...]:
    """Return a method's row of the table."""
    return (
        method.name,
        method.title,
        "each layer" if method.scope == "layer" else "the model",
        " and ".join(READS[kind] for kind in ("scan", "attention") if kind in method.kinds),
        NEEDS[method.needs],
        method.cost,
        "yes" if method.signed else "no",
        "yes" if method.released else "no",
        method.paper,
    )


def _bold(method: Method, cells: tuple[str, ...]) -> tuple[str, ...]:
    return (f"**{cells[0]}**" if method.name in (DEFAULT_METHOD, DEFAULT_ANSWERS[0]) else cells[0], *cells[1:])
