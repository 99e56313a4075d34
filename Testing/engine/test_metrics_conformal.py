"""Split-conformal scaling: against closed forms, against crepes, and on new cases of a sampler that is too narrow."""

import numpy as np
import pytest

from diffusion_segmentation.metrics import predictive_interval
from diffusion_segmentation.metrics.conformal import (
    LEAST_FLOOR,
    Scaling,
    cross_checked,
    expected_share,
    fit_scaling,
    half_widths,
    interval_scores,
    share_range,
)


def sampler(cases, spread, n=8, seed=0):
    """Sample volumes [cases, n] with `spread` times the true standard deviation, and true volumes [cases]."""
    rng = np.random.default_rng(seed)
    middle, sd = rng.uniform(20, 80, cases), rng.uniform(1, 4, cases)
    truth, samples = (middle + sd * rng.standard_normal(shape) for shape in ((cases,), (n, cases)))
    return (middle + spread * (samples - middle)).T, truth


def with_scores(scores):
    """Two equally wide samples for each case, and true volumes with these scores at the level 0.9."""
    samples = np.tile([40.0, 60.0], (len(scores), 1))
    mean, _, above = half_widths(samples, 0.9)
    return samples, mean + np.asarray(scores) * above


@pytest.mark.parametrize(("n", "level", "rank"), [(9, 0.9, 9), (19, 0.9, 18), (24, 0.9, 23), (29, 0.9, 27)])
def test_the_factor_is_an_order_statistic(n, level, rank):
    scores = np.random.default_rng(n).permutation(np.arange(1.0, n + 1))
    assert fit_scaling(*with_scores(scores), level).factor == pytest.approx(rank)
    assert expected_share(n, level) == rank / (n + 1)


def test_eight_cases_are_too_few_for_nine_tenths():
    with pytest.raises(ValueError, match="too few"):
        fit_scaling(*with_scores(np.ones(8)), 0.9)


def test_intervals_are_those_of_crepes():
    crepes = pytest.importorskip("crepes")
    samples, truth = sampler(125, 0.4)
    scaling = fit_scaling(samples[:25], truth[:25], 0.9)
    mean, half, above = half_widths(samples, 0.9, scaling.floor)  # of 25 cases both order statistics are one
    np.testing.assert_allclose(half, above)  # of fewer than 19 samples, as crepes takes them
    lower = half_widths(samples[:25], 0.9, lower_floor(samples[:25]))[1]
    theirs = crepes.ConformalRegressor().fit(residuals=truth[:25] - mean[:25], sigmas=lower)
    expected = theirs.predict_int(mean[25:], sigmas=half[25:], confidence=0.9)
    ours = [scaling.interval(one, -np.inf) for one in samples[25:]]
    np.testing.assert_allclose(ours, expected, rtol=1e-9)


def lower_floor(samples):
    """Half of the order statistic of the relative half-widths below their median."""
    mean, below, _ = half_widths(samples, 0.9)
    return max(LEAST_FLOOR, 0.5 * np.sort(below / mean)[len(mean) // 2 - 1])


@pytest.mark.parametrize("n", [8, 40])
def test_intervals_hold_in_new_cases_although_the_samples_spread_too_little(n):
    """Over sets of 24 cases the expected share is 23/25; without factors far fewer hold."""
    samples, truth = sampler(60 * 24 + 400, 0.4, n)
    fresh = samples[-400:], truth[-400:]
    sets = [(samples[24 * k : 24 * k + 24], truth[24 * k : 24 * k + 24]) for k in range(60)]
    held = [fit_scaling(*one, 0.9).holds(*fresh).mean() for one in sets]
    assert Scaling(0.9, 1.0, 0.0).holds(*fresh).mean() < 0.65
    assert np.mean(held) == pytest.approx(expected_share(24, 0.9), abs=0.025)
    low, high = share_range(24, 0.9)
    assert 0.8 <= np.mean([low <= share <= high for share in held]) <= 0.99


def test_a_case_holds_if_its_volume_is_in_the_interval():
    samples, truth = sampler(300, 0.4, 20)
    for scaling in (Scaling(0.5, 0.6, 0.01), Scaling(0.9, 1.7, 0.05)):
        bounds = np.array([scaling.interval(one) for one in samples])
        np.testing.assert_array_equal(scaling.holds(samples, truth), (bounds[:, 0] <= truth) & (truth <= bounds[:, 1]))
    np.testing.assert_allclose(Scaling(0.9, 1.0, 0.0).interval(samples[0]), predictive_interval(samples[0], 0.9))


def test_equal_samples_neither_widen_the_intervals_of_others_without_bound_nor_have_none():
    """A lesion that all samples of some cases have wrongly: their scores are in floors, and so is their interval."""
    rng = np.random.default_rng(1)
    samples = rng.choice([50.0, 100.0], (24, 8))
    truth = rng.choice([50.0, 100.0], 24)
    samples[::3], truth[::3] = 100.0, 50.0
    scaling = fit_scaling(samples, truth, 0.9)
    assert scaling.floor > 0.2 and scaling.factor < 3
    low, high = scaling.interval(samples[0])
    assert low <= 50 < 100 < high
    same = np.full((24, 8), 50.0)
    assert fit_scaling(same, same[:, 0], 0.9) == Scaling(0.9, 0.0, LEAST_FLOOR)


def test_no_bound_is_negative_and_one_sample_has_no_interval():
    assert Scaling(0.9, 3.0, 0.1).interval(np.array([0.0, 1.0, 4.0]))[0] == 0
    assert Scaling(0.9, 3.0, 0.1).interval(np.array([1.0])) is None


def test_leave_one_out_always_counts_the_same_and_halves_do_not():
    """Why the check divides the cases: a count that follows from the ranks alone says nothing of the model."""
    counts, halves = set(), set()
    for seed in range(20):
        samples, truth = with_scores(np.random.default_rng(seed).exponential(size=24))
        without = [np.delete(np.arange(24), n) for n in range(24)]
        fits = [fit_scaling(samples[others], truth[others], 0.9) for others in without]
        counts.add(sum(bool(one.holds(samples[n], truth[n])) for n, one in enumerate(fits)))
        halves.add(int(cross_checked(samples, truth, 0.9).sum()))
    assert counts == {22} and len(halves) > 2


def test_the_check_sees_that_later_cases_differ():
    scores = np.concatenate([np.linspace(0.1, 1, 12), np.linspace(2, 3, 12)])
    assert cross_checked(*with_scores(scores), 0.9).tolist() == [True] * 12 + [False] * 12


def test_scores_are_distances_in_half_widths_on_their_side():
    samples = np.random.default_rng(0).uniform(1, 2, 40)  # order statistics: the sides differ
    mean, below, above = half_widths(samples, 0.9)
    assert below != pytest.approx(above, rel=0.01)
    for truth, score in ((mean - 2 * below, 2), (mean + 3 * above, 3)):
        assert interval_scores(samples, np.array(truth), 0.9, 0.0) == pytest.approx(score)
