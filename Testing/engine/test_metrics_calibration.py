"""Calibration compared with values computed by hand, and scores of a perfect sampler with its floors."""

import numpy as np
import pytest

from diffusion_segmentation.metrics import (
    ambiguous,
    calibration_table,
    ece_floor,
    expected_calibration_error,
    table_ece,
)
from diffusion_segmentation.phantoms import phantom

VOXELS = 100_000


@pytest.fixture
def uniform() -> np.ndarray:
    """True probabilities of an event, uniform on 0 to 1."""
    return np.random.default_rng(0).random(VOXELS)


def test_calibration_error_by_hand():
    confidence, correct = np.array([0.95, 0.95, 0.55, 0.55]), np.array([True, True, True, False])
    assert expected_calibration_error(confidence, correct, bins=10) == pytest.approx(0.5 * 0.05 + 0.5 * 0.05)


def test_calibrated_guesses_have_none_and_overconfident_ones_have():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.3, 1.0, 200_000)
    correct = rng.random(200_000) < confidence
    assert expected_calibration_error(confidence, correct) < 0.006
    assert expected_calibration_error(np.sqrt(confidence), correct) > 0.1


def test_the_error_depends_neither_on_shape_nor_on_order():
    rng = np.random.default_rng(0)
    confidence = rng.integers(0, 9, 600) / 8
    correct = rng.random(600) < 0.5
    order = rng.permutation(600)
    value = expected_calibration_error(confidence, correct)
    assert expected_calibration_error(confidence[order], correct[order]) == pytest.approx(value)
    assert expected_calibration_error(confidence.reshape(20, 30), correct.reshape(20, 30)) == pytest.approx(value)


# Binary, uniform: of n hard samples k say yes with equal probability, and then the true one is (k + 1) / (n + 2) in the
# mean, so the gap is |2k - n| / (n (n + 2)), as long as no two k share a bin.
@pytest.mark.parametrize("n", [1, 2, 5, 8, 16])
def test_floor_of_hard_samples_is_the_exact_one(uniform, n):
    exact = np.mean([abs(2 * k - n) / (n * (n + 2)) for k in range(n + 1)])
    assert ece_floor(np.stack([1 - uniform, uniform]), n, np.random.default_rng(n)) == pytest.approx(exact, abs=0.004)


@pytest.mark.parametrize(
    ("n", "table"), [(1, 0.333), (2, 0.167), (5, 0.085), (8, 0.056), (16, 0.030), (32, 0.015), (64, 0.008)]
)
def test_perfect_sampler_scores_its_floor(uniform, n, table):
    """An independent sampler; the values are those of the table in calibration.py."""
    rng = np.random.default_rng(100 + n)
    mean = (rng.random((n, VOXELS)) < uniform).mean(0, dtype=np.float64)
    correct = (rng.random(VOXELS) < uniform) == (mean > 0.5)
    score = expected_calibration_error(np.maximum(mean, 1 - mean), correct)
    assert score == pytest.approx(table, abs=0.005)
    assert score == pytest.approx(ece_floor(np.stack([1 - uniform, uniform]), n, rng), abs=0.005)


def test_floor_on_a_phantom_is_what_its_exact_samples_score():
    """Several classes, and far from uniform. Many draws of each case, because voxels of one draw go together."""
    rng = np.random.default_rng(0)
    marginals, confidence, correct, n, draws = [], [], [], 5, 400
    for _ in range(10):
        case = phantom("template:16x16").draw(rng)
        open_ = ambiguous(case.marginals[0])
        masks = case.sample(rng, draws * (n + 1))[:, open_].reshape(draws, n + 1, -1)
        mean = np.stack([(masks[:, :n] == c).mean(1) for c in range(case.classes)])
        confidence.append(mean.max(0).ravel())
        correct.append((mean.argmax(0) == masks[:, n]).ravel())
        marginals.append(case.marginals[:, open_])
    score = expected_calibration_error(np.concatenate(confidence), np.concatenate(correct))
    floor = ece_floor(np.tile(np.concatenate(marginals, 1), 50), n, rng)
    assert score == pytest.approx(floor, abs=0.01)
    assert floor > 0.05


def test_floor_with_three_classes():
    rng = np.random.default_rng(0)
    p = rng.dirichlet([1, 1, 1], (50, 400)).transpose(2, 0, 1)
    assert ece_floor(p, 3, rng) > 0.1
    with pytest.raises(ValueError, match="at least one sample"):
        ece_floor(p, 0, rng)


def test_a_calibration_table_counts_by_bin():
    result = calibration_table(np.array([0.1, 0.2, 0.9, 1.0]), np.array([False, True, True, True]), bins=4)
    np.testing.assert_allclose(result, [[2, 0, 0, 2], [0.3, 0, 0, 1.9], [1, 0, 0, 2]])
    assert table_ece(result) == pytest.approx((0.7 + 0.1) / 4) and table_ece(np.zeros((3, 4))) == 0


def test_ambiguous_is_what_the_truth_leaves_open():
    assert ambiguous(np.array([0.0, 0.02, 0.03, 0.97, 0.98, 1.0])).tolist() == [False, False, True, True, False, False]
