"""Alignment error rate of word links against sure and possible gold links (Och & Ney 2003).

Each sentence gives counts. A corpus's rates are computed from the counts' sums over its sentences; they are not means
of the sentences' rates.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from mambascope.errors import InputError

Counts = np.ndarray | np.integer | int


@dataclass(frozen=True)
class AlignmentCounts:
    """The counts behind the rates; `sum(counts, AlignmentCounts())` adds up a corpus.

    Attributes:
        links: |A|, the links found.
        sure: |S|, the sure links.
        links_sure: |A ∩ S|.
        links_possible: |A ∩ P|, with S ⊆ P.
    """

    links: int = 0
    sure: int = 0
    links_sure: int = 0
    links_possible: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.links_sure <= self.links_possible <= self.links or self.links_sure > self.sure:
            raise InputError(f"no links give these counts: {self}; the sure links must be among the possible ones")

    def __add__(self, other: AlignmentCounts) -> AlignmentCounts:
        """Return the sums of both."""
        return AlignmentCounts(
            self.links + other.links,
            self.sure + other.sure,
            self.links_sure + other.links_sure,
            self.links_possible + other.links_possible,
        )

    @property
    def error_rate(self) -> float:
        """AER = 1 - (|A∩S| + |A∩P|) / (|A| + |S|); NaN if there is no link and no sure one."""
        return float(alignment_error_rate(self.links, self.sure, self.links_sure, self.links_possible))

    @property
    def precision(self) -> float:
        """|A∩P| / |A|; NaN if there is no link."""
        return float(share(self.links_possible, self.links))

    @property
    def recall(self) -> float:
        """|A∩S| / |S|; NaN if no link is sure."""
        return float(share(self.links_sure, self.sure))

    def rows(self, variant: str = "") -> dict[str, int]:
        """Return the counts by their names in a table of results.

        Args:
            variant: Which links were counted, such as a rule of `link_extraction`; it is added after a colon.
        """
        suffix = f":{variant}" if variant else ""
        return {
            f"aer_links{suffix}": self.links,
            f"aer_sure{suffix}": self.sure,
            f"aer_intersection_sure{suffix}": self.links_sure,
            f"aer_intersection_possible{suffix}": self.links_possible,
        }


def alignment_counts(
    links: Bool[Tensor, "target source"],
    sure: Bool[Tensor, "gold_target gold_source"],
    possible: Bool[Tensor, "..."] | None = None,
) -> AlignmentCounts:
    """Return the counts of one sentence.

    Args:
        links: The links found, A.
        sure: The sure links, S.
        possible: Links that are allowed but not required. Sure links count as possible too, marked here or not: P is
            this set together with S. None if all gold links are sure.

    Raises:
        InputError: if the three are not of one shape.
    """
    possible = sure if possible is None else possible
    if not links.shape == sure.shape == possible.shape:
        shapes = ", ".join(str(tuple(x.shape)) for x in (links, sure, possible))
        raise InputError(f"links, sure and possible links must be of one shape, found {shapes}")
    possible = possible | sure
    both = (int((links & gold).sum()) for gold in (sure, possible))
    return AlignmentCounts(int(links.sum()), int(sure.sum()), *both)


def link_matrix(pairs: Iterable[tuple[int, int]], targets: int, sources: int) -> Bool[Tensor, "target source"]:
    """Return a sentence's links as a matrix, from (target word, source word) pairs counted from 0.

    Raises:
        InputError: if a pair is outside the sentence: its two sides may be swapped, or counted from 1.
    """
    matrix = torch.zeros(targets, sources, dtype=torch.bool)
    for target, source in pairs:
        if not (0 <= target < targets and 0 <= source < sources):
            raise InputError(
                f"the link ({target}, {source}) is outside a sentence of {targets} target and {sources} source words; "
                "links are (target, source), counted from 0"
            )
        matrix[target, source] = True
    return matrix


def alignment_error_rate(links: Counts, sure: Counts, links_sure: Counts, links_possible: Counts) -> np.ndarray:
    """Return AER from counts, or from arrays of them: 1 - (|A∩S| + |A∩P|) / (|A| + |S|)."""
    return np.asarray(1 - share(np.add(links_sure, links_possible), np.add(links, sure)))


def share(part: Counts, whole: Counts) -> np.ndarray:
    """Return part / whole, element by element; NaN where the whole is 0."""
    parts, wholes = np.broadcast_arrays(np.asarray(part, dtype=float), np.asarray(whole, dtype=float))
    return np.divide(parts, wholes, out=np.full(parts.shape, np.nan), where=wholes != 0)
