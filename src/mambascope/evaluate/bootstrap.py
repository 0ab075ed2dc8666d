"""The bootstrap (Efron & Tibshirani 1993): how certain a mean over samples is, and whether two methods differ.

Each resample draws as many samples as there are, with replacement; a corpus-level statistic is computed from the sums
over a resample. The same seed gives the same resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mambascope.errors import InputError
from mambascope.evaluate.packages import package

#: Takes arrays of sums, one per count, and returns the corpus-level statistic, element by element.
Statistic = Callable[..., np.ndarray]

LEVEL = 0.95
RESAMPLES = 2000
DRAWN_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Interval:
    """A statistic of samples with its percentile bootstrap interval.

    Attributes:
        value: The statistic of all samples; NaN if there are none.
        low, high: The ends of the interval; NaN if there are fewer than two samples.
        count: The number of samples used.
        undefined: The number of samples left out because their value is NaN.
    """

    value: float
    low: float
    high: float
    count: int
    undefined: int = 0


@dataclass(frozen=True)
class PairedTest:
    """Whether two methods differ on the same samples.

    Attributes:
        difference: First minus second, with its interval, over the samples that both have.
        p_bootstrap: Two-sided: how often a resample's difference is as far from the observed one as that is from 0, as
            (1 + times) / (1 + resamples). NaN if there are fewer than two samples.
        p_wilcoxon: Two-sided Wilcoxon signed-rank test, without the samples that do not differ; 1 if none differs. None
            for corpus-level statistics, which have no value per sample.
    """

    difference: Interval
    p_bootstrap: float
    p_wilcoxon: float | None = None


def mean_interval(
    values: Sequence[float] | np.ndarray, *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Return the mean of the values that are not NaN, with its interval.

    Args:
        values: One value per sample.
        level: The share of the resamples' means inside the interval.
        resamples: The number of resamples.
        seed: The seed of the resamples.

    Raises:
        InputError: if a value is infinite, or level or resamples are out of range.
    """
    values = _series(values)
    known = values[~np.isnan(values)]
    drawn = _drawn_sums(known[:, None], resamples, seed)[:, 0] / max(len(known), 1)
    mean = float(known.mean()) if len(known) else float("nan")
    return Interval(mean, *_ends(drawn, level), len(known), len(values) - len(known))


def statistic_interval(
    counts: np.ndarray, statistic: Statistic, *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Return a corpus-level statistic, a function of summed counts such as AER, with its interval.

    Args:
        counts: One row per sample, one column per count.
        statistic: Called with one array of sums per column.
        level, resamples, seed: As in `mean_interval`.

    Raises:
        InputError: if counts are not a table of finite numbers, or level or resamples are out of range.
    """
    counts = _table(counts)
    drawn = statistic(*_drawn_sums(counts, resamples, seed).T)
    return Interval(corpus_value(statistic, counts), *_ends(drawn, level), len(counts))


def paired_test(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PairedTest:
    """Return whether the means of two methods' values on the same samples differ.

    Args:
        first, second: The values, in the same order of samples; samples where either is NaN are left out.
        level, resamples, seed: As in `mean_interval`.

    Raises:
        InputError: if their numbers of values differ, a value is infinite, or scipy is not installed.
    """
    first, second = _series(first), _series(second)
    if len(first) != len(second):
        raise InputError(f"a paired test needs the same samples for both, found {len(first)} and {len(second)} values")
    differences = first - second
    known = differences[~np.isnan(differences)]
    difference = mean_interval(differences, level=level, resamples=resamples, seed=seed)
    drawn = _drawn_sums(known[:, None], resamples, seed)[:, 0] / max(len(known), 1)
    return PairedTest(difference, _p_value(difference, drawn), _wilcoxon(known))


def paired_statistic_test(
    first: np.ndarray,
    second: np.ndarray,
    statistic: Statistic,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PairedTest:
    """Return whether two methods differ in a corpus-level statistic; each resample draws the same samples for both.

    Args:
        first, second: Counts of the same samples, one row per sample.
        statistic, level, resamples, seed: As in `statistic_interval`.

    Raises:
        InputError: if the two have different shapes; and see `statistic_interval`.
    """
    first, second = _table(first), _table(second)
    if first.shape != second.shape:
        raise InputError(
            f"a paired test needs the same samples for both, found {first.shape} and {second.shape} counts"
        )
    sums = _drawn_sums(np.concatenate([first, second], axis=1), resamples, seed).T
    columns = first.shape[1]
    drawn = statistic(*sums[:columns]) - statistic(*sums[columns:])
    value = corpus_value(statistic, first) - corpus_value(statistic, second)
    difference = Interval(value, *_ends(drawn, level), len(first))
    return PairedTest(difference, _p_value(difference, drawn))


def corpus_value(statistic: Statistic, counts: np.ndarray) -> float:
    """Return a corpus-level statistic of counts, one row per sample."""
    return float(statistic(*counts.sum(axis=0)[:, None])[0])


def _series(values: Sequence[float] | np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or np.isinf(values).any():
        raise InputError("a mean over samples needs one finite value (or NaN) per sample")
    return values


def _table(counts: np.ndarray) -> np.ndarray:
    counts = np.asarray(counts, dtype=float)
    if counts.ndim != 2 or not np.isfinite(counts).all():
        raise InputError("a corpus-level statistic needs one row of finite counts per sample")
    return counts


def _drawn_sums(data: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return the sums over the samples of each resample, (n, k) to (resamples, k)."""
    if resamples < 1:
        raise InputError(f"a bootstrap needs at least one resample, found {resamples}")
    size = len(data)
    if size < 2:
        return np.full((resamples, data.shape[1]), np.nan)
    generator = np.random.default_rng(seed)
    step = max(1, DRAWN_AT_ONCE // size)
    sums = [
        data[generator.integers(size, size=(min(step, resamples - start), size))].sum(axis=1)
        for start in range(0, resamples, step)
    ]
    return np.concatenate(sums)


def _ends(drawn: np.ndarray, level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise InputError(f"an interval's level must be between 0 and 1, found {level}")
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return float("nan"), float("nan")
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _p_value(difference: Interval, drawn: np.ndarray) -> float:
    known = drawn[~np.isnan(drawn)]
    if not len(known) or np.isnan(difference.value):
        return float("nan")
    strays = np.abs(known - difference.value) >= abs(difference.value)
    return float((1 + strays.sum()) / (1 + len(known)))


def _wilcoxon(differences: np.ndarray) -> float:
    if not len(differences):
        return float("nan")
    differing = differences[differences != 0]
    return float(package("scipy.stats").wilcoxon(differing).pvalue) if len(differing) else 1.0
