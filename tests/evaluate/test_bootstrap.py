"""Intervals and paired tests against loops, scipy, known distributions and hand-worked cases."""

import builtins
import importlib
import math
import sys

import numpy as np
import pytest
import scipy.stats

from mambascope.errors import InputError
from mambascope.evaluate import bootstrap
from mambascope.evaluate.bootstrap import mean_interval, paired_statistic_test, paired_test, statistic_interval
from mambascope.evaluate.metrics.alignment_error_rate import alignment_error_rate, share
from rounding import assert_same_numbers


def draw(n, seed=0):
    return np.random.default_rng(seed).normal(size=n)


def test_the_same_seed_draws_the_same_whatever_is_drawn_at_once(monkeypatch):
    values = draw(37)
    found = mean_interval(values, seed=3)
    assert_same_numbers(mean_interval(values, seed=3), found)
    assert mean_interval(values, seed=4).low != pytest.approx(found.low)
    monkeypatch.setattr(bootstrap, "DRAWN_AT_ONCE", 100)
    assert_same_numbers(mean_interval(values, seed=3), found)


def test_interval_by_scipy():
    values = draw(80) ** 2
    found = mean_interval(values, resamples=9999)
    other = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=9999, rng=np.random.default_rng(5)
    ).confidence_interval
    # the two draw differently: an end of a 95 % interval of 9,999 draws errs by 0.027 standard errors in one deviation
    error = values.std() / math.sqrt(80)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(other.low, abs=0.15 * error)
    assert found.high == pytest.approx(other.high, abs=0.15 * error)
    assert found.count == 80


def test_intervals_cover_the_mean_as_often_as_they_say():
    inside = 0
    for seed in range(300):
        found = mean_interval(draw(60, seed), level=0.8, resamples=400, seed=seed)
        inside += found.low <= 0 <= found.high
    # 300 trials at 0.8: one deviation is 0.023; the percentile interval of 60 samples is a hundredth short
    assert 0.72 < inside / 300 < 0.87


def test_undefined_values_are_left_out_and_counted():
    found = mean_interval([1.0, math.nan, 3.0, 2.0])
    assert (found.value, found.count, found.undefined) == (2.0, 3, 1)
    assert 1 <= found.low <= found.high <= 3


def test_too_few_samples_have_no_interval():
    one = mean_interval([2.0])
    assert (one.value, one.count) == (2.0, 1)
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    assert math.isnan(mean_interval([math.nan]).value)
    assert math.isnan(statistic_interval(np.ones((1, 2)), share).low)


def test_two_samples_by_hand():
    # Of 0 and 1 the mean drawn is 0, 1/2 or 1 with chances 1/4, 1/2, 1/4.
    found = mean_interval([0.0, 1.0], level=0.95)
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)
    found = mean_interval([0.0, 1.0], level=0.4)
    assert (found.low, found.high) == (0.5, 0.5)


def sentences(n, seed, right):
    generator = np.random.default_rng(seed)
    links, sure = generator.integers(4, 12, n), generator.integers(3, 9, n)
    hits = generator.binomial(np.minimum(links, sure), right)
    possible = np.minimum(links, hits + generator.integers(0, 2, n))
    return np.stack([links, sure, hits, possible], axis=1)


def test_a_corpus_level_interval_by_loops():
    counts = sentences(25, 0, 0.7)
    found = statistic_interval(counts, alignment_error_rate, resamples=300, seed=2)
    drawn = np.random.default_rng(2).integers(25, size=(300, 25))
    rates = []
    for places in drawn.tolist():
        a, s, a_s, a_p = (sum(int(counts[place, k]) for place in places) for k in range(4))
        rates.append(1 - (a_s + a_p) / (a + s))
    a, s, a_s, a_p = counts.sum(axis=0)
    assert found.value == pytest.approx(1 - (a_s + a_p) / (a + s))
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(rates, [2.5, 97.5])))


def test_a_mean_is_a_corpus_level_statistic_too():
    values = draw(30)
    found = statistic_interval(np.stack([values, np.ones(30)], axis=1), share)
    expected = mean_interval(values)
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))


def test_a_difference_is_found_and_none_is_not():
    first, noise = draw(100), 0.3 * draw(100, seed=1)
    clear = paired_test(first + 0.5 + noise, first)
    assert clear.p_bootstrap == pytest.approx(1 / 2001)
    assert clear.p_wilcoxon < 1e-6
    assert clear.difference.low > 0
    none = paired_test(first + noise - noise.mean(), first)
    assert none.p_bootstrap > 0.9
    assert none.difference.low < 0 < none.difference.high
    same = paired_test(first, first)
    assert (same.p_bootstrap, same.p_wilcoxon) == (1, 1)


def test_p_values_are_even_where_nothing_differs():
    p_values = [paired_test(draw(50, s), draw(50, 1000 + s), resamples=300).p_bootstrap for s in range(200)]
    # 200 trials: one deviation of a share near 0.05 is 0.015, near 0.5 it is 0.035
    assert np.mean(np.array(p_values) < 0.05) < 0.11
    assert 0.38 < np.mean(np.array(p_values) < 0.5) < 0.62


def test_paired_p_values_by_scipy():
    first, second = draw(40), draw(40, 1) + 0.25
    found = paired_test(first, second, resamples=9999)
    assert found.p_wilcoxon == pytest.approx(scipy.stats.wilcoxon(first, second).pvalue)
    # both ask how far a mean of 40 strays by chance; the bootstrap's tails are a little lighter than Student's
    assert found.p_bootstrap == pytest.approx(scipy.stats.ttest_rel(first, second).pvalue, abs=0.03)
    swapped = paired_test(second, first, resamples=9999)
    assert swapped.difference.value == pytest.approx(-found.difference.value)
    assert swapped.p_bootstrap == pytest.approx(found.p_bootstrap)


def test_wilcoxon_leaves_out_samples_without_a_difference():
    first = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    second = first - np.array([0.0, 0.0, 1.0, 2.0, 3.0, -0.5, 4.0])
    # ranks of |d|: -.5 → 1, of 1, 2, 3, 4 → 2 to 5; a sum of ranks of at most 1 on one side: 2 of 32 ways, two sides
    assert paired_test(first, second).p_wilcoxon == pytest.approx(4 / 32)


def test_a_pair_with_an_undefined_side_is_left_out():
    first, second = draw(30), draw(30, 1)
    holes = first.copy()
    holes[:10] = np.nan
    expected = paired_test(first[10:], second[10:]).p_wilcoxon
    assert paired_test(holes, second).p_wilcoxon == pytest.approx(expected, rel=1e-12)
    assert paired_test(holes, second).difference.undefined == 10
    assert math.isnan(paired_test([1.0, math.nan], [0.0, 0.0]).p_bootstrap)


def test_corpora_are_drawn_alike_for_both():
    first = sentences(60, 0, 0.7)
    worse = first.copy()
    worse[::3, 2:] = np.maximum(worse[::3, 2:] - 1, 0)
    found = paired_statistic_test(worse, first, alignment_error_rate)
    assert found.difference.value > 0
    assert found.p_bootstrap == pytest.approx(1 / 2001)
    assert found.p_wilcoxon is None
    same = paired_statistic_test(first, first, alignment_error_rate)
    assert same.p_bootstrap == 1
    # drawn one by one, two corpora of 60 sentences would differ by more than this by chance
    alone = [statistic_interval(x, alignment_error_rate) for x in (worse, first)]
    assert alone[0].low < alone[1].high


@pytest.mark.parametrize(
    "call",
    [
        lambda: mean_interval([1.0, math.inf]),
        lambda: mean_interval(np.ones((1, 1))),
        lambda: mean_interval([1.0, 2.0], level=1.0),
        lambda: mean_interval([1.0, 2.0], resamples=0),
        lambda: statistic_interval(np.array([[1.0, math.nan]]), share),
        lambda: statistic_interval(np.ones(3), share),
        lambda: paired_test([1.0, 2.0], [1.0]),
        lambda: paired_statistic_test(np.ones((2, 2)), np.ones((3, 2)), share),
    ],
)
def test_what_gives_no_interval_is_refused(call):
    with pytest.raises(InputError):
        call()


def test_without_the_extra_the_message_says_how_to_get_it(monkeypatch):
    real = builtins.__import__

    def absent(name, *rest):
        if name.startswith("scipy"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(InputError, match=r"needs scipy.*pip install mambascope\[evaluate\]"):
        paired_test([1.0, 2.0], [0.0, 0.0])


def test_the_package_and_its_metrics_need_no_extra():
    """A fresh Python in which the extra's packages cannot be imported."""
    import subprocess

    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in ("scipy", "sklearn", "pandas", "pyarrow"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
import mambascope.evaluate.report, mambascope.evaluate.by_layer, mambascope.evaluate.bootstrap
from mambascope.evaluate.metrics import registry, ranking, masks, span_mass
from mambascope.evaluate.metrics import link_extraction, word_scores, perturbation_curve
from mambascope.errors import InputError
try:
    mambascope.evaluate.report.summarise([])
except InputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "evaluation needs pandas, which is not installed: pip install mambascope[evaluate]"
