"""Bootstrap intervals compared with the law of the mean, and the effect of pairing."""

import numpy as np
import pytest

from diffusion_segmentation.metrics import interval


def test_interval_of_a_mean_is_that_of_the_normal_law():
    values = np.random.default_rng(0).normal(5, 2, 200)
    result = interval(values, 0.95, np.random.default_rng(1))
    error = values.std() / np.sqrt(200)
    assert result.estimate == pytest.approx(values.mean())
    np.testing.assert_allclose(result[1:], values.mean() + np.array([-1.96, 1.96]) * error, atol=0.15 * error)


def test_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(100):
        result = interval(rng.normal(size=40), 0.8, rng, resamples=200)
        covered.append(result.low <= 0 <= result.high)
    assert np.mean(covered) == pytest.approx(0.8, abs=0.1)


def test_same_generator_gives_the_same_interval():
    values = np.arange(10.0)
    assert interval(values, 0.9, np.random.default_rng(3)) == interval(values, 0.9, np.random.default_rng(3))


def test_statistic_of_several_columns():
    """A ratio of sums, as the volume variance ratio is; its cases stay together."""
    rng = np.random.default_rng(0)
    true = rng.uniform(1, 100, 50)
    table = np.stack([0.5 * true, true], 1)
    result = interval(table, 0.95, rng, statistic=lambda rows: rows[:, 0].sum() / rows[:, 1].sum())
    np.testing.assert_allclose(result, 0.5)


def test_pairing_finds_a_difference_that_cases_hide():
    rng = np.random.default_rng(0)
    hard = rng.uniform(0.3, 0.9, 30)
    a, b = hard + 0.02 + 0.01 * rng.normal(size=30), hard
    paired = interval(a - b, 0.95, rng)
    assert paired.estimate == pytest.approx(a.mean() - b.mean())
    assert 0 < paired.low < paired.high < 0.04
    assert interval(a, 0.95, rng).low < interval(b, 0.95, rng).high, "apart they overlap"


@pytest.mark.parametrize("values", [[1.0], [1.0, np.nan], [1.0, np.inf]])
def test_cases_without_a_value_are_refused(values):
    with pytest.raises(ValueError, match="finite"):
        interval(np.array(values), 0.95, np.random.default_rng(0))
