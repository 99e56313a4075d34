"""The gates on tasks with a known posterior: an exact sampler passes, and each wrong one fails where it should."""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from diffusion_segmentation.metrics import (
    GATES,
    ambiguous,
    check,
    coverage,
    covered,
    energy_distance,
    energy_distance_exact,
    randomised_pit,
)
from diffusion_segmentation.phantoms import PhantomCase, VolumeLaw, phantom

SAMPLES = 64
# Name and number of cases; the grids are small because each test has to be fast.
TASKS = {"boundary:24x24": 40, "probit:16x16": 16, "lesions:32x32": 32, "template:16x16": 32}
EVERY_GATE = set(GATES)
NO_CHIMERAS = EVERY_GATE - {"chimera_share"}

Sampler = Callable[[PhantomCase, np.random.Generator, int], np.ndarray]


def exact(case: PhantomCase, rng: np.random.Generator, n: int) -> np.ndarray:
    return case.sample(rng, n)


def one_step(case: PhantomCase, rng: np.random.Generator, n: int) -> np.ndarray:
    """What one step of a diffusion sampler gives: the most probable label of each voxel, and always the same."""
    return np.repeat(case.marginals.argmax(0)[None], n, 0).astype(np.uint8)


def independent_pixels(case: PhantomCase, rng: np.random.Generator, n: int) -> np.ndarray:
    """Voxels drawn independently from their exact probabilities."""
    above = rng.random((n, 1, *case.image.shape)) > np.cumsum(case.marginals, 0)[:-1]
    return above.sum(1).astype(np.uint8)


@cache
def cases(task: str) -> list[tuple[PhantomCase, VolumeLaw]]:
    rng = np.random.default_rng(0)
    samples = [phantom(task).draw(rng) for _ in range(TASKS[task])]
    return [(case, case.volumes()) for case in samples]


def volumes(masks: np.ndarray, classes: int) -> np.ndarray:
    """Voxels of each foreground class [n, classes - 1]."""
    return np.stack([(masks == c).reshape(len(masks), -1).sum(1) for c in range(1, classes)], 1)


def frequencies(masks: np.ndarray, case: PhantomCase) -> tuple[np.ndarray, np.ndarray]:
    """How often each foreground class was drawn, and its exact probability, both [voxels] where that is ambiguous."""
    p = case.marginals[1:]
    open_ = ambiguous(p)
    return np.stack([(masks == c).mean(0) for c in range(1, case.classes)])[open_], p[open_]


def probability_rmse(mean: np.ndarray, exact: np.ndarray, n: int) -> float:
    """Error of the means of n hard samples without their sampling noise."""
    return math.sqrt(max(0.0, np.square(mean - exact).mean() - (mean * (1 - mean)).mean() / (n - 1)))


def scores(task: str, sampler: Sampler) -> dict[str, float]:
    """Scores of a sampler in all gates that the task has."""
    rng = np.random.default_rng(1)
    variances, probabilities, eights, truths, distances, chimeras = [], [], [], [], [], []
    for case, law in cases(task):
        masks = sampler(case, rng, SAMPLES)
        samples = volumes(masks, case.classes)
        variances.append((samples.var(0, ddof=1), law.variance))
        probabilities.append(frequencies(masks, case))

        support = case.support()
        against = (case.sample(rng, SAMPLES),) if support is None else support
        distance = energy_distance if support is None else energy_distance_exact
        distances.append(distance(masks, *against, case.classes).u)

        # Groups of 8 samples, each with four truths; nearly certain volumes are left out.
        uncertain = law.variance > 1
        groups = samples.reshape(-1, 8, case.classes - 1).swapaxes(1, 2)[:, uncertain].reshape(-1, 8)
        for _ in range(4):
            eights.append(groups)
            truths.append(volumes(case.sample(rng, SAMPLES // 8), case.classes)[:, uncertain].ravel())
        if hasattr(case, "chimeras"):
            chimeras.append(case.chimeras(masks))
    eights, truths = np.concatenate(eights), np.concatenate(truths)
    if task.startswith("template"):
        # Its classes are there or not, so t intervals hold 94 % of the truth for an exact sampler; ranks hold 90 %.
        share = coverage(randomised_pit(eights, truths, rng), 0.9)
    else:
        share = covered(eights, truths, 0.9).mean()
    values = {
        "volume_variance_ratio": np.divide(*(np.concatenate(v).sum() for v in zip(*variances, strict=True))),
        "probability_rmse": probability_rmse(*(np.concatenate(v) for v in zip(*probabilities, strict=True)), SAMPLES),
        "ged_u": float(np.mean(distances)),
        "coverage": share,
    }
    return values | ({"chimera_share": float(np.mean(chimeras))} if chimeras else {})


def failed(values: dict[str, float]) -> set[str]:
    return {sentence.split()[0] for sentence in check(values)}


@pytest.mark.parametrize("task", TASKS)
def test_exact_sampler_passes(task):
    values = scores(task, exact)
    assert set(values) == (EVERY_GATE if task.startswith("lesions") else NO_CHIMERAS)
    assert check(values) == []


@pytest.mark.parametrize("task", TASKS)
def test_one_step_fails_all_but_chimeras(task):
    """It repeats one likely mask, in which lesions are whole."""
    assert failed(scores(task, one_step)) == NO_CHIMERAS


@pytest.mark.parametrize("task", TASKS)
def test_independent_pixels_fail_though_their_probabilities_are_exact(task):
    wrong = failed(scores(task, independent_pixels))
    assert {"volume_variance_ratio", "coverage"} <= wrong
    assert "probability_rmse" not in wrong
    if "probit" not in task:  # its borders vary independently from voxel to voxel, which overlap hardly shows
        assert "ged_u" in wrong
    assert ("chimera_share" in wrong) == ("lesions" in task)


@pytest.mark.parametrize("task", TASKS)
def test_mean_squared_fusion_fails_on_the_map_of_exact_samples(task):
    """Mean of the samples, squared: the fusion of a published code, in place of STAPLE."""
    rng = np.random.default_rng(1)
    pairs = [frequencies(exact(case, rng, SAMPLES), case) for case, _ in cases(task)]
    mean, p = (np.concatenate(v) for v in zip(*pairs, strict=True))
    assert failed({"probability_rmse": probability_rmse(mean, p, SAMPLES)}) == set()
    assert failed({"probability_rmse": probability_rmse(mean**2, p, SAMPLES)}) == {"probability_rmse"}


@pytest.mark.parametrize("name", GATES)
def test_bounds_are_inside_and_nan_is_outside(name):
    gate = GATES[name]
    for inside in (gate.low, gate.high):
        assert check({name: inside}) == []
    for outside in (np.nextafter(gate.high, math.inf), math.nan):
        (sentence,) = check({name: outside})
        assert sentence.startswith(f"{name} is ") and gate.meaning in sentence


def test_score_without_gate_is_refused():
    with pytest.raises(ValueError, match="no gate for dice"):
        check({"dice": 0.9})
    assert check({}) == []
