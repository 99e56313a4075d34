"""Uncertain regions: of a size that can be judged, ranked by their expected error."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from diffusion_segmentation.errors import InputError
from diffusion_segmentation.phantoms import phantom
from diffusion_segmentation.segmentation.uncertain_regions import Ranking, opened, reviewable_voxels
from diffusion_segmentation.segmentation.watershed import SEED_DISTANCE_MM, _thinned, watershed_regions

VOXEL = 0.027


def entropy_of(p):
    return -(p * np.log2(np.clip(p, 1e-9, 1))).sum(0)


def two_spots():
    """Class 1 in doubt in a block of 4 x 4 x 4 with 0.4, class 2 in one of 3 x 3 x 3 with 0.3; spacing 3 mm."""
    p = np.zeros((3, 12, 12, 20), np.float32)
    p[0] = 1
    p[:2, 2:6, 2:6, 2:6] = np.array([0.6, 0.4]).reshape(2, 1, 1, 1)
    p[0, 7:10, 7:10, 14:17], p[2, 7:10, 7:10, 14:17] = 0.3, 0.7
    return p


def regions_of(p, spacing, threshold=0.0, **options):
    ranking = Ranking(watershed_regions(1 - p.max(0), spacing), list(p), entropy_of(p), np.prod(spacing) / 1000)
    return ranking.at(threshold, **options).regions


def test_regions_are_ranked_by_the_expected_wrong_volume():
    first, second = regions_of(two_spots(), (3, 3, 3))
    assert first.expected_error == pytest.approx(64 * 0.4 * VOXEL, rel=1e-5)
    assert second.expected_error == pytest.approx(27 * 0.3 * VOXEL, rel=1e-5)
    assert first.share == pytest.approx(25.6 / (25.6 + 8.1), rel=1e-5)
    assert first.volume == pytest.approx(64 * VOXEL) and second.volume == pytest.approx(27 * VOXEL)
    assert all(2 <= at <= 5 for at in first.peak)
    assert all(low <= at <= high for low, at, high in zip((7, 7, 14), second.peak, (9, 9, 16), strict=True))


def test_a_region_lists_its_two_classes_with_their_probabilities():
    first, second = regions_of(two_spots(), (3, 3, 3))
    assert [c for c, _ in first.classes] == [0, 1] and [c for c, _ in second.classes] == [2, 0]
    assert [p for _, p in second.classes] == pytest.approx([0.7, 0.3])
    assert first.mean_entropy == pytest.approx(first.peak_entropy) == pytest.approx(0.97095, abs=1e-4)


def shell(spacing):
    """An uncertain sheet along a ball of 40 mm, as along borders of tissues."""
    shape = [round(100 / s) for s in spacing]
    grid = np.meshgrid(*(np.arange(n) * s - 50 for n, s in zip(shape, spacing, strict=True)), indexing="ij")
    inside = 1 / (1 + np.exp((np.linalg.norm(grid, axis=0) - 40) / 1.5))
    return np.stack([1 - inside, inside]).astype(np.float32)


@pytest.mark.parametrize("spacing", [(2, 2, 2), (5, 1.5, 1.5)])
def test_an_uncertain_sheet_is_divided_into_regions_of_limited_size(spacing):
    p = shell(spacing)
    labels = watershed_regions(1 - p.max(0), spacing)
    assert ((labels > 0) == (1 - p.max(0) >= 0.02)).all()
    for basin in range(1, labels.max() + 1):
        places = np.argwhere(labels == basin) * spacing
        assert (
            len(places) and pdist(places[:: max(1, len(places) // 500)]).max(initial=0) <= 2 * SEED_DISTANCE_MM + 1e-6
        )
    regions = regions_of(p, spacing)
    assert len(regions) >= 20 and regions[0].share < 0.15
    assert sum(region.share for region in regions) > 0.9


def test_a_higher_threshold_leaves_fewer_voxels_and_omits_small_parts():
    p = two_spots()
    p[:2, 2, 2, 2] = 0.9, 0.1
    assert [r.volume for r in regions_of(p, (3, 3, 3), 0.5)] == pytest.approx([63 * VOXEL, 27 * VOXEL])
    assert [r.volume for r in regions_of(p, (3, 3, 3), 0.9)] == pytest.approx([63 * VOXEL])
    assert len(regions_of(p, (3, 3, 3), smallest=1.0)) == 1
    assert regions_of(p, (3, 3, 3), 1.2) == ()


def test_quantised_probabilities_give_the_same_regions():
    p = two_spots()
    exact = regions_of(p, (3, 3, 3))
    labels = watershed_regions(1 - p.max(0), (3, 3, 3))
    coarse = Ranking(labels, list(np.round(255 * p).astype(np.uint8)), entropy_of(p), VOXEL).at(0.0).regions
    assert [r.basin for r in coarse] == [r.basin for r in exact]
    assert [r.expected_error for r in coarse] == pytest.approx([r.expected_error for r in exact], rel=0.01)


def test_certain_voxels_give_no_region():
    p = np.zeros((2, 6, 6, 6), np.float32)
    p[0] = 1
    assert watershed_regions(1 - p.max(0), (1, 1, 1)).max() == 0
    assert regions_of(p, (1, 1, 1)) == ()


def test_a_block_is_opened_to_what_holds_a_block_of_the_size():
    mask = np.zeros((9, 9, 9), bool)
    mask[1:6, 2:5, 3:7] = True  # thick enough
    mask[6:9, 2, 3] = mask[7, 7, :] = True  # a thin part attached to it, and a line
    expected = np.zeros(mask.shape, bool)
    expected[1:6, 2:5, 3:7] = True
    assert np.array_equal(opened(mask, (3, 2, 4)), expected)
    assert np.array_equal(opened(mask, (1, 1, 1)), mask) and not opened(mask, (1, 10, 1)).any()


def test_more_than_a_voxel_of_the_model_to_each_side_is_thick():
    assert reviewable_voxels(2.0, (1.0, 2.0, 0.7), (9, 9, 9)) == (5, 3, 6)
    assert reviewable_voxels(2.0, (1.0000001, 1.9999999, 6.0), (9, 9, 9)) == (
        5,
        3,
        1,
    )  # a file's rounding changes nothing


def test_a_seam_along_a_border_is_ranked_after_reviewable_regions():
    p = np.zeros((2, 12, 40, 40), np.float32)
    p[0] = 1
    p[:, 2:4, 2:14, 2:14] = 0.5  # a seam of two voxels, 144 ml expected to be wrong
    p[:, 4:7, 30:34, 30:34] = np.array([0.6, 0.4]).reshape(2, 1, 1, 1)  # a third voxel thick, 19 ml
    labels = np.zeros(p.shape[1:], np.uint16)
    labels[2:4, 2:14, 2:14], labels[4:7, 30:34, 30:34] = 1, 2
    regions = Ranking(labels, list(p), entropy_of(p), 1.0, (3, 3, 3)).at(0.5)
    assert [region.basin for region in regions.regions] == [2, 1]
    assert [region.reviewable for region in regions.regions] == pytest.approx([48 * 0.4, 0])
    assert [region.share for region in regions.regions] == pytest.approx([1, 0])
    assert (regions.expected_error, regions.reviewable) == pytest.approx((288 * 0.5 + 48 * 0.4, 48 * 0.4))
    thin = Ranking(labels, list(p), entropy_of(p), 1.0, (9, 9, 9)).at(0.5)
    assert [region.basin for region in thin.regions] == [1, 2] and thin.reviewable == 0


def test_arrays_of_different_grids_are_refused():
    p = two_spots()
    with pytest.raises(InputError, match="one grid"):
        Ranking(watershed_regions(1 - p.max(0), (3, 3, 3)), list(p), entropy_of(p)[1:], VOXEL)


@pytest.mark.parametrize("name", ["lesions:32x32x32", "boundary:24x24x24"])
def test_few_samples_find_the_places_that_the_exact_probabilities_name(name):
    """The first five regions hold what the exact ranking's first five hold, in exact expected error, case by case."""

    def held(p, truth):
        labels = watershed_regions(1 - p.max(0), (4, 4, 4))
        ranking = Ranking(labels, list(p), entropy_of(p), 0.064)
        return truth[np.isin(labels, [region.basin for region in ranking.at(0.0, most=5).regions])].sum()

    shares = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        case = phantom(name).draw(rng)
        masks = case.sample(rng, 16)
        mean = np.stack([(masks == k).mean(0) for k in range(case.classes)]).astype(np.float32)
        truth = 1 - case.marginals.max(0)
        shares.append(held(mean, truth) / held(case.marginals.astype(np.float32), truth))
    assert np.mean(shares) >= 0.95 and min(shares) >= 0.75


def test_thinning_is_greedy_and_keeps_the_distance():
    rng, spacing, shape = np.random.default_rng(0), np.array([3.0, 1.0, 1.5]), (10, 24, 20)
    places = rng.permutation(np.argwhere(rng.random(shape) < 0.6))
    expected, left = [], places
    while len(left):
        expected.append(left[0])
        left = left[np.linalg.norm((left - left[0]) * spacing, axis=1) >= 5.0]
    np.testing.assert_array_equal(_thinned(places, shape, spacing, 5.0), expected)
