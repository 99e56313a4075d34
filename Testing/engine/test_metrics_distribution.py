"""Distances between sets of masks compared with loops and enumeration; a perfect sampler's scores and floors."""

import math
from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from diffusion_segmentation.metrics import (
    coverage,
    d_max,
    dice,
    distribution,
    energy_distance,
    energy_distance_exact,
    expected_dice,
    hungarian_iou,
    pairwise_distance,
    randomised_pit,
    rank,
    rank_histogram,
)
from diffusion_segmentation.phantoms import phantom

CLASSES = 3


def masks(count: int, seed: int = 0, shape: tuple[int, ...] = (5, 4)) -> np.ndarray:
    return np.random.default_rng(seed).choice(CLASSES, (count, *shape), p=[0.6, 0.3, 0.1]).astype(np.uint8)


@pytest.fixture
def law() -> tuple[np.ndarray, np.ndarray]:
    """Seven masks and their probabilities."""
    return masks(7, seed=1), np.array([0.3, 0.25, 0.2, 0.1, 0.08, 0.05, 0.02])


def by_loops(a: np.ndarray, b: np.ndarray) -> float:
    distances = []
    for c in range(1, CLASSES):
        union = ((a == c) | (b == c)).sum()
        distances.append(1 - ((a == c) & (b == c)).sum() / union if union else 0.0)
    return float(np.mean(distances))


@pytest.mark.parametrize("block", [1, 50, 2**22])
def test_distances_are_those_of_loops_in_blocks_of_any_size(monkeypatch, block):
    monkeypatch.setattr(distribution, "BLOCK", block)
    a, b = masks(4, shape=(3, 4, 5)), masks(6, seed=9, shape=(3, 4, 5))
    b[0], a[0] = 0, 0
    np.testing.assert_allclose(pairwise_distance(a, b, CLASSES), [[by_loops(x, y) for y in b] for x in a], atol=1e-12)


def test_expected_dice_is_that_of_all_pairs_whatever_the_parts():
    drawn = masks(6, shape=(3, 4, 5))
    drawn[:, :2, 1] = 1  # all agree
    drawn[drawn == 2] *= np.uint8(0)
    pairs = [dice(a, b, CLASSES)[1:] for n, a in enumerate(drawn) for b in drawn[n + 1 :]]
    for parts in ([drawn], np.moveaxis(drawn, 1, 0)):
        np.testing.assert_allclose(expected_dice(parts, CLASSES), np.mean(pairs, 0), atol=1e-12)
    assert expected_dice([drawn], CLASSES)[1] == 1.0  # absent in all
    assert expected_dice([drawn[:1].repeat(3, 0)], CLASSES)[0] == 1.0


def test_one_mask_has_no_expected_dice():
    assert np.isnan(expected_dice([masks(1)], CLASSES)).all() and np.isnan(expected_dice([], CLASSES)).all()


def test_expected_dice_of_draws_is_the_mean_dice_of_a_draw_with_the_truth():
    law = phantom("lesions").draw(np.random.default_rng(3))
    draws = law.sample(np.random.default_rng(0), 400)
    estimate = np.mean([expected_dice([draws[n : n + 16]], law.classes) for n in range(0, 320, 16)], 0)
    truths = [dice(a, b, law.classes)[1:] for a, b in zip(draws[:200], draws[200:], strict=True)]
    spread = np.std(truths, 0) / np.sqrt(len(truths))
    assert (np.abs(estimate - np.mean(truths, 0)) < 4 * spread + 1e-9).all()


def test_distance_by_hand_and_empty_equals_empty():
    a, b = np.array([[0, 1, 1, 0]], np.uint8), np.array([[0, 0, 1, 1]], np.uint8)
    assert pairwise_distance(a[None], b[None], 2)[0, 0] == pytest.approx(2 / 3)
    assert pairwise_distance(a[None], b[None], 3)[0, 0] == pytest.approx(1 / 3)
    assert pairwise_distance(a[None] * 0, a[None] * 0, 3)[0, 0] == 0.0
    with pytest.raises(ValueError, match="grids"):
        pairwise_distance(a[None], b.T[None], 2)


def test_energy_distance_by_hand():
    """Two samples that are the two raters, at distance 2/3 of each other."""
    both = np.array([[[0, 1, 1, 0]], [[0, 0, 1, 1]]], np.uint8)
    result = energy_distance(both, both, 2)
    np.testing.assert_allclose(result, [0.0, -2 / 3, 2 / 3, 2 / 3, 2 / 3, 1 / 3], atol=1e-12)


def test_single_rater_or_sample_leaves_nothing_unbiased():
    one, several = masks(1), masks(4, seed=2)
    result = energy_distance(several, one, CLASSES)
    assert math.isnan(result.u) and math.isnan(result.floor) and math.isnan(result.rater_diversity)
    distances = pairwise_distance(several, several, CLASSES)
    assert result.v == pytest.approx(2 * pairwise_distance(several, one, CLASSES).mean() - distances.mean())
    assert math.isnan(energy_distance(one, several, CLASSES).u)
    assert energy_distance(one, several, CLASSES).floor > 0


@pytest.mark.parametrize(("n", "m"), [(2, 4), (8, 4), (16, 3)])
def test_perfect_sampler_scores_zero_in_u_and_its_floor_in_v(law, n, m):
    support, weights = law
    rng = np.random.default_rng(n)
    result = np.array(
        [
            energy_distance(*(support[rng.choice(7, size, p=weights)] for size in (n, m)), CLASSES)[:3]
            for _ in range(400)
        ]
    )
    v, u, floor = result.T
    error = result.std(0) / math.sqrt(len(result))
    assert abs(u.mean()) < 3 * error[1]
    assert abs((v - floor).mean()) < 3 * (v - floor).std() / math.sqrt(len(result))
    exact = weights @ pairwise_distance(support, support, CLASSES) @ weights * (1 / n + 1 / m)
    assert abs(floor.mean() - exact) < 3 * error[2]
    assert v.mean() > 5 * error[0], "the published form is not 0 for a perfect sampler"


def test_perfect_sampler_against_a_known_law_and_wrong_ones(law):
    support, weights = law
    rng, replicates = np.random.default_rng(0), 250
    perfect = [energy_distance_exact(support[rng.choice(7, 6, p=weights)], *law, CLASSES) for _ in range(replicates)]
    u = np.array([result.u for result in perfect])
    assert abs(u.mean()) < 3 * u.std() / math.sqrt(replicates)
    assert perfect[0].floor == pytest.approx(perfect[0].rater_diversity / 6)
    assert np.mean([result.v - result.floor for result in perfect]) == pytest.approx(
        0, abs=4 * u.std() / replicates**0.5
    )
    flat = [energy_distance_exact(support[rng.choice(7, 6)], *law, CLASSES).u for _ in range(replicates)]
    assert np.mean(flat) > 5 * u.std() / math.sqrt(replicates)
    assert energy_distance_exact(np.repeat(support[:1], 6, 0), *law, CLASSES).u > 0.1


@pytest.mark.parametrize("task", ["boundary:16x16", "lesions:24x24"])
def test_perfect_sampler_on_phantoms(task):
    rng = np.random.default_rng(0)
    against_raters, exactly = [], []
    for _ in range(40):
        case = phantom(task).draw(rng)
        samples, raters = case.sample(rng, 8), case.sample(rng, 4)
        against_raters.append(energy_distance(samples, raters, case.classes))
        exactly.append(energy_distance_exact(samples, *case.support(), case.classes))
    for results in (against_raters, exactly):
        u = np.array([one.u for one in results])
        excess = np.array([one.v - one.floor for one in results])
        for zero in (u, excess):
            assert abs(zero.mean()) < 3 * zero.std() / math.sqrt(len(zero))
        assert np.mean([one.v for one in results]) > 0.01


def test_law_known_exactly_is_that_of_all_its_masks_as_raters():
    """With equal weights: the mean over pairs, self-pairs included, is the expectation."""
    samples, support = masks(5), masks(8, seed=3)
    result = energy_distance_exact(samples, support, np.full(8, 1 / 8), CLASSES)
    truth = pairwise_distance(support, support, CLASSES).mean()
    raters = energy_distance(samples, support, CLASSES)
    assert result.cross == pytest.approx(raters.cross)
    assert result.rater_diversity == pytest.approx(truth)
    assert result.u == pytest.approx(2 * raters.cross - raters.diversity - truth)
    assert result.v == pytest.approx(raters.v)


def test_weights_that_are_not_a_distribution_are_refused_and_negligible_ones_ignored(law, monkeypatch):
    support, weights = law
    with pytest.raises(ValueError, match="add up"):
        energy_distance_exact(support, support, weights / 2, CLASSES)
    before = energy_distance_exact(masks(5), support, weights, CLASSES)
    assert before.cross == pytest.approx(pairwise_distance(masks(5), support, CLASSES).mean(0) @ weights)
    assert before.rater_diversity == pytest.approx(weights @ pairwise_distance(support, support, CLASSES) @ weights)
    more = np.concatenate([weights, np.full(20, 1e-14)])
    longer = np.concatenate([support, masks(20, seed=5)])
    monkeypatch.setattr(distribution, "BLOCK", 3)
    np.testing.assert_allclose(energy_distance_exact(masks(5), longer, more, CLASSES), before, atol=1e-11)


def test_matching_ignores_order_and_repeats_the_smaller_set():
    a, b = masks(3, seed=4), masks(2, seed=5)
    assert hungarian_iou(a, a[[2, 0, 1]], CLASSES) == 1.0
    iou = 1 - pairwise_distance(np.repeat(a, 2, 0), np.repeat(b, 3, 0), CLASSES)
    best = max(iou[np.arange(6), list(order)].mean() for order in permutations(range(6)))
    assert hungarian_iou(a, b, CLASSES) == pytest.approx(best)
    assert hungarian_iou(a, b[:1], CLASSES) == pytest.approx(1 - pairwise_distance(a, b[:1], CLASSES).mean())


def test_d_max_is_the_dice_of_the_best_sample_of_each_rater():
    samples, raters = masks(6, seed=6), masks(3, seed=7)
    scores = np.array([[dice(s, r, CLASSES)[1:].mean() for r in raters] for s in samples])
    assert d_max(samples, raters, CLASSES) == pytest.approx(scores.max(0).mean())


def lesion_volumes(count: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Two lesions that are there or not: a law of four values, [count, n]."""
    return 10.0 * (rng.random((count, n)) < 0.3) + 4.0 * (rng.random((count, n)) < 0.6)


@pytest.mark.parametrize("n", [1, 8])
def test_randomised_pit_is_uniform_even_for_four_values(n):
    rng = np.random.default_rng(n)
    volumes = lesion_volumes(4000, n + 1, rng)
    pits = randomised_pit(volumes[:, :n], volumes[:, n], rng)
    assert stats.kstest(pits, "uniform").pvalue > 0.01
    assert coverage(pits, 0.9) == pytest.approx(0.9, abs=0.02)


def test_ranks_are_flat_for_a_perfect_sampler_and_hollow_for_a_narrow_one():
    rng = np.random.default_rng(2)
    volumes = rng.normal(30, 5, (4000, 9))
    flat = rank_histogram(rank(volumes[:, :8], volumes[:, 8], rng), 8)
    assert flat.sum() == 4000 and len(flat) == 9
    assert stats.chisquare(flat).pvalue > 0.01
    narrow = 30 + 0.5 * (volumes[:, :8] - 30)
    hollow = rank_histogram(rank(narrow, volumes[:, 8], rng), 8)
    assert min(hollow[0], hollow[-1]) > 3 * hollow[4]
    assert coverage(randomised_pit(narrow, volumes[:, 8], rng), 0.9) < 0.82


def test_rank_counts_samples_below_and_draws_among_equals():
    rng = np.random.default_rng(0)
    assert rank(np.array([1.0, 2.0, 5.0]), 3.0, rng) == 2
    tied = rank(np.tile([1.0, 2.0, 2.0, 5.0], (300, 1)), np.full(300, 2.0), rng)
    assert set(tied.tolist()) == {1, 2, 3}


def test_ranks_that_no_case_has_are_counted_too():
    assert rank_histogram(np.array([0, 1, 1]), 4).tolist() == [1, 2, 0, 0, 0]


def test_a_pit_counts_the_samples_and_not_the_cases():
    pits = randomised_pit(np.zeros((3, 2, 9)), np.ones((3, 2)), np.random.default_rng(0))
    assert pits.shape == (3, 2) and (pits > 0.9).all()


def test_a_class_absent_from_all_masks_has_dice_1_in_d_max():
    masks = np.zeros((2, 3, 3), np.uint8)
    masks[:, 0, 0] = 1
    assert d_max(masks, masks, 3) == 1.0
    other = np.zeros((2, 3, 3), np.uint8)
    other[:, 1, 1] = 1
    assert d_max(masks, other, 3) == 0.5
