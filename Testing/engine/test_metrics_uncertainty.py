"""Ranking of errors compared with counting, and aggregation of entropy compared with windows."""

import math
from itertools import permutations

import numpy as np
import pytest

from diffusion_segmentation.metrics import (
    aurc,
    e_aurc,
    error_aupr,
    error_auroc,
    patch_max,
    risk_coverage,
    threshold_mean,
)


def test_auroc_counts_pairs():
    rng = np.random.default_rng(0)
    uncertainty, wrong = rng.integers(0, 6, 60).astype(float), rng.random(60) < 0.3
    pairs = uncertainty[wrong][:, None] - uncertainty[~wrong][None]
    assert error_auroc(uncertainty, wrong) == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())


def test_auroc_of_useless_reversed_and_impossible():
    wrong = np.array([True, False, False, True])
    assert error_auroc(np.ones(4), wrong) == 0.5
    assert error_auroc(-wrong.astype(float), wrong) == 0.0
    assert math.isnan(error_auroc(np.ones(4), np.zeros(4, bool)))


def test_aupr_by_hand_with_equals_taken_at_once():
    uncertainty = np.array([0.9, 0.7, 0.7, 0.7, 0.2])
    wrong = np.array([True, True, False, False, True])
    # Recall 1/3 at precision 1, then 2/3 at 2/4, then 1 at 3/5.
    for order in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 3, 4, 1]):
        assert error_aupr(uncertainty[order], wrong[order]) == pytest.approx((1 + 2 / 4 + 3 / 5) / 3)


def test_aupr_of_perfect_useless_and_impossible():
    wrong = np.random.default_rng(0).random(100) < 0.2
    assert error_aupr(wrong.astype(float), wrong) == 1.0
    assert error_aupr(np.ones(100), wrong) == pytest.approx(wrong.mean())
    assert math.isnan(error_aupr(np.ones(4), np.zeros(4, bool)))


def test_right_background_raises_auroc_but_not_aupr():
    rng = np.random.default_rng(0)
    wrong = rng.random(400) < 0.3
    uncertainty = 1 + wrong + 2 * rng.random(400)
    more, with_background = np.append(uncertainty, np.zeros(4000)), np.append(wrong, np.zeros(4000, bool))
    assert error_auroc(more, with_background) > error_auroc(uncertainty, wrong) + 0.05
    assert error_aupr(more, with_background) == pytest.approx(error_aupr(uncertainty, wrong))


def test_risk_coverage_by_hand():
    covered, risk = risk_coverage(np.array([0.1, 0.4, 0.1, 0.8]), np.array([0.9, 0.3, 0.5, 0.4]))
    np.testing.assert_allclose(covered, [0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(risk, [0.1, 0.1, 1.0 / 3, 0.35])


def test_equally_confident_cases_are_meaned_over_their_orders():
    risk, confidence = np.array([0.1, 0.4, 0.7, 0.2]), np.array([2, 1, 1, 1])
    orders = [np.cumsum(risk[[0, *order]]) / [1, 2, 3, 4] for order in permutations([1, 2, 3])]
    np.testing.assert_allclose(risk_coverage(risk, confidence)[1], np.mean(orders, axis=0))


def test_aurc_of_best_useless_and_worst_confidence():
    risk = np.random.default_rng(0).random(30)
    assert e_aurc(risk, -risk) == 0.0
    assert aurc(risk, np.ones(30)) == pytest.approx(risk.mean())
    assert e_aurc(risk, risk) > e_aurc(risk, np.ones(30)) > 0.1


def test_threshold_mean():
    entropy = np.array([[0.0, 0.1], [0.5, 0.9]], np.float32)
    assert threshold_mean(entropy, 0.3) == pytest.approx(0.7)
    assert threshold_mean(entropy, 1.0) == 0.0


@pytest.mark.parametrize(
    ("shape", "spacing", "window"),
    [((9, 8), (1.0, 1.0), (3, 3)), ((9, 8, 7), (1.0, 2.9, 6.0), (3, 1, 1)), ((2, 9), (1.0, 1.5), (2, 2))],
)
def test_patch_max_is_the_largest_of_all_windows(shape, spacing, window):
    entropy = np.random.default_rng(0).random(shape).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(entropy.astype(float), window)
    assert patch_max(entropy, spacing, 3.0) == pytest.approx(windows.mean(tuple(range(-len(shape), 0))).max())


def test_patch_max_distinguishes_a_dense_region_from_a_large_one():
    dense, large = np.zeros((2, 20, 20))
    dense[4:8, 4:8] = 0.9
    large[:, :] = 0.2
    assert patch_max(dense, (1, 1), 4.0) > patch_max(large, (1, 1), 4.0)
    with pytest.raises(ValueError, match="2 axes and the spacing 3"):
        patch_max(dense, (1, 1, 1), 4.0)


@pytest.mark.parametrize("wrong", [np.zeros(5, bool), np.ones(5, bool)])
def test_without_right_or_without_wrong_voxels_there_is_no_auroc(wrong):
    assert math.isnan(error_auroc(np.arange(5.0), wrong))
