"""How a layer mixes tokens: fixed, fixed with diagonal data control, or data-controlled (Ali et al., theorem 1).

A layer mixes by y_i = Σ_j α_ij v_j. What of the input α depends on is measured: the input is changed in parts, and one
looks at what of α changes (arXiv 2403.01590, section 4).

    fixed                   α_ij is the same whatever the input is: S4, DSS, S5
    diagonal data control   α_ij = g_i h_ij w_j, where g_i depends on the tokens near i alone, w_j on those near j, and
                            h on none: GSS, Hyena
    data-controlled         everything else: α_ij depends on tokens far from i and j (selective scans, softmax
                            attention), or on those near both, but not as a product (linear attention)

Of a layer whose operator is known, α are its matrices. Of any other module α_ij is the Jacobian ∂y_i/∂x_j, a matrix of
its own: it is constant for a fixed mixer, and of a gated one it is the product of a factor of i, h and a factor of j.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mambascope.arguments import real_number
from mambascope.errors import InputError
from mambascope.numbering import shown, whole_number
from mambascope.operators.token_mixer import TokenMixer
from mambascope.theory.memory import decays
from mambascope.theory.probes import Places, Probe, probe_of, whole_matrices

Kind = Literal["fixed", "diagonal data control", "data-controlled"]

#: Share of the largest entry below which an entry is not looked at: rounding would be a large part of it.
SEEN = 1e-7
#: Largest condition of a Jacobian by which another is divided.
CONDITION = 1e8


@dataclass(frozen=True)
class Evidence:
    """Relative changes of α_ij, the largest over pairs and maps; NaN if nothing was large enough to be seen.

    Attributes:
        input: When the whole input is another.
        scale: When the input is doubled.
        far: When tokens farther than the reach from both i and j are others.
        separable: By how much α_ij misses being a factor of i times a factor of j.
        lag: By how much α_ij misses depending on i - j alone.
    """

    input: float
    scale: float
    far: float
    separable: float
    lag: float


@dataclass(frozen=True)
class Classification:
    """How a layer mixes tokens, with the evidence.

    Attributes:
        kind: The kind of theorem 1; None if one frozen matrix was given, which cannot show what it depends on, or if
            what would decide was too small to be seen, as in a layer that mixes nothing.
        toeplitz: Whether α_ij depends on i - j alone.
        causal: Whether no target depends on later tokens.
        maps: Number of matrices; of a module without a known operator, one for every pair of channels.
        ranks: Smallest, median and largest rank of what the first half of the text gives to the second: the state
            size that is used, at most half the length.
        decays: Smallest, median and largest factor by which a map forgets per token; 0 if it forgets within three.
        evidence: What was measured.
        tolerance: The relative change that counts as none.
    """

    kind: Kind | None
    toeplitz: bool
    causal: bool
    maps: int
    ranks: tuple[int, int, int]
    decays: tuple[float, float, float]
    evidence: Evidence
    tolerance: float

    def __str__(self) -> str:
        kind = self.kind or "undecided"
        form = "Toeplitz" if self.toeplitz else "not Toeplitz"
        lowest, middle, highest = self.ranks
        return f"{kind}, {form}, {self.maps} maps of rank {lowest} to {highest} (median {middle})"


def classify(
    layer: object,
    *,
    width: int | None = None,
    number: int | None = None,
    length: int = 32,
    tolerance: float = 1e-6,
    seed: int = 0,
) -> Classification:
    """Decide numerically how a layer mixes tokens.

    Args:
        layer: A reference layer of `mambascope.models.layers`; a trace, of which `number` names a layer: the model runs
            again with other inputs to that layer; an operator, which is one frozen matrix, so that its kind stays
            open; or any module that maps (b, L, D) to (b, L, D).
        width: D, for a module that does not say it as `width`.
        number: Which layer of a trace.
        length: L, the number of random tokens; at least 18. Ranks up to L / 2 can be seen. A layer that reads patches
            has its own number.
        tolerance: The relative change of α that counts as none. In float32, 1e-6 is rounding: pass 1e-3.
        seed: Of the random inputs.

    Raises:
        InputError: if an argument cannot be used, or the layer's output has another shape than its input.
        UnsupportedModelError: if the trace's layer adds up several mixers, or its model reads no text or picture.
    """
    length, seed = whole_number(length, "length"), whole_number(seed, "seed")
    if not 0 < real_number(tolerance, "tolerance") < 1:
        raise InputError(f"tolerance must lie between 0 and 1, found {shown(tolerance)}")
    if isinstance(layer, TokenMixer):
        return _frozen(layer, tolerance)
    probe = probe_of(layer, width=width, number=number, length=length)
    places = probe.places(length)
    places.require_room()
    return _measured(probe, places, tolerance, torch.Generator().manual_seed(seed))


def _measured(probe: Probe, places: Places, tolerance: float, draw: torch.Generator) -> Classification:
    """Return the kind and its evidence."""
    length = places.rows * places.columns
    base, other = probe.draw(1, length, draw), probe.draw(1, length, draw)
    matrices = probe.matrices(torch.cat([base, other, 2 * base]))
    whole, doubled = (_change(matrices[:1], matrices[k : k + 1]) for k in (1, 2))
    far, separable = _by_parts(probe, base, places, draw)
    lag = _off_lags(matrices[:1])
    evidence = Evidence(whole, doubled, far, separable, lag)
    return _described(_kind(evidence, tolerance), matrices[:1], evidence, tolerance)


def _kind(evidence: Evidence, tolerance: float) -> Kind | None:
    """Return what the evidence shows; None where what would decide was too small to be seen."""
    if math.isnan(evidence.input) or math.isnan(evidence.scale):
        return None
    if max(evidence.input, evidence.scale) <= tolerance:
        return "fixed"
    if evidence.far > tolerance or evidence.separable > tolerance:
        return "data-controlled"
    return None if math.isnan(evidence.far) or math.isnan(evidence.separable) else "diagonal data control"


def _by_parts(probe: Probe, base: Tensor, places: Places, draw: torch.Generator) -> tuple[float, float]:
    """Return how far α_ij depends on tokens far from i and j, and how far it misses being a product.

    If the layer looks back less far than the tokens that a short convolution may reach, it is asked with a shorter one.
    """
    for reach in sorted({places.reach, 1, 0}, reverse=True):
        far, separable = _with_reach(probe, base, places, reach, draw)
        if not math.isnan(far):
            break
    return far, separable


def _with_reach(probe: Probe, base: Tensor, places: Places, reach: int, draw: torch.Generator) -> tuple[float, float]:
    """Return the same of pairs whose tokens nearby are those within reach."""
    far, separable = [], []
    for i, j in places.pairs(reach):
        at_i, at_j = (places.near(place, reach)[:, None] for place in (i, j))
        other = probe.draw(1, base.shape[1], draw)
        inputs = (base, base.where(at_i | at_j, other), other.where(at_i, base), other.where(at_j, base))
        found = probe.pair(torch.cat([*inputs, other.where(at_i | at_j, base)]), i, j)
        far.append(_change(found[:1], found[1:2]))
        separable.append(_not_a_product(*found[[0, 2, 3, 4]]))
    return _largest(far), _largest(separable)


def _not_a_product(here: Tensor, i: Tensor, j: Tensor, both: Tensor) -> float:
    """Return how far matrices (M, p, p) miss A = G H W with G of i and W of j: A_i A⁻¹ must be A_both A_j⁻¹."""
    seen = torch.stack([_sizes(part) for part in (here, i, j, both)]).amin(dim=0) > SEEN * _sizes(here).max()
    usable = seen & (torch.linalg.cond(here) < CONDITION) & (torch.linalg.cond(j) < CONDITION)
    if not usable.any():
        return float("nan")
    here, i, j, both = (part[usable] for part in (here, i, j, both))
    first, second = torch.linalg.solve(here, i, left=False), torch.linalg.solve(j, both, left=False)
    apart = _sizes(first - second) / torch.maximum(_sizes(first), _sizes(second)).clamp_min(1e-300)
    return float(apart.max())


def _sizes(matrices: Tensor) -> Tensor:
    """Return each matrix's norm."""
    return torch.linalg.matrix_norm(matrices)


def _change(before: Float[Tensor, "1 M *s"], after: Float[Tensor, "1 M *s"]) -> float:
    """Return the largest relative change of entries that are large enough to be seen."""
    sizes = torch.maximum(before.abs(), after.abs())
    seen = sizes > SEEN * sizes.max()
    return float(((before - after).abs()[seen] / sizes[seen]).max()) if seen.any() else float("nan")


def _off_lags(matrices: Float[Tensor, "1 M L L"]) -> float:
    """Return the largest difference of entries of one lag, relative to the map's largest entry."""
    length, largest = matrices.shape[-1], matrices.abs().amax(dim=(-2, -1))
    worst = torch.zeros_like(largest)
    for lag in range(1 - length, length):
        diagonal = matrices.diagonal(-lag, -2, -1)
        worst = torch.maximum(worst, diagonal.amax(dim=-1) - diagonal.amin(dim=-1))
    return float((worst / largest.clamp_min(1e-300)).max())


def _frozen(mixer: TokenMixer, tolerance: float) -> Classification:
    """Return what one frozen matrix per map shows."""
    matrices = whole_matrices(mixer)[:1]
    unknown = float("nan")
    evidence = Evidence(unknown, unknown, unknown, unknown, _off_lags(matrices))
    return _described(None, matrices, evidence, tolerance)


def _described(
    kind: Kind | None, matrices: Float[Tensor, "1 M L L"], evidence: Evidence, tolerance: float
) -> Classification:
    """Return the kind with what the matrices themselves show."""
    maps = matrices[0]
    half = maps.shape[-1] // 2
    ranks = torch.linalg.matrix_rank(maps[:, half:, :half], rtol=tolerance).sort().values
    later = maps.triu(1).abs().max()
    return Classification(
        kind=kind,
        toeplitz=evidence.lag <= tolerance,
        causal=bool(later <= tolerance * maps.abs().max()),
        maps=len(maps),
        ranks=(int(ranks[0]), int(ranks[len(ranks) // 2]), int(ranks[-1])),
        decays=_decays(maps),
        evidence=evidence,
        tolerance=tolerance,
    )


def _decays(maps: Float[Tensor, "M L L"]) -> tuple[float, float, float]:
    """Return the smallest, median and largest factor per token by which |α_ij| falls with i - j."""
    places = torch.arange(maps.shape[-1])
    factors = decays(maps.abs(), (places[:, None] - places).abs()).sort().values
    return float(factors[0]), float(factors[len(factors) // 2]), float(factors[-1])


def _largest(values: list[float]) -> float:
    """Return the largest value that is a number, or NaN."""
    known = [value for value in values if value == value]
    return max(known, default=float("nan"))
