"""Made-up results for the tests of `mambascope.show`: random lower-triangular scores over tokens of any kind."""

from __future__ import annotations

import torch

from mambascope.methods.attribution import Attribution, Model, Target

PLAIN = (
    "When",
    " Mary",
    " and",
    " John",
    " went",
    " to",
    " the",
    " store",
    ",",
    " John",
    " gave",
    " a",
    " drink",
    " to",
)
HOSTILE = (
    "<script>document.documentElement.dataset.hostile = 1</script>",
    "</script><img src=x onerror='document.documentElement.dataset.hostile = 2'>",
    "&", "&amp;", "\n", "\u2028", "😀", "", "\"it's\"", "[bold]", "[/]", "\x1b[31mred", "\u202ehidden", "$x_1$",
    "$\\frac$", "日本語", "a\\b", "${title}", "<!--", "]]>", "\ud800", " end",
)  # fmt: skip


def result(
    tokens: tuple[str, ...] | int = PLAIN,
    layers: int = 3,
    signed: bool = False,
    single: bool = False,
    method: str = "hidden_attention",
    seed: int = 0,
    reach: float = 8.0,
    **diagnostics: object,
) -> Attribution:
    """Return a result whose scores fall off with distance, as those of state-space layers do.

    Args:
        tokens: The text, or how many tokens of a made-up one.
        layers: How many layers; they are numbered 0, 2, 4 and so on, as in a hybrid.
        signed: Whether scores may be negative.
        single: Whether only the last position is explained.
        method: The method's name.
        seed: For the random numbers.
        reach: The distance over which scores fall to a third.
        diagnostics: Entries beside the usual ones.
    """
    names = tuple(f" word{j}" for j in range(tokens)) if isinstance(tokens, int) else tokens
    length, random = len(names), torch.Generator().manual_seed(seed)
    distance = torch.arange(length)[:, None] - torch.arange(length)
    size = torch.randn(layers, length, length, generator=random).exp() * torch.exp(-distance.clamp(min=0) / reach)
    scores = size * torch.randn(layers, length, length, generator=random).sign() if signed else size
    scores = scores.tril()
    targets = tuple(range(length))
    if single:
        scores, targets = scores[:, -1:], targets[-1:]
    return Attribution(
        scores=scores.contiguous(),
        tokens=names,
        axes={"layer": tuple(range(0, 2 * layers, 2)), "target": targets, "source": tuple(range(length))},
        method=method,
        target=Target(length - 1, names[-1], ((" Mary", 0.612), (" John", 0.201), ("\n", 0.033), (" a", 0.01))),
        model=Model("made-up/mamba-tiny", "mamba", "MambaForCausalLM", layers, 64),
        signed=signed,
        diagnostics={"reconstruction_error": 4.1e-7, "seconds": 1.234, "command": "mambascope explain <tiny> 'a & b'"}
        | {"reconstruction_error_per_layer": [4.1e-7] * layers}
        | diagnostics,
    )
