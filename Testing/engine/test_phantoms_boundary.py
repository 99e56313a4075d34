"""The phantom `boundary`: closed forms, and what the image determines."""

import numpy as np
import pytest
from scipy import ndimage
from scipy.special import logit, ndtr

from diffusion_segmentation.phantoms.boundary import Boundary
from diffusion_segmentation.phantoms.shapes import blob, ellipsoid


@pytest.fixture(params=[(32, 32), (20, 20, 20), (64, 64)])
def cases(request):
    rng = np.random.default_rng(4)
    return [Boundary(request.param).draw(rng) for _ in range(5)]


@pytest.fixture(scope="module")
def several():
    """Cases with several objects, including the largest."""
    rng = np.random.default_rng(6)
    return [Boundary(shape).draw(rng) for shape in [(64, 64, 64)] * 3 + [(64, 96)] * 20 + [(256, 256)] * 3]


def test_marginals_are_the_closed_form(cases):
    for case in cases:
        np.testing.assert_allclose(case.marginals[1], ndtr(-case.depth), atol=1e-12)


def test_masks_are_nested(cases):
    for case in cases:
        masks, _ = case.support()
        assert (masks[1:] >= masks[:-1]).all() and (masks[1:] > masks[:-1]).reshape(len(masks) - 1, -1).any(1).all()


def test_volume_law_is_that_of_the_drawn_number(cases):
    z = np.random.default_rng(0).standard_normal(4000)
    for case in cases:
        picked = np.searchsorted(np.sort(case.depth.ravel()), z)
        values, probabilities = case.volume_law(1)
        law = np.cumsum(probabilities)
        seen = np.searchsorted(np.sort(picked), values, side="right") / len(z)
        # Kolmogorov-Smirnov distance; chance exceeds 0.03 once in a thousand times.
        assert np.abs(seen - law).max() < 0.03


def test_the_image_alone_determines_the_marginals(cases):
    """A reader that finds the objects, their brightness, and the depth from the soft edge."""
    for case in cases:
        image = case.image.astype(float) - case.image.min()
        components, count = ndimage.label(image > 0.25)
        assert count == len(case.sigma)
        nearest = components[
            tuple(ndimage.distance_transform_edt(components == 0, return_distances=False, return_indices=True))
        ]
        brightness = np.concatenate([[1], ndimage.maximum(image, components, range(1, count + 1))])[nearest]
        depth = logit(np.clip(image / brightness, 1e-6, 1 - 1e-6)) / 2
        assert np.abs(ndtr(depth) - case.marginals[1]).max() < 0.03


def test_wider_spread_is_a_softer_edge():
    rng = np.random.default_rng(1)
    cases = [Boundary().draw(rng) for _ in range(40)]
    softness = [1 / np.max(np.abs(np.diff(c.image, axis=0)) / np.ptp(c.image)) for c in cases]
    assert np.corrcoef(softness, [c.sigma[0] for c in cases])[0, 1] > 0.95


def test_small_grids_hold_one_object_and_large_ones_several(several):
    assert {len(Boundary(shape).draw(np.random.default_rng(0)).sigma) for shape in [(32, 32), (48, 96)]} == {1}
    assert {len(case.sigma) for case in several} == {3, 4, 5, 6}


def test_several_objects_stay_apart(several):
    for case in several:
        components, count = ndimage.label(case.depth < 3, np.ones((3,) * case.depth.ndim))
        owners = ndimage.labeled_comprehension(case.owner, components, range(1, count + 1), np.ptp, int, 0)
        assert count == len(case.sigma) and not owners.any()


@pytest.mark.slow
def test_all_objects_share_the_number(several):
    """Volumes of two objects have the same order in all draws, and the whole varies as much as it then must."""
    for case in several:
        draws = case.sample(np.random.default_rng(7), 60).reshape(60, -1)
        volumes = np.stack([draws @ (case.owner == k).ravel().astype(int) for k in range(len(case.sigma))], axis=1)
        assert (np.diff(volumes[volumes.sum(1).argsort()], axis=0) >= 0).all()
        assert (volumes.std(0) > 0.05 * volumes.mean(0)).all()
        assert volumes.var(0).sum() < 0.6 * volumes.sum(1).var(), "independent objects would pass"


def test_sigma_and_brightness_differ_between_the_objects_of_a_case(several):
    for case in several:
        brightness = ndimage.maximum(case.image, case.owner, range(len(case.sigma)))
        assert np.ptp(case.sigma) > 0.05 * case.sigma.mean() and np.ptp(brightness) > 0.01


@pytest.mark.slow
def test_the_largest_task_has_ten_thousand_uncertain_voxels():
    """The largest task excludes samplers that are right for few voxels only."""
    rng = np.random.default_rng(8)
    for _ in range(6):
        p = Boundary((64, 64, 64)).draw(rng).marginals[1]
        assert np.count_nonzero((p > 0.02) & (p < 0.98)) >= 10_000


def test_distance_from_a_sphere_is_exact():
    offsets = np.indices((9, 9, 9)) - 4.0
    distances = ellipsoid(offsets, np.full(3, 3.0), np.eye(3))
    np.testing.assert_allclose(distances, np.linalg.norm(offsets, axis=0) - 3, atol=1e-12)


def test_distance_rises_by_about_one_a_voxel_near_the_border():
    rng = np.random.default_rng(0)
    for _ in range(20):
        distance = blob(rng, (48, 48), (0.2, 0.3))
        slope = np.linalg.norm(np.gradient(distance), axis=0)[np.abs(distance) < 3]
        assert 0.6 < slope.min() and slope.max() < 1.4 and abs(slope.mean() - 1) < 0.15
