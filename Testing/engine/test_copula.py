"""Masks of the copula: exact marginals, the requested correlation, and noise fixed to positions."""

import numpy as np
import pytest

from diffusion_segmentation.diffusion.copula import Copula, Covariance, Frame, LatentFields, gumbel

COVARIANCE = Covariance((2.0, 6.0), np.array([[0.6, 0.2]] * 3), np.array([0.2] * 3))


@pytest.mark.slow
def test_marginals_are_kept_whatever_the_correlation():
    rng = np.random.default_rng(0)
    p = np.moveaxis(rng.dirichlet([0.5, 0.4, 0.2], (6, 8, 10)), -1, 0).astype(np.float32)
    copula, draws = Copula(COVARIANCE, p, 1.0), 1500
    masks = np.stack([copula.draw(seed) for seed in range(draws)])
    z = [((masks == c).mean(0) - p[c]) / np.sqrt(p[c] * (1 - p[c]) / draws + 1e-6) for c in range(3)]
    assert 0.8 < np.std(z) < 1.1 and np.abs(z).max() < 6
    # Over 480 voxels the mean of correlated voxels varies more than that of independent ones.
    volumes = (masks == 1).reshape(draws, -1).sum(1)
    assert volumes.var() > 3 * (p[1] * (1 - p[1])).sum()


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(40, 33, 38), (64, 50)])
def test_fields_have_unit_variance_and_the_correlation_asked_for(shape):
    fields = LatentFields(COVARIANCE, 1.0, Frame(shape, (0,) * len(shape)), shape)
    samples = np.stack([fields.draw(seed, 1) for seed in range(300)])
    assert samples.std() == pytest.approx(1, abs=0.03)
    for axis in (1, len(shape)):
        for lag in (1, 3, 8):
            one, other = (np.take(samples, range(a, samples.shape[axis] - lag + a), axis) for a in (0, lag))
            expected = 0.2 + 0.6 * np.exp(-(lag**2) / 8) + 0.2 * np.exp(-(lag**2) / 72)
            assert (one * other).mean() == pytest.approx(expected, abs=0.04)


def test_noise_belongs_to_the_place_in_the_frame_and_to_seed_and_class():
    frame, part = (30, 32, 28), (12, 10, 14)
    whole = LatentFields(COVARIANCE, 1.0, Frame(frame, (0,) * len(frame)), frame).draw(5, 2)
    block = LatentFields(COVARIANCE, 1.0, Frame(frame, (4, 9, 7)), part).draw(5, 2)
    np.testing.assert_array_equal(block, whole[4:16, 9:19, 7:21])
    other = LatentFields(COVARIANCE, 1.0, Frame(frame, (0,) * len(frame)), frame)
    assert np.abs(other.draw(6, 2) - whole).max() > 1
    assert abs(np.corrcoef(other.draw(5, 1).ravel(), whole.ravel())[0, 1]) < 0.6


def test_a_crop_of_the_probabilities_gives_the_same_mask():
    rng = np.random.default_rng(2)
    p = np.moveaxis(rng.dirichlet([1.0, 1.0, 1.0], (20, 22, 24)), -1, 0).astype(np.float32)
    whole = Copula(COVARIANCE, p, 1.0).draw(3)
    block = Copula(COVARIANCE, p[:, 5:15, 2:20, 6:24], 1.0, Frame((20, 22, 24), (5, 2, 6))).draw(3)
    np.testing.assert_array_equal(block, whole[5:15, 2:20, 6:24])


def test_sure_voxels_are_not_drawn():
    p = np.zeros((3, 8, 8), np.float32)
    p[2], p[0, 4:], p[2, 4:] = 1, 0.5, 0.5
    copula = Copula(COVARIANCE, p, 1.0)
    assert len(copula.uncertain) == 32
    assert all((copula.draw(seed)[:4] == 2).all() for seed in range(5))


def test_gumbel_noise_has_its_own_law_in_the_tails_too():
    quantiles = np.array([1e-6, 0.01, 0.5, 0.99, 1 - 1e-5])
    from scipy.special import ndtri

    np.testing.assert_allclose(gumbel(ndtri(quantiles).astype(np.float32)), -np.log(-np.log(quantiles)), atol=6e-3)


def test_covariance_comes_back_from_the_metadata():
    again = Covariance.read(COVARIANCE.as_json())
    np.testing.assert_allclose(again.weights, COVARIANCE.weights)
    np.testing.assert_allclose(again.weights.sum(1) + again.shared, 1)
