"""Question A3 of the study: fingerprints of tasks, deciding steps and paths of the sampler."""

import numpy as np
import planted
import pytest
from planted import TASK

from diffusion_segmentation.study import curves
from diffusion_segmentation.study.questions import noise_levels
from diffusion_segmentation.study.sampling import Samples, VariantSampler
from diffusion_segmentation.study.variants import Variant
from diffusion_segmentation.training.loss import bin_centres

pytestmark = pytest.mark.usefixtures("few_study_resamples")

LEVELS = bin_centres()


def _curves(shift, hump):
    """Errors of x0 that fall around a half-point, and an image's noise error that falls or rises again."""
    rng = np.random.default_rng(0)
    error = 1 / (1 + np.exp(LEVELS - shift)) + 0.005 * rng.standard_normal((40, len(LEVELS)))
    error = error.clip(1e-9)
    noise = 1 / (1 + np.exp(-LEVELS - 1)) + (0.8 * np.exp(-((LEVELS + 6) ** 2)) if hump else 0)
    image = noise * (1 + 0.01 * rng.standard_normal((40, 1)))
    x0 = (image * np.exp(-LEVELS)).clip(max=1)
    return {"loss": error.tolist(), "error": error.tolist()}, {"loss": image.tolist(), "error": x0.tolist()}


def _a3(tmp_path, shifts, humps=(False, False)):
    texts = ("boundary:16x16", "template:16x16")
    context = planted.context(tmp_path, *texts, cases=6)
    results = {}
    for text, shift, hump in zip(texts, shifts, humps, strict=True):
        mask, image = _curves(shift, hump)
        path = {"reference": [0.5, 0.9], "own": [0.6, 1.0], "decided": [0.3, 0.7]}
        one = {
            "curves": {"diffusion": mask, "train": mask, "mask": mask, "image": image},
            "log_snr": LEVELS.tolist(),
            "grid": [-12.0, 0.0],
            "paths": [path] * 6,
        }
        results |= {(text, seed): one for seed in context.seeds}
    return noise_levels.NoiseLevels().summarise(context, results)


@pytest.mark.slow
def test_a3_only_a_shifted_task_has_another_fingerprint(tmp_path):
    shifted = _a3(tmp_path, (-3.0, 1.0)).sentences[-1]
    assert shifted["verdict"] == "holds" and "fingerprints differ" in shifted["text"]
    same = _a3(tmp_path, (-2.0, -2.0)).sentences[-1]
    assert same["verdict"] == "fails" and "fingerprints do not differ" in same["text"]


@pytest.mark.slow
def test_a3_a_rising_loss_is_distinguished_from_a_falling_one(tmp_path):
    summary = _a3(tmp_path, (-2.0, -2.0), humps=(True, False)).sentences
    images = {s["text"].partition(":")[0]: s["verdict"] for s in summary if "of images" in s["text"]}
    assert images == {"boundary": "fails", "template": "holds"}


def test_a3_curves_of_a_known_law():
    assert curves.half_point(LEVELS, 1 / (1 + np.exp(LEVELS + 2))) == pytest.approx(-2, abs=0.1)
    assert curves.half_point(LEVELS, np.ones(len(LEVELS))) == LEVELS[-1]
    assert curves.rise(np.linspace(0, 1, 9)) == 0  # falls as noise is added
    assert curves.rise(np.array([0.0, 1.0, 0.5])) == pytest.approx(0.5)


def test_a3_finds_the_step_at_which_a_label_is_decided(study_context):
    task = study_context.tasks[TASK]
    truth = task.truth(0)
    labels = np.zeros((4, 1, *task.shape), int)
    labels[2:] = 1  # every voxel changes at the third step and stays
    path = list(np.stack([labels == 0, labels == 1], 2).astype(np.float32))
    sampler = type("Planned", (), {"sample": lambda *_, **__: Samples(None, None, path)})()
    decided = noise_levels.trace(sampler, truth, np.zeros(4), 0)["decided"]
    assert decided == [0.0, 0.0, 1.0, 0.0]


def test_a3_the_path_of_the_sampler_ends_in_its_sample(study_context):
    task = study_context.tasks[TASK]
    cases = [task.case(n) for n in range(3)]
    sampler = VariantSampler(planted.Oracle(cases), Variant(TASK), task)
    followed = noise_levels.trace(sampler, task.truth(0), np.linspace(-12, 7, 12), 0)
    assert followed["own"][-1] == 1 and followed["own"][0] < 1
    assert sum(followed["decided"]) == pytest.approx(1, abs=1e-4)
