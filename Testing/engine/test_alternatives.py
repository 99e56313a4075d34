"""Distinct alternatives of the samples in a region: k-medoids on 1 - IoU, and on lesions the true supports."""

import itertools

import numpy as np
import pytest

from diffusion_segmentation.phantoms import phantom
from diffusion_segmentation.segmentation.alternatives import LOWERS, MOST, Alternative, alternatives, distances
from diffusion_segmentation.segmentation.watershed import watershed_regions

SAMPLES = 64


def rows(*texts):
    return np.array([[int(label) for label in text] for text in texts], np.uint8)


def shown(masks):
    return [(one.sample, one.count) for one in alternatives(masks)]


def test_the_distance_is_one_minus_the_iou_of_labelled_voxels():
    distance = distances(rows("1100", "0110", "2200", "0000", "0000"))
    assert distance[0].tolist() == pytest.approx([0, 2 / 3, 1, 1, 1])
    assert distance[3, 4] == 0 and np.array_equal(distance, distance.T)


def test_blocks_change_nothing(monkeypatch):
    masks = np.random.default_rng(4).integers(0, 3, (5, 31)).astype(np.uint8)
    whole = distances(masks)
    monkeypatch.setattr("diffusion_segmentation.segmentation.alternatives.BLOCK", 20)
    assert np.array_equal(distances(masks), whole)


def test_different_labels_of_a_voxel_differ():
    assert distances(rows("1212", "1222"))[0, 1] == pytest.approx(1 - 3 / 5)


def test_identical_masks_are_one_alternative():
    assert alternatives(rows("1100", "1100", "1100")) == [Alternative(0, 3, 1.0)]
    assert shown(rows("0000", "0000")) == [(0, 2)] and alternatives(np.zeros((0, 5), np.uint8)) == []


def test_the_most_frequent_is_first_and_the_first_of_equals_stands_for_them():
    masks = rows("0011", "1100", "1100", "0000", "1100", "0011")
    assert shown(masks) == [(1, 3), (0, 2), (3, 1)]
    assert shown(masks[::-1]) == [(1, 3), (0, 2), (2, 1)]


def test_a_rare_sample_that_stands_out_is_an_alternative():
    assert shown(rows(*["1110"] * 15, "0001")) == [(0, 15), (15, 1)]


def test_samples_without_groups_are_one_alternative_from_eleven_on():
    """All of them equally far from each other: a further one removes 1 / (n - 1) of the mean distance."""
    masks = np.eye(16, dtype=np.uint8)
    assert shown(masks) == [(0, 16)] and 1 / 15 < LOWERS
    assert len(alternatives(masks[:10])) == MOST


def test_groups_are_found_below_noise():
    rng = np.random.default_rng(5)
    centres = np.repeat(np.eye(3, dtype=np.uint8), 100, axis=1)
    which = np.array([0] * 9 + [1] * 5 + [2] * 2)
    masks = centres[which] ^ (rng.random((16, 300)) < 0.03).astype(np.uint8)
    found = alternatives(masks)
    assert [one.count for one in found] == [9, 5, 2] and which[[one.sample for one in found]].tolist() == [0, 1, 2]
    for one in found:
        group = distances(masks)[one.sample, which == which[one.sample]]
        assert one.likeness == pytest.approx(1 - group.mean()) and 0.8 < one.likeness < 1


def test_no_other_choice_of_as_many_samples_is_nearer():
    masks = np.random.default_rng(3).integers(0, 3, (9, 20)).astype(np.uint8)
    found, distance = [one.sample for one in alternatives(masks)], distances(masks)
    best = min(distance[:, list(choice)].min(1).mean() for choice in itertools.combinations(range(9), len(found)))
    assert len(found) == MOST and distance[:, found].min(1).mean() == pytest.approx(best)


def regions_of_lesions(cases):
    """Yields the exact samples [SAMPLES, voxels], supports and their probabilities in each region of `cases` cases."""
    for index in range(cases):
        rng = np.random.default_rng([7, index])
        case = phantom("lesions:32x32").draw(rng)
        # Small regions with a lesion each, or large ones with several.
        regions = watershed_regions(1 - case.marginals.max(0), (1, 1), seed_distance_mm=(6.0, 15.0)[index % 2])
        masks, (support, weights) = case.sample(rng, SAMPLES), case.support()
        for basin in range(1, regions.max() + 1):
            inside, which = np.unique(support[:, regions == basin], axis=0, return_inverse=True)
            yield masks[:, regions == basin], inside, np.bincount(which.ravel(), weights)


def test_on_lesions_alternatives_are_the_true_supports_with_their_shares():
    checked, crowded, deviations = 0, 0, []
    for masks, support, weights in regions_of_lesions(40):
        found = alternatives(masks)
        which = [int(np.flatnonzero((support == masks[one.sample]).all(1))[0]) for one in found]
        assert len(set(which)) == len(which) and sum(one.count for one in found) == SAMPLES
        if len(support) > MOST:
            crowded += 1
            continue
        checked += 1
        drawn = (masks[:, None] == support).all(2).sum(0)
        assert sorted(which) == np.flatnonzero(drawn).tolist()
        assert all(one.count == drawn[n] and one.likeness == 1 for n, one in zip(which, found, strict=True))
        p = weights[which[0]]
        deviations.append((found[0].count / SAMPLES - p) / np.sqrt(p * (1 - p) / SAMPLES))
    assert checked > 100 and crowded > 5
    # The count of the most frequent alternative, as that of a binomial law, in mean, spread and extremes.
    assert abs(np.mean(deviations)) < 0.25 and 0.8 < np.std(deviations) < 1.2 and np.abs(deviations).max() < 4.5
