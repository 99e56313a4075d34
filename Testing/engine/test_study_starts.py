"""Question A12 of the study, what a sample starts from, and the noise with a spectrum that it compares."""

from dataclasses import replace

import numpy as np
import planted
import pytest
import torch
from planted import TASK

from diffusion_segmentation.study.noise import MIXED, SPECTRA, Spectrum
from diffusion_segmentation.study.questions import starts
from diffusion_segmentation.study.sampling import VariantSampler
from diffusion_segmentation.study.scores import BETTER, OPEN
from diffusion_segmentation.study.variants import Variant

pytestmark = pytest.mark.usefixtures("few_study_resamples")


@pytest.mark.slow
def test_a12_compares_starts_and_says_what_each_noise_decides(study_context):
    rows = dict.fromkeys(starts.TITLES, planted.pixels) | {starts.COPULA_DENOISED: planted.exact}
    covariance = {"scales_mm": [1.6, 8.0], "weights": [[0.5, 0.3], [0.7, 0.1]], "shared": [0.2, 0.2]}
    summary = starts.Starts().summarise(study_context, planted.results(study_context, rows, covariance=covariance))
    differences = summary.numbers[TASK]["differences"]
    assert differences["copula"]["ged_u"]["verdict"] == differences["start"]["ged_u"]["verdict"] == BETTER
    assert differences["mixed"]["ged_u"]["verdict"] == OPEN
    texts = [one["text"] for one in summary.sentences]
    assert any("60 % have a width of 1.6 px, 20 % a width of 8 px and 20 % are common to all" in text for text in texts)
    assert any("from log-SNR 0.0, -4.2 and" in text for text in texts)


@pytest.mark.slow
def test_a12_samples_from_every_start(study_context):
    context = replace(study_context, minutes=0.01, seeds=(0,))
    found = starts.Starts().measure(context, TASK, 0)
    assert all(set(one["rows"]) == set(starts.TITLES) for one in found["records"])
    assert all("ged_u" in row for row in found["records"][0]["rows"].values())


def test_denoised_masks_keep_what_their_noise_level_shows(study_context, monkeypatch):
    task = study_context.tasks[TASK]
    sampler = VariantSampler(planted.Oracle([task.case(n) for n in range(len(task.cases))]), Variant(TASK), task)
    image, masks = task.case(0).image, task.case(0).sample(np.random.default_rng(3), 6)
    kept = sampler.sample(image, 6, np.array([7.5, 8.0]), 0, start=masks).masks
    assert (kept == masks).mean() > 0.999
    lost = sampler.sample(image, 6, np.array([-11.0, -2.0, 2.0, 6.0]), 0, start=masks).masks
    assert (lost == masks).mean() < (kept == masks).mean()


@pytest.mark.parametrize("shape", [(24, 20), (8, 10, 12)])
def test_noise_with_a_spectrum_has_unit_variance_and_its_correlation(shape):
    fields = MIXED.draw((400, 2, *shape), torch.Generator().manual_seed(0)).numpy().astype(np.float64)
    values = fields.reshape(-1, *shape)
    centre = tuple(n // 2 for n in shape)
    assert values.var(0).mean() == pytest.approx(1, abs=0.03)
    for lag in (1, 3):
        other = (*centre[:-1], centre[-1] + lag)
        expected = 0.25 * np.exp(-(lag**2) / 8) + 0.2 * np.exp(-(lag**2) / 128) + 0.15
        found = np.mean(values[(..., *centre)] * values[(..., *other)])
        assert found == pytest.approx(expected, abs=0.12)


def test_white_noise_decides_a_set_of_voxels_at_the_logarithm_of_its_size():
    difference = np.zeros((16, 15), bool)
    difference[3:7, 2:9] = True
    assert SPECTRA["white"].decided_at(difference) == pytest.approx(-np.log(28))
    assert MIXED.decided_at(difference) > -np.log(28)
    constant = Spectrum(0.5, (), 0.5)
    all_of_it = np.ones((16, 15), bool)
    # d' S^-1 d of n equal entries is 8 n / (0.5 + 0.5 n) for two classes.
    assert constant.decided_at(all_of_it) == pytest.approx(-np.log(240 / (0.5 + 0.5 * 240)))
