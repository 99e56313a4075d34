"""Coverage of predictive intervals."""

import numpy as np
import pytest

from diffusion_segmentation.metrics import covered, interval_method, predictive_interval


@pytest.mark.parametrize("n", [3, 8, 18, 19, 40])
@pytest.mark.parametrize("level", [0.5, 0.9])
def test_intervals_cover_the_next_draw_as_often_as_they_say(n, level):
    draws = np.random.default_rng(n).normal(30, 2, (2000, n + 1))
    assert covered(draws[:, :n], draws[:, n], level).mean() == pytest.approx(level, abs=0.025)


def test_plain_quantiles_of_eight_samples_do_not_cover():
    """Negative control: nominal 90 % intervals contain 72 %."""
    draws = np.random.default_rng(8).normal(30, 2, (4000, 9))
    low, high = np.quantile(draws[:, :8], [0.05, 0.95], axis=1)
    assert ((low <= draws[:, 8]) & (draws[:, 8] <= high)).mean() < 0.8


def test_coverage_falls_where_samples_spread_too_little():
    draws = np.random.default_rng(0).normal(30, 2, (2000, 9))
    assert covered(30 + 0.7 * (draws[:, :8] - 30), draws[:, 8], 0.9).mean() < 0.84


@pytest.mark.parametrize("n", [3, 18, 20])
@pytest.mark.parametrize("level", [0.5, 0.9])
def test_a_volume_that_never_changes_is_covered(n, level):
    """Though the mean of equal numbers is not always that number in floating point."""
    volumes = np.random.default_rng(0).uniform(0.1, 10, 200)
    assert covered(np.repeat(volumes[:, None], n, 1), volumes, level).all()
    assert not covered(np.repeat(volumes[:, None], n, 1), volumes + 1e-6, level).any()


def test_interval_needs_two_samples_stays_positive_and_names_its_method():
    assert predictive_interval(np.array([3.0]), 0.9) is None
    assert predictive_interval(np.array([0.0, 0.1, 3.0]), 0.9)[0] == 0.0
    assert (interval_method(8), interval_method(19)) == ("t-predictive", "order-statistics")


@pytest.mark.parametrize(("samples", "truth"), [(np.ones((3, 1)), np.ones(3)), (np.ones((3, 8)), np.ones(2))])
def test_coverage_of_no_intervals_is_refused(samples, truth):
    with pytest.raises(ValueError):
        covered(samples, truth, 0.9)
