"""Calibration: masks with a known covariance give that covariance, and the best start is chosen."""

import json

import numpy as np
import pytest

from diffusion_segmentation.calibration import calibrate, covariance, start
from diffusion_segmentation.calibration.covariance import LAGS, SCALES, LabelledCase, decompose, fit_covariance
from diffusion_segmentation.calibration.start import PRIORS, choose_prior, log_scores
from diffusion_segmentation.calibration.tetrachoric import ResidualProducts
from diffusion_segmentation.diffusion.copula import Copula, Covariance
from diffusion_segmentation.errors import InputError
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.model.building import build
from diffusion_segmentation.training.sources import Phantoms


def soft_ball(rng, shape):
    """Probabilities [2, *shape] of a ball with a soft border near the middle."""
    grid = np.indices(shape).reshape(len(shape), -1).T
    radius = np.linalg.norm(grid - (np.array(shape) - 1) / 2 - rng.uniform(-2, 2, len(shape)), axis=1).reshape(shape)
    p = 1 / (1 + np.exp((radius - min(shape) / 3) / 2.5))
    return np.stack([1 - p, p]).astype(np.float32)


def cases_of(true, count, shape=(40, 40)):
    rng, cases = np.random.default_rng(0), []
    for index in range(count):
        p = soft_ball(rng, shape)
        cases.append(LabelledCase(np.zeros(shape, np.float32), Copula(true, p, 1.0).draw(index), p))
    return cases


def test_tetrachoric_correlation_is_that_of_the_values_behind_the_labels():
    true = Covariance((2.0,), np.array([[1.0], [1.0]]), np.zeros(2))
    products = ResidualProducts(2, (1, 2, 4))
    for case in cases_of(true, 150):
        products.add(case.p, case.labels[None])
    # Of two classes the difference of their Gumbel noises decides, whose correlation is near that of the fields.
    np.testing.assert_allclose(products.correlations()[1], np.exp(-np.array([1, 4, 16]) / 8), atol=0.08)


def test_decomposition_finds_the_weights_again():
    lags = np.array(LAGS, float)
    basis = np.stack([np.exp(-0.5 * (lags / scale) ** 2) for scale in SCALES] + [np.ones(len(lags))], 1)
    weights = np.array([[0.5, 0.2, 0.2, 0.1], [0.1, 0.0, 0.6, 0.3]])
    np.testing.assert_allclose(decompose(weights @ basis.T), weights, atol=1e-3)
    fixed = decompose(weights @ basis.T, np.array([0.1, 0.3]))
    np.testing.assert_allclose(fixed, weights, atol=1e-3)
    unknown = decompose(np.stack([weights[0] @ basis.T, np.full(len(lags), np.nan)]))
    np.testing.assert_allclose(unknown[1], weights[0], atol=1e-3)


def rms_z(covariance, cases):
    """Of the volumes of class 1, with 16 masks a case."""
    z = []
    for index, case in enumerate(cases):
        copula = Copula(covariance, case.p, 1.0)
        volumes_drawn = [copula.draw(7000 + 100 * index + n).sum() for n in range(16)]
        z.append((case.labels.sum() - np.mean(volumes_drawn)) / np.std(volumes_drawn, ddof=1) / np.sqrt(1 + 1 / 16))
    return np.sqrt(np.mean(np.square(z)))


@pytest.mark.slow
def test_the_fitted_covariance_gives_volumes_their_true_spread():
    true = Covariance(SCALES, np.array([[0.3, 0.2, 0.3]] * 2), np.array([0.2, 0.2]))
    cases = cases_of(true, 80)
    fitted = fit_covariance(cases[:40], 1.0, 3, lambda done, of: None)
    assert fitted.scales_mm == SCALES
    # On fresh cases, beside what the true covariance scores on the same.
    assert rms_z(fitted, cases[40:]) == pytest.approx(rms_z(true, cases[40:]), rel=0.25)
    narrow = Covariance(SCALES, np.array([[0.6, 0.3, 0.1]] * 2), np.zeros(2))
    assert rms_z(narrow, cases[40:]) > 1.5 * rms_z(true, cases[40:])


def test_the_prior_is_large_where_samples_are_few_and_small_where_the_direct_head_is_wrong():
    rng, n = np.random.default_rng(0), 8
    right, wrong, scores = [], [], {"right": [], "wrong": []}
    for _ in range(20):
        p = np.moveaxis(rng.dirichlet([1.0, 1.0], (12, 12)), -1, 0)
        labels = (rng.random((12, 12)) < p[1]).astype(np.uint8)
        mean = np.stack([1 - (share := rng.binomial(n, p[1]) / n), share])
        everywhere = np.ones((12, 12), bool)
        scores["right"].append(log_scores(mean, p, labels, n, everywhere))
        scores["wrong"].append(log_scores(p, p[::-1], labels, n, everywhere))
    right, wrong = choose_prior(scores["right"])[0], choose_prior(scores["wrong"])[0]
    assert right == PRIORS[-1] or right >= 8
    assert wrong == 0


def candidate(name, energy, z, prior=0):
    return start.Candidate(name, None, np.array(energy), z * np.sqrt(7 / 5), 0.9, prior, 0.1, 8)


def test_the_start_with_the_best_energy_and_a_sound_z_is_chosen():
    copula = candidate("copula", [0.20, 0.21, 0.19, 0.20], 1.0)
    better = candidate("denoised", [0.15, 0.16, 0.14, 0.15], 1.1)
    unsound = candidate("noise", [0.10, 0.11, 0.09, 0.10], 5.0)
    assert start.choose([copula, better, unsound]) is better
    assert start.choose([copula, candidate("denoised", [0.2, 0.21, 0.185, 0.2], 1.2), unsound]) is copula
    assert start.choose([unsound]) is unsound
    # Samples whose mean adds nothing to the direct head have failed, however good the rest looks.
    assert start.choose([copula, candidate("denoised", [0.15, 0.16, 0.14, 0.15], 1.1, prior=PRIORS[-1])]) is copula


@pytest.fixture(scope="module")
def a_small_model(tmp_path_factory):
    """A folder with random weights for `boundary:32x32`."""
    import torch

    settings = Phantoms("boundary:32x32").settings()
    section = settings["diffusion_segmentation"]
    section["network"] |= {
        "encoder": {"channels": [8, 8], "blocks": [1, 1]},
        "denoiser": {"channels": [8, 8], "blocks": 1},
    }
    section["process"]["loss_curve"] = {"log_snr": [-11.0, -3.0, 1.0, 7.0], "cross_entropy": [0.9, 0.8, 0.1, 0.0]}
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "small"
    models.save(
        folder,
        {"version": "0", **settings["bundle"], "diffusion_segmentation": section},
        *build(section["network"], 2),
    )
    return folder


@pytest.mark.slow
def test_calibrate_writes_a_model_that_loads_with_a_start(a_small_model, tmp_path, monkeypatch):
    monkeypatch.setattr(calibrate, "COMPARED", 3)
    monkeypatch.setattr(calibrate, "MIN_APART", 6)
    monkeypatch.setattr(calibrate, "SAMPLES", 4)
    monkeypatch.setattr(covariance, "ROUNDS", 1)
    result = calibrate.calibrate(str(a_small_model), "boundary:32x32", tmp_path / "model", cases=6)
    again = json.loads((tmp_path / "model" / "calibration.json").read_text(encoding="utf-8"))
    assert (
        again == result
        and result["cases"] == 6
        and result["compared_apart"]
        and len(result["starts"]) == 2 + len(start.DENOISED)
    )
    model = models.load(tmp_path / "model")
    assert model.section["calibration"]["start"] == result["chosen"]
    assert (model.start is None) == (result["chosen"] == start.NOISE)
    assert 0 <= model.map_prior <= PRIORS[-1]
    assert result["chosen"] in calibrate.text(result, tmp_path)


@pytest.mark.parametrize("data", ["lesions:32x32", "boundary:16x16x16"])
def test_data_of_another_kind_are_refused(a_small_model, tmp_path, data):
    with pytest.raises(InputError, match="choose data of the same kind"):
        calibrate.calibrate(str(a_small_model), data, tmp_path / "model", cases=4)
    assert not (tmp_path / "model").exists()


def test_too_few_cases_are_refused(a_small_model, tmp_path):
    with pytest.raises(InputError, match="3 or more"):
        calibrate.calibrate(str(a_small_model), "boundary:32x32", tmp_path / "model", cases=2)
