"""Word links from a matrix of scores: the best partner of each word, and the links that both sides agree on.

`grow-diag-final-and` is the heuristic of Koehn et al. 2005 ("Edinburgh system description", IWSLT), after Och & Ney
2003, with the order of loops of Moses, which became the standard.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mambascope.errors import InputError
from mambascope.numbering import shown

NEIGHBOURS = ((-1, 0), (0, -1), (1, 0), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1))


def extract_links(scores: Float[Tensor, "target source"], rule: str = "target") -> Bool[Tensor, "target source"]:
    """Return the links between words that a matrix of scores gives.

    Args:
        scores: Larger for likelier links. Scores count with their sign; pass absolute values to link by size.
        rule: One of `RULES`: `target` links each target word to its best source; `source`, each source word to its
            best target; `intersection` and `union` combine the two; for `grow-diag-final-and` see
            `grow_diag_final_and`. Among equal scores the first wins.

    Raises:
        InputError: if the rule is unknown, a side has no word, or a score is not finite.
    """
    if rule not in RULES:
        raise InputError(f"unknown rule {shown(rule)} to make links; choose one of {', '.join(RULES)}")
    if not scores.numel():
        raise InputError(f"links need words on both sides, found scores of shape {tuple(scores.shape)}")
    if not scores.isfinite().all():
        raise InputError("links need finite scores, and some are NaN or infinite")
    by_target = _marked(scores)
    by_source = _marked(scores.T).T
    return RULES[rule](by_target, by_source)


def grow_diag_final_and(
    by_target: Bool[Tensor, "target source"], by_source: Bool[Tensor, "target source"]
) -> Bool[Tensor, "target source"]:
    """Return the intersection, grown within the union.

    *Grow-diag*: repeatedly, a link of the union that neighbours a chosen link (also diagonally) is added if its target
    word or its source word has no link yet. *Final-and*: links of either direction, those of the target words first,
    are added if neither of their words has a link yet.

    Args:
        by_target: The link of each target word.
        by_source: The link of each source word.
    """
    union = by_target | by_source
    links = by_target & by_source
    targets, sources = links.shape
    grown = True
    while grown:
        grown = False
        for i in range(targets):
            for j in range(sources):
                if not links[i, j]:
                    continue
                for down, right in NEIGHBOURS:
                    a, b = i + down, j + right
                    if not (0 <= a < targets and 0 <= b < sources) or links[a, b] or not union[a, b]:
                        continue
                    if not links[a].any() or not links[:, b].any():
                        links[a, b] = grown = True
    for direction in (by_target, by_source):
        for a, b in direction.nonzero().tolist():
            if not links[a].any() and not links[:, b].any():
                links[a, b] = True
    return links


def _marked(scores: Float[Tensor, "row column"]) -> Bool[Tensor, "row column"]:
    """Return where each row has its largest score."""
    return torch.zeros(scores.shape, dtype=torch.bool).scatter(1, scores.argmax(dim=1, keepdim=True).cpu(), True)


#: How each rule combines the links of the target words with those of the source words.
RULES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "target": lambda by_target, by_source: by_target,
    "source": lambda by_target, by_source: by_source,
    "intersection": torch.logical_and,
    "union": torch.logical_or,
    "grow-diag-final-and": grow_diag_final_and,
}
