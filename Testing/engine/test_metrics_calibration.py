"""Calibration against values worked out by hand, and a perfect sampler's scores against its floors."""

import math

import numpy as np
import pytest

from diffusion_segmentation.metrics import (
    adaptive_calibration_error,
    ambiguous,
    average_calibration_error,
    brier,
    brier_debiased,
    ece_floor,
    expected_calibration_error,
    probability_rmse,
    reliability,
    sample_spread,
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
    for error in (expected_calibration_error, average_calibration_error, adaptive_calibration_error):
        assert error(confidence, correct) < 0.006
        assert error(np.sqrt(confidence), correct) > 0.1


def test_the_two_errors_called_ace_differ():
    """Eight voxels at 0.95, of which all are right, and two at 0.45, of which all are wrong."""
    confidence, correct = np.repeat([0.95, 0.45], [8, 2]), np.repeat([True, False], [8, 2])
    assert expected_calibration_error(confidence, correct, bins=10) == pytest.approx(0.8 * 0.05 + 0.2 * 0.45)
    assert average_calibration_error(confidence, correct, bins=10) == pytest.approx((0.05 + 0.45) / 2)
    # Halves by mass would cut the eight apart; equals stay together.
    assert adaptive_calibration_error(confidence, correct, bins=2) == pytest.approx(0.8 * 0.05 + 0.2 * 0.45)


def test_adaptive_bins_hold_equally_many():
    confidence = np.array([0.90, 0.91, 0.92, 0.93, 0.94, 0.95])
    correct = np.array([True, False, True, True, True, True])
    gaps = [abs(0.5 - 0.905), abs(1 - 0.925), abs(1 - 0.945)]
    assert adaptive_calibration_error(confidence, correct, bins=3) == pytest.approx(np.mean(gaps))
    # By width they are all in one bin, where 5 of 6 right look all but calibrated.
    assert expected_calibration_error(confidence, correct, bins=5) == pytest.approx(abs(5 / 6 - 0.925))


@pytest.mark.parametrize("error", [expected_calibration_error, average_calibration_error, adaptive_calibration_error])
def test_errors_depend_neither_on_shape_nor_on_order(error):
    rng = np.random.default_rng(0)
    confidence = rng.integers(0, 9, 600) / 8
    correct = rng.random(600) < 0.5
    order = rng.permutation(600)
    value = error(confidence, correct)
    assert error(confidence[order], correct[order]) == pytest.approx(value)
    assert error(confidence.reshape(20, 30), correct.reshape(20, 30)) == pytest.approx(value)


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
    """A sampler of its own, not the function's; the values of the table in calibration.py."""
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


def test_floor_of_soft_samples_lies_between_exact_and_hard(uniform):
    """Against a sampler whose softmax follows a Beta law, with the spread measured from its samples."""
    rng = np.random.default_rng(5)
    p, concentration, n = np.clip(uniform[:50_000], 0.001, 0.999), 2.0, 4
    soft = rng.beta(concentration * p, concentration * (1 - p), (n, p.size))
    samples = np.stack([1 - soft, soft], 1)
    spread = sample_spread(samples)
    assert spread == pytest.approx(1 / (1 + concentration), abs=0.01)
    mean = samples.mean(0)
    correct = mean.argmax(0) == (rng.random(p.size) < p)
    true = np.stack([1 - p, p])
    floor = ece_floor(true, n, rng, spread)
    assert floor == pytest.approx(expected_calibration_error(mean.max(0), correct), abs=0.006)
    assert ece_floor(true, n, rng, spread=0.0) < 0.006 < floor < ece_floor(true, n, rng) - 0.01


def test_floor_with_three_classes_and_all_but_hard_samples():
    rng = np.random.default_rng(0)
    p = rng.dirichlet([1, 1, 1], (50, 400)).transpose(2, 0, 1)
    hard = ece_floor(p, 3, rng)
    assert hard > 0.1
    assert ece_floor(p, 3, rng, spread=1 - 1e-6) == pytest.approx(hard, abs=0.01)
    with pytest.raises(ValueError):
        ece_floor(p, 0, rng)
    with pytest.raises(ValueError):
        ece_floor(p, 3, rng, spread=1.5)


def test_spread_of_hard_masks_is_one():
    hard = (np.random.default_rng(0).random((5, 1, 3000)) < 0.3).astype(np.float32)
    assert sample_spread(np.concatenate([hard, 1 - hard], 1)) == pytest.approx(1.0, abs=1e-5)
    assert math.isnan(sample_spread(np.ones((5, 1, 10))))
    with pytest.raises(ValueError):
        sample_spread(hard[:1])


@pytest.mark.parametrize(("n", "table"), [(2, 0.250), (5, 0.200), (8, 0.187), (16, 0.177), (64, 0.169)])
def test_brier_of_a_perfect_sampler_and_without_its_noise(uniform, n, table):
    rng = np.random.default_rng(n)
    mean, happened = rng.binomial(n, uniform) / n, rng.random(VOXELS) < uniform
    assert brier(mean, happened) == pytest.approx(table, abs=0.003)
    assert brier_debiased(mean, happened, n) == pytest.approx(1 / 6, abs=0.003)
    assert brier(uniform, happened) == pytest.approx(1 / 6, abs=0.003)


def test_brier_by_hand():
    assert brier(np.array([0.5, 1.0, 0.0]), np.array([True, True, True])) == pytest.approx((0.25 + 0 + 1) / 3)
    with pytest.raises(ValueError, match="one sample"):
        brier_debiased(np.ones(3), np.ones(3), 1)


def test_reliability_is_a_table_of_the_bins():
    found = reliability(np.array([0.1, 0.2, 0.9, 0.8]), np.array([False, True, True, True]), bins=4)
    np.testing.assert_array_equal(found.counts, [2, 0, 0, 2])
    np.testing.assert_allclose(found.edges, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(found.confidence, [0.15, np.nan, np.nan, 0.85])
    np.testing.assert_allclose(found.accuracy, [0.5, np.nan, np.nan, 1.0])
    # Wilson's interval of 2 of 2 starts at 1 / (1 + z^2 / 2).
    np.testing.assert_allclose([found.low[3], found.high[3]], [1 / (1 + 1.959964**2 / 2), 1.0], rtol=1e-6)


def test_reliability_intervals_hold_the_truth():
    rng = np.random.default_rng(0)
    confidence = rng.random(3000)
    held = []
    for _ in range(40):
        found = reliability(confidence, rng.random(3000) < confidence, bins=10)
        held.append((found.low <= found.confidence) & (found.confidence <= found.high))
    assert np.mean(held) == pytest.approx(0.95, abs=0.04)


@pytest.mark.parametrize("n", [2, 8, 64])
def test_probability_error_is_free_of_the_samples_noise(uniform, n):
    rng = np.random.default_rng(n)
    assert probability_rmse(rng.binomial(n, uniform) / n, uniform, n) < 0.02
    low = 0.8 * uniform  # off by a fifth: sqrt(E (0.2 p)^2) = 0.2 / sqrt(3)
    assert probability_rmse(rng.binomial(n, low) / n, uniform, n) == pytest.approx(0.2 / math.sqrt(3), abs=0.005)
    with pytest.raises(ValueError):
        probability_rmse(uniform, uniform, 1)


def test_ambiguous_is_what_the_truth_leaves_open():
    assert ambiguous(np.array([0.0, 0.02, 0.03, 0.97, 0.98, 1.0])).tolist() == [False, False, True, True, False, False]


def test_a_spread_needs_two_samples_and_two_suffice():
    p = np.array([[[0.2, 0.8]], [[0.8, 0.2]]])
    assert sample_spread(p) > 0
    with pytest.raises(ValueError, match="two samples"):
        sample_spread(p[:1])
