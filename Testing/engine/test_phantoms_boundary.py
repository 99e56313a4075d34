"""The border of one number: closed forms, and what the image shows of them."""

import numpy as np
import pytest
from scipy.special import logit, ndtr

from diffusion_segmentation.phantoms.boundary import Boundary
from diffusion_segmentation.phantoms.shapes import blob, ellipsoid


@pytest.fixture(params=[(32, 32), (20, 20, 20)])
def cases(request):
    rng = np.random.default_rng(4)
    return [Boundary(request.param).draw(rng) for _ in range(5)]


def test_marginals_are_the_closed_form(cases):
    for case in cases:
        np.testing.assert_allclose(case.marginals[1], ndtr(-case.distance / case.sigma), atol=1e-12)


def test_masks_are_nested(cases):
    for case in cases:
        masks, _ = case.support()
        assert (masks[1:] >= masks[:-1]).all() and (masks[1:] > masks[:-1]).reshape(len(masks) - 1, -1).any(1).all()


def test_volume_law_is_that_of_the_drawn_number(cases):
    r = np.random.default_rng(0).standard_normal(4000)
    for case in cases:
        levels = np.sort(case.distance.ravel())
        drawn = np.searchsorted(levels, r * case.sigma)
        values, probabilities = case.volume_law(1)
        law = np.cumsum(probabilities)
        seen = np.searchsorted(np.sort(drawn), values, side="right") / len(r)
        # Kolmogorov and Smirnov's distance; 0.03 is exceeded by chance once in a thousand times.
        assert np.abs(seen - law).max() < 0.03


def test_image_alone_tells_the_marginals(cases):
    for case in cases:
        image = case.image.astype(float)
        low, high = image.min(), image.max()
        depth = logit(np.clip((image - low) / (high - low), 1e-6, 1 - 1e-6)) / 2
        assert np.abs(ndtr(depth) - case.marginals[1]).max() < 0.03


def test_wider_spread_is_a_softer_edge():
    rng = np.random.default_rng(1)
    cases = [Boundary().draw(rng) for _ in range(40)]
    softness = [1 / np.max(np.abs(np.diff(c.image, axis=0)) / np.ptp(c.image)) for c in cases]
    assert np.corrcoef(softness, [c.sigma for c in cases])[0, 1] > 0.95


def test_distance_from_a_sphere_is_exact():
    offsets = np.indices((9, 9, 9)) - 4.0
    found = ellipsoid(offsets, np.full(3, 3.0), np.eye(3))
    np.testing.assert_allclose(found, np.linalg.norm(offsets, axis=0) - 3, atol=1e-12)


def test_distance_rises_by_about_one_a_voxel_near_the_border():
    rng = np.random.default_rng(0)
    for _ in range(20):
        distance = blob(rng, (48, 48), (0.2, 0.3))
        slope = np.linalg.norm(np.gradient(distance), axis=0)[np.abs(distance) < 3]
        assert 0.6 < slope.min() and slope.max() < 1.4 and abs(slope.mean() - 1) < 0.15
