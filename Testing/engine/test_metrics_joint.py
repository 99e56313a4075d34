"""Measures of joint samples: a perfect sampler lies in its band, and each control is detected by the named measure."""

import numpy as np
import pytest

from diffusion_segmentation.diffusion.copula import Copula, Covariance
from diffusion_segmentation.evaluation.joint import (
    HALVED,
    INDEPENDENT,
    REPEATED,
    WIDENED,
    controls,
    detects,
    halve_spread,
)
from diffusion_segmentation.evaluation.known_answer.samplers import independent_pixels
from diffusion_segmentation.metrics.intervals import predictive_interval
from diffusion_segmentation.metrics.joint import LAGS, JointScores, joint_record

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
        samples_by_row = {
            "perfect": masks[1:],
            INDEPENDENT: independent_pixels(p, SAMPLES, rng),
            HALVED: halve_spread(masks[1:], chosen, (4, 4, 4), rng),
            REPEATED: np.repeat(chosen[None], SAMPLES, 0),
        }
        for name, samples in samples_by_row.items():
            rows[name].append(joint_record(masks[0], samples, p, chosen, SPACING))
    return rows


@pytest.fixture(scope="module")
def scores(rows):
    scores_by_row = {name: JointScores(records).scores() for name, records in rows.items()}
    scores_by_row[WIDENED] = JointScores(rows["perfect"], widen=2.0).scores()
    return scores_by_row


@pytest.mark.slow
def test_a_perfect_sampler_lies_within_its_bands(scores):
    outside = {name: one.value for name, one in scores["perfect"].items() if not one.inside}
    assert not outside
    assert scores["perfect"]["z_rms"].value == pytest.approx(1, abs=0.35)
    assert scores["perfect"]["dice_ratio"].value == pytest.approx(1, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "measure",
    ["z_rms", "coverage_90", "crps_ml", "energy_score", "dice_ratio", "variogram_2mm", "variogram_4mm", "specks"],
)
def test_each_measure_detects_its_negative_control(scores, measure):
    assert detects(measure, scores["perfect"], scores[controls()[measure]])
    assert not detects(measure, scores["perfect"], scores["perfect"]) or measure in ("crps_ml", "energy_score")


@pytest.mark.slow
def test_samples_that_are_all_equal_have_a_large_finite_z(scores):
    assert scores[REPEATED]["z_rms"].value == pytest.approx(100)


@pytest.mark.slow
def test_energy_score_is_that_of_its_definition(rows):
    record = rows["perfect"][0]
    distance = 1 - np.array(record["dice"])  # [structures, masks, masks]
    to_truth = distance[:, 0, 1:].mean(1)
    between = np.array([d[1:, 1:].sum() / (SAMPLES * (SAMPLES - 1)) for d in distance])
    assert JointScores([record]).case_scores()["energy_score"][0] == pytest.approx((to_truth - between / 2).mean())


@pytest.mark.slow
def test_crps_is_that_of_its_definition(rows):
    record = rows["perfect"][0]
    volumes = np.array(record["volumes_ml"])
    truth, sampled = volumes[0], volumes[1:]
    pairs = np.abs(sampled[:, None] - sampled[None]).sum((0, 1)) / (SAMPLES * (SAMPLES - 1))
    expected = (np.abs(sampled - truth).mean(0) - pairs / 2).mean()
    assert JointScores([record]).scores()["crps_ml"].value == pytest.approx(expected)


def test_a_speck_is_a_voxel_without_neighbours_of_its_class():
    mask = np.zeros((6, 6, 6), np.uint8)
    mask[1, 1, 1] = 1
    mask[3:5, 3:5, 3:5] = 1
    p = np.stack([np.full(mask.shape, 0.5), np.full(mask.shape, 0.5)]).astype(np.float32)
    record = joint_record(mask, np.stack([mask, mask]), p, mask, SPACING)
    assert record["specks"][0] == [1, 9]


def a_small_case(seed):
    """Truth and samples of random labels, probabilities of which some are closed: [5, 6, 7], three classes."""
    rng = np.random.default_rng(seed)
    p = np.moveaxis(rng.dirichlet([0.4, 0.4, 0.4], (5, 6, 7)), -1, 0).astype(np.float32)
    masks = rng.integers(0, 3, (5, 5, 6, 7)).astype(np.uint8)
    return masks[0], masks[1:], p, p.argmax(0).astype(np.uint8)


ANISOTROPIC = (2.0, 1.0, 4.5)


def pairs_by_hand(mask, p, label, lag):
    """Sums of the residuals' products and of their scale over pairs of open voxels a lag apart along an axis."""
    product = scale = 0.0
    for axis, spacing in enumerate(ANISOTROPIC):
        step = round(lag / spacing)
        if step < 1 or abs(step * spacing - lag) > lag / 4:
            continue
        for here in np.ndindex(mask.shape):
            there = tuple(n + step * (a == axis) for a, n in enumerate(here))
            if there[axis] >= mask.shape[axis]:
                continue
            q = [float(p[(label, *where)]) for where in (here, there)]
            if all(0.05 < value < 0.95 for value in q):
                residuals = [float(mask[where] == label) - value for where, value in zip((here, there), q, strict=True)]
                product += residuals[0] * residuals[1]
                scale += np.sqrt(q[0] * (1 - q[0]) * q[1] * (1 - q[1]))
    return product, scale


def specks_by_hand(mask, classes):
    """Voxels of the classes with under 30 % of equal neighbours; the border is extended by its own voxels."""
    isolated = every = 0
    for here in np.ndindex(mask.shape):
        if mask[here] not in classes:
            continue
        every += 1
        alike = 0
        for axis in range(3):
            for step in (-1, 1):
                there = [min(max(n + step * (a == axis), 0), mask.shape[a] - 1) for a, n in enumerate(here)]
                alike += mask[tuple(there)] == mask[here]
        isolated += alike < 0.3 * 6
    return [isolated, every]


def dice_by_hand(a, b, label):
    total = (a == label).sum() + (b == label).sum()
    return 2 * ((a == label) & (b == label)).sum() / total if total else 1.0


@pytest.mark.parametrize("speck_classes", [None, [2]])
def test_a_record_is_what_loops_over_voxels_count(speck_classes):
    truth, samples, p, chosen = a_small_case(0)
    record = joint_record(truth, samples, p, chosen, ANISOTROPIC, speck_classes)
    ml = np.prod(ANISOTROPIC) / 1000
    masks = [truth, *samples]
    assert record["voxel_ml"] == pytest.approx(ml)
    np.testing.assert_allclose(record["volumes_ml"], [[(mask == c).sum() * ml for c in (1, 2)] for mask in masks])
    np.testing.assert_allclose(record["expected_ml"], p[1:].sum((1, 2, 3)) * ml, rtol=1e-5)
    for k, label in enumerate((1, 2)):
        by_hand = [[dice_by_hand(a, b, label) for b in masks] for a in masks]
        np.testing.assert_allclose(np.array(record["dice"])[k], by_hand)
        np.testing.assert_allclose(np.array(record["map_dice"])[:, k], [dice_by_hand(chosen, m, label) for m in masks])
        for column, lag in enumerate(LAGS):
            for number, mask in enumerate(masks):
                product, scale = pairs_by_hand(mask, p, label, lag)
                assert record["products"][number][k][column] == pytest.approx(product, abs=1e-4)
                assert record["scale"][k][column] == pytest.approx(scale, abs=1e-4)
    assert record["specks"] == [specks_by_hand(mask, speck_classes or (1, 2)) for mask in masks]


def test_scores_by_hand():
    records = [joint_record(*a_small_case(seed), ANISOTROPIC) for seed in range(3)]
    records[1]["expected_ml"][0] = 0.0  # a structure that does not count in one case
    joint = JointScores(records)
    scores, about = joint.scores(), joint.describe()
    z, crps, energy, to, between, inside = [], [], [], 0.0, 0.0, []
    for number, record in enumerate(records):
        volumes, dice = np.array(record["volumes_ml"]), np.array(record["dice"])
        for k in range(2):
            if (number, k) == (1, 0):
                continue
            y, v = volumes[0, k], volumes[1:, k]
            z.append((y - v.mean()) / (v.std(ddof=1) * np.sqrt(1 + 1 / len(v))))
            apart = [abs(a - b) for i, a in enumerate(v) for b in v[i + 1 :]]
            crps.append(np.abs(v - y).mean() - np.mean(apart) / 2)
            low, high = predictive_interval(v, 0.9)
            inside.append(low <= y <= high)
            distances = 1 - dice[k]
            far = distances[0, 1:].mean()
            near = np.mean([distances[i, j] for i in range(1, 5) for j in range(1, 5) if i != j])
            energy.append(far - near / 2)
            to, between = to + far, between + near
    assert scores["z_rms"].value == pytest.approx(np.sqrt(np.mean(np.square(z))))
    assert scores["z_mean"].value == pytest.approx(np.mean(z))
    assert scores["crps_ml"].value == pytest.approx(np.mean(crps))
    assert scores["coverage_90"].value == pytest.approx(np.mean(inside))
    assert scores["energy_score"].value == pytest.approx(np.mean(energy))
    assert scores["dice_ratio"].value == pytest.approx(to / between)
    assert about["one_sample_dice"] == pytest.approx(1 - to / len(z))
    products, scale = (np.array([record[key] for record in records]) for key in ("products", "scale"))
    for column, lag in enumerate(LAGS):
        truth_part, sample_part = products[:, 0, :, column].sum(), products[:, 1:, :, column].mean(1).sum()
        gap = (sample_part - truth_part) / scale[..., column].sum() if scale[..., column].sum() else np.nan
        assert scores[f"variogram_{lag:g}mm"].value == pytest.approx(gap, nan_ok=True)
    specks = np.array([record["specks"] for record in records], float)
    truth_part, others = specks[:, 0].sum(0), specks[:, 1:].sum((0, 1))
    assert scores["specks"].value == pytest.approx((others[0] * truth_part[1] / others[1] + 1) / (truth_part[0] + 1))
    assert about["specks_truth"] == pytest.approx(truth_part[0] / truth_part[1])
    by_case = joint.case_scores()
    np.testing.assert_allclose(by_case["energy_score"][1], energy[2])
    np.testing.assert_allclose(by_case["crps_ml"][1], crps[2])
