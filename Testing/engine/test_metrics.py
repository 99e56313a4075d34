"""Scores against values worked out by hand."""

import math

import numpy as np
import pytest

from diffusion_segmentation.metrics import dice, error_auroc, expected_calibration_error, within


def test_dice_by_hand_and_empty_equals_empty():
    a, b = np.array([0, 1, 1, 2, 0], np.uint8), np.array([0, 1, 2, 2, 1], np.uint8)
    np.testing.assert_allclose(dice(a, b, 4), [2 / 3, 2 / 4, 2 / 3, 1.0])


def test_dice_refuses_other_grids():
    with pytest.raises(ValueError):
        dice(np.zeros(3, np.uint8), np.zeros(4, np.uint8), 2)


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


def test_within_counts_millimetres():
    mask = np.zeros((1, 1, 9), bool)
    mask[..., 4] = True
    assert within(mask, 4.0, (1, 1, 2.0)).sum() == 5


def test_calibration_error_by_hand():
    confidence, correct = np.array([0.95, 0.95, 0.55, 0.55]), np.array([True, True, True, False])
    assert expected_calibration_error(confidence, correct, bins=10) == pytest.approx(0.5 * 0.05 + 0.5 * 0.05)


def test_calibrated_guesses_have_none_and_overconfident_ones_have():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.3, 1.0, 200_000)
    correct = rng.random(200_000) < confidence
    assert expected_calibration_error(confidence, correct) < 0.005
    assert expected_calibration_error(np.sqrt(confidence), correct) > 0.1
