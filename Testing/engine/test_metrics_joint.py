"""Measures of joint samples: a perfect sampler lies in its band, and each control is found out by the measure named."""

import numpy as np
import pytest

from diffusion_segmentation.copula import Copula, Covariance
from diffusion_segmentation.evaluation.answers import independent_pixels
from diffusion_segmentation.evaluation.joint import (
    HALVED,
    INDEPENDENT,
    REPEATED,
    WIDENED,
    control_of,
    found_out,
    halved,
)
from diffusion_segmentation.metrics.joint import JointScores, joint_record

CASES, SAMPLES = 30, 12
SPACING = (2.0, 2.0, 2.0)
COVARIANCE = Covariance((3.0, 12.0), np.array([[0.6, 0.3]] * 3), np.array([0.1] * 3))


def probabilities(rng):
    """Two structures with soft borders, [3, 24, 24, 24]."""
    z, y, x = np.ogrid[:24, :24, :24]
    centre = 11.5 + rng.uniform(-2, 2, 3)
    radius = np.sqrt((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2)
    inner, outer = 1 / (1 + np.exp((radius - 4) / 0.8)), 1 / (1 + np.exp((radius - 8) / 0.8))
    return np.stack([1 - outer, outer - inner * outer, inner * outer]).astype(np.float32)


@pytest.fixture(scope="module")
def rows():
    """Records of a perfect sampler, whose truth is one more of its masks, and of the controls made of it."""
    rng = np.random.default_rng(0)
    rows = {name: [] for name in ("perfect", INDEPENDENT, HALVED, REPEATED)}
    for case in range(CASES):
        p = probabilities(rng)
        copula, chosen = Copula(COVARIANCE, p, 2.0), p.argmax(0).astype(np.uint8)
        masks = np.stack([copula.draw(1000 * case + n) for n in range(SAMPLES + 1)])
        drawn = {
            "perfect": masks[1:],
            INDEPENDENT: independent_pixels(p, SAMPLES, rng),
            HALVED: halved(masks[1:], chosen, 4, rng),
            REPEATED: np.repeat(chosen[None], SAMPLES, 0),
        }
        for name, samples in drawn.items():
            rows[name].append(joint_record(masks[0], samples, p, chosen, SPACING))
    return rows


@pytest.fixture(scope="module")
def scores(rows):
    found = {name: JointScores(records).scores() for name, records in rows.items()}
    found[WIDENED] = JointScores(rows["perfect"], widen=2.0).scores()
    return found


def test_a_perfect_sampler_lies_within_its_bands(scores):
    outside = {name: one.value for name, one in scores["perfect"].items() if not one.inside}
    assert not outside
    assert scores["perfect"]["z_rms"].value == pytest.approx(1, abs=0.35)
    assert scores["perfect"]["dice_ratio"].value == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    "measure",
    ["z_rms", "coverage_90", "crps_ml", "energy_score", "dice_ratio", "variogram_2mm", "variogram_4mm", "specks"],
)
def test_each_measure_finds_out_its_control(scores, measure):
    assert found_out(measure, scores["perfect"], scores[control_of(measure)])
    assert not found_out(measure, scores["perfect"], scores["perfect"]) or measure in ("crps_ml", "energy_score")


def test_samples_that_are_all_equal_have_a_large_finite_z(scores):
    assert scores[REPEATED]["z_rms"].value == pytest.approx(100)


def test_energy_score_is_that_of_its_definition(rows):
    record = rows["perfect"][0]
    distance = 1 - np.array(record["dice"])  # [structures, masks, masks]
    to_truth = distance[:, 0, 1:].mean(1)
    between = np.array([d[1:, 1:].sum() / (SAMPLES * (SAMPLES - 1)) for d in distance])
    assert JointScores([record]).energy_scores()[0] == pytest.approx((to_truth - between / 2).mean())


def test_crps_is_that_of_its_definition(rows):
    record = rows["perfect"][0]
    volumes = np.array(record["volumes_ml"])
    truth, drawn = volumes[0], volumes[1:]
    pairs = np.abs(drawn[:, None] - drawn[None]).sum((0, 1)) / (SAMPLES * (SAMPLES - 1))
    wanted = (np.abs(drawn - truth).mean(0) - pairs / 2).mean()
    assert JointScores([record]).scores()["crps_ml"].value == pytest.approx(wanted)


def test_a_speck_is_a_voxel_without_neighbours_of_its_class():
    mask = np.zeros((6, 6, 6), np.uint8)
    mask[1, 1, 1] = 1
    mask[3:5, 3:5, 3:5] = 1
    p = np.stack([np.full(mask.shape, 0.5), np.full(mask.shape, 0.5)]).astype(np.float32)
    record = joint_record(mask, np.stack([mask, mask]), p, mask, SPACING)
    assert record["specks"][0] == [1, 9]
