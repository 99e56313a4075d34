"""The phantom `probit`: pair law compared with SciPy's, sums compared with all pairs."""

import itertools

import numpy as np
import pytest
from scipy import ndimage
from scipy.special import ndtr
from scipy.stats import multivariate_normal

from diffusion_segmentation.errors import InputError
from diffusion_segmentation.phantoms.gaussian import CLOSE, GaussianField, excess
from diffusion_segmentation.phantoms.probit import MARGIN, Probit
from diffusion_segmentation.phantoms.shapes import checkerboard


@pytest.mark.parametrize("rho", [0.0, 1e-3, 0.3, 0.75, 0.95, 0.997])
def test_pair_law_is_scipys(rho):
    values = np.array([-3.0, -1.2, -0.1, 0.0, 0.4, 0.45, 2.5])
    pairs = np.array(list(itertools.product(values, values)))
    known = multivariate_normal([0, 0], [[1, rho], [rho, 1]], allow_singular=True).cdf(pairs)
    joint = excess(pairs[:, 0], pairs[:, 1], rho) + ndtr(pairs[:, 0]) * ndtr(pairs[:, 1])
    np.testing.assert_allclose(joint, known, atol=1e-9)


def test_pair_law_has_the_known_value_at_zero():
    np.testing.assert_allclose(excess(np.zeros(1), np.zeros(1), 0.5), 1 / 12, rtol=1e-12)


@pytest.mark.parametrize(("shape", "correlation"), [((4, 5), 1.8), ((3, 2, 2), 1.5)])
def test_covariance_of_counts_is_the_sum_over_all_pairs(shape, correlation):
    field = GaussianField(shape, correlation)
    thresholds = np.sort(np.random.default_rng(1).normal(0, 1, (2, *shape)), axis=0)
    voxels, total = list(np.ndindex(shape)), np.zeros((2, 2))
    for v, w in itertools.product(voxels, voxels):
        rho = 1.0 if v == w else field.covariance[tuple(np.subtract(v, w))]
        law = multivariate_normal([0, 0], [[1, rho], [rho, 1]], allow_singular=True)
        for j, k in np.ndindex(2, 2):
            a, b = thresholds[j][v], thresholds[k][w]
            total[j, k] += law.cdf([a, b]) - ndtr(a) * ndtr(b)
    np.testing.assert_allclose(field.count_covariance(thresholds), total, rtol=1e-6)
    lags = np.array([field.covariance[tuple(np.subtract(v, w))] for v, w in itertools.combinations(voxels, 2)])
    assert (lags > CLOSE).any() and (lags < CLOSE).any(), "both ways of summing are needed here"


def test_close_and_distant_pairs_are_counted_alike(monkeypatch):
    """Where the border between the two ways lies changes nothing."""
    from diffusion_segmentation.phantoms import gaussian

    case = Probit((16, 16), correlation=2.0).draw(np.random.default_rng(0))
    usual = case.volumes().variance
    monkeypatch.setattr(gaussian, "CLOSE", 0.3)
    np.testing.assert_allclose(case.volumes().variance, usual, rtol=1e-8)


def test_far_thresholds_do_no_harm():
    field = GaussianField((8, 8), 2.0)
    thresholds = np.stack([np.linspace(-60, 60, 64).reshape(8, 8), np.full((8, 8), 90.0)])
    covariance = field.count_covariance(thresholds)
    assert np.isfinite(covariance).all()
    np.testing.assert_allclose(covariance[1], 0, atol=1e-12)


@pytest.mark.parametrize("shape", [(9, 12), (5, 6, 4)])
def test_field_that_is_drawn_is_the_field_that_is_computed_with(shape):
    field, n = GaussianField(shape, 2.0), 4001
    samples = field.draw(np.random.default_rng(3), n).reshape(n, -1)
    exact = np.array(
        [[field.covariance[tuple(np.subtract(v, w))] for w in np.ndindex(shape)] for v in np.ndindex(shape)]
    )
    assert np.abs(samples.mean(0)).max() < 5 / np.sqrt(n)
    assert np.abs(samples.T @ samples / n - exact).max() < 6 * np.sqrt(2 / n)
    # Consecutive draws share a transform and must be independent otherwise.
    assert abs(np.mean(samples[0:-1:2] * samples[1::2])) < 0.02


def test_correlation_is_nearly_gaussian_in_the_lag():
    covariance = GaussianField((32, 32), 3.0).covariance
    lags = np.arange(32)
    np.testing.assert_allclose(covariance[0, :32], np.exp(-(lags**2) / 18), atol=1e-6)


def test_layers_follow_each_other():
    case = Probit().draw(np.random.default_rng(2))
    inner = [ndimage.center_of_mass(case.marginals[label]) for label in (1, 2, 3)]
    assert np.ptp(inner, axis=0).max() < 4
    expected = (np.arange(4).reshape(-1, 1, 1) * case.marginals).sum(0)
    assert np.corrcoef(expected.ravel(), np.clip(case.depth, -2, 9).ravel())[0, 1] > 0.95


@pytest.mark.parametrize("shape", [(32, 32), (20, 20, 20)])
def test_the_image_alone_determines_the_marginals(shape):
    """A reader of two filters: depth without the texture, sigma from the texture."""
    task = Probit(shape)
    case = task.draw(np.random.default_rng(7))
    smooth = ndimage.gaussian_filter(case.image.astype(float), 0.8)
    texture = np.abs(ndimage.gaussian_filter(case.image * checkerboard(shape), 1.0))
    low, high = case.thresholds[0] - MARGIN * task.sigma[1], case.thresholds[-1] + MARGIN * task.sigma[1]
    depth = (smooth - 0.1) * (high - low) + low
    z = (case.thresholds.reshape(-1, *[1] * len(shape)) - depth) / (texture / 0.08)
    error = ndtr(z) - ndtr(case.standardised)
    inner = (slice(None), *(slice(3, -3),) * len(shape))
    assert np.sqrt(np.mean(error[inner] ** 2)) < 0.03
    assert np.corrcoef(texture[inner[1:]].ravel(), case.sigma[inner[1:]].ravel())[0, 1] > 0.99


@pytest.mark.parametrize("correlation", [0.5, 9.0])
def test_correlation_that_the_grid_cannot_hold_is_refused(correlation):
    with pytest.raises(InputError):
        Probit(correlation=correlation)
