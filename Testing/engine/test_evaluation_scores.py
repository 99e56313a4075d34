"""Scores of one case and of all cases, and the cost of a run, on values computed by hand."""

import json

import numpy as np
import pytest
from evaluation_outputs import run_outputs

from diffusion_segmentation import metrics
from diffusion_segmentation.evaluation import cost, pooling
from diffusion_segmentation.evaluation.dataset import comparison as against
from diffusion_segmentation.evaluation.dataset import scores as case_scores

pytestmark = pytest.mark.usefixtures("quick_evaluation")

SPACING = (3.0, 2.0, 1.0)


def box(start, stop, label=1, shape=(8, 10, 12)):
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = label
    return mask


def test_maps_are_scored_by_class_and_region():
    labels, reference = box((2, 2, 2), (6, 6, 6)), box((2, 2, 2), (6, 6, 8))
    scores = against.score_map(run_outputs(labels), [reference], SPACING, 1.0)
    assert scores["dice"] == pytest.approx([2 * 64 / (64 + 96), 1.0])
    assert scores["volume_error_ml"] == pytest.approx([-32 * 6 / 1000, 0.0])
    assert scores["risk"] == pytest.approx(1 - (0.8 + 1) / 2) and scores["missed"] == [0, 0]
    near = against.near_structures(labels, reference, SPACING)
    np.testing.assert_array_equal(near, metrics.within((labels | reference) > 0, 10.0, SPACING))
    assert 0 < near.sum() < near.size
    assert np.sum(scores["near"][0]) == near.sum() and np.sum(scores["everywhere"][0]) == near.size
    assert np.sum(scores["near"][2]) == near.sum() - 32 and scores["wrong"] == pytest.approx(32 / near.sum())
    assert np.array(scores["levels"])[:, 1].sum() == 32 and np.array(scores["levels"])[:, 0].sum() == near.sum()
    # Of class 1 every voxel that is said to be it with 230 / 255 is, and the 32 missed ones count below.
    counts = np.array(scores["by_class"][0])
    assert counts[0].sum() == near.sum() and counts[2].sum() == 96 and counts[2][13] == counts[0][13] == 64
    # All that is wrong lies where the entropy is low, as is most of what is right.
    assert scores["error_auroc"] < 0.5
    assert scores["confidence"]["threshold_mean"] == pytest.approx(-0.9, abs=0.45)


def test_missed_structures_and_empty_cases_have_scores():
    empty, reference = np.zeros((8, 10, 12), np.uint8), box((2, 2, 2), (6, 6, 6))
    missed = against.score_map(run_outputs(empty), [reference], SPACING, 1.0)
    assert missed["missed"] == [1, 0] and missed["hd95_mm"][0] > 20 and missed["dice"] == [0, 1]
    nothing = against.score_map(run_outputs(empty), [empty], SPACING, 1.0)
    assert nothing["dice"] == [1, 1] and nothing["risk"] == 0 and nothing["error_auroc"] is None
    assert np.sum(nothing["near"]) == 0
    json.dumps([missed, nothing], allow_nan=False)


def test_several_raters_are_meaned_and_make_a_distribution():
    small, large = box((2, 2, 2), (6, 6, 6)), box((2, 2, 2), (6, 6, 8))
    both = against.score_map(run_outputs(small), [small, large], SPACING, 1.0)
    assert both["dice"][0] == pytest.approx((1 + 0.8) / 2)
    rng = np.random.default_rng(0)
    scores = against.score_samples(run_outputs(small, samples=[small, large] * 4), [small, large], SPACING, rng)
    expected = metrics.energy_distance(np.stack([small, large] * 4), np.stack([small, large]), 3)
    assert scores["raters"]["ged_u"] == pytest.approx(expected.u) and scores["raters"]["ged_v"] == pytest.approx(
        expected.v
    )
    assert scores["raters"]["hungarian_iou"] == 1 and scores["raters"]["d_max"] == 1
    assert scores["inside"]["90"] == [1, 1] and np.shape(scores["ranks"]) == (2, 2)
    assert scores["references_ml"][0][0] == pytest.approx(64 * 6 / 1000)
    alone = against.score_samples(run_outputs(small, samples=[small]), [large], SPACING, rng)
    assert "raters" not in alone and alone["inside"] == {}


def test_narrow_intervals_do_not_hold():
    small, large = box((2, 2, 2), (6, 6, 6)), box((2, 2, 2), (6, 6, 8))
    scores = against.score_samples(run_outputs(small, samples=[small] * 8), [large], SPACING, np.random.default_rng(0))
    assert scores["inside"]["90"] == [0, 1] and scores["ranks"][0] == [8]


def a_record(wrong, encoding):
    """A case of one class of which the samples' maps are off by `wrong` of 100 voxels, the direct head's by none."""

    def one(wrong):
        near = pooling.binned(np.full(100, 0.9), np.arange(100) >= wrong)
        return {
            **dict.fromkeys(("hd95_mm", "nsd", "lesion_f1", "missed", "false"), [0.0]),
            **{"dice": [1 - wrong / 100], "volume_error_ml": [-2.0], "reference_ml": [8.0], "risk": wrong / 100},
            **{"near": near, "everywhere": near, "by_class": [near], "levels": [[50, wrong]] + [[0, 0]] * 8},
            **{"wrong": wrong / 100, "error_auroc": None, "error_aupr": 0.5, "some_probabilities": [[25], [230]]},
            "confidence": {"threshold_mean": -wrong, "patch_max": wrong},
        }

    seconds = {"seconds": encoding + 9, "network_seconds": 4 * encoding, "direct_seconds": encoding}
    volumes = {
        "samples_ml": [[7.0], [9.0]],
        "references_ml": [[8.0]],
        "ranks": [[1]],
        "inside": {"50": [1.0], "80": [1.0], "90": [0.5]},
    }
    return {
        "maps": {"samples": one(wrong), "direct": one(0)},
        "samples": volumes,
        "run": {"direct_difference": 0.1},
        "cost": {**seconds, "encoder_passes": 1, "denoiser_passes": 8, "memory_bytes": {"process_peak": encoding}},
    }


def test_scores_over_cases_by_hand():
    scores = case_scores.summarise([a_record(n, 1) for n in (30, 10, 20, 40, 50)], ["ball"])
    maps = scores["maps"]["samples"]
    assert maps["dice"]["value"] == pytest.approx(0.7) and maps["by_class"][0]["dice"]["value"] == pytest.approx(0.7)
    assert maps["ece"]["value"] == pytest.approx(0.2) and scores["maps"]["direct"]["ece"]["value"] == pytest.approx(0.1)
    assert scores["difference"]["ece"]["value"] == pytest.approx(0.1)
    assert scores["difference"]["dice"]["value"] == pytest.approx(-0.3) and scores["difference"]["dice"]["high"] < 0
    assert (
        maps["levels"][0] == {"bits": [0.0, 0.05], "voxels": 250, "wrong": 0.6} and maps["levels"][1]["wrong"] is None
    )
    assert maps["by_class"][0]["volume_error_percent"]["value"] == 25 and maps["error_auroc"]["cases"] == 0
    # Ranked by the error itself nothing is lost; in the opposite order much is.
    assert maps["e_aurc_threshold_mean"]["value"] == pytest.approx(0) and maps["e_aurc_patch_max"]["value"] > 0.1
    assert scores["samples"]["ranks"] == [0, 5, 0] and scores["samples"]["interval_90"]["value"] == 0.5
    assert "raters" not in scores["samples"] and 0.05 < scores["ece_floor"] < 0.5


def test_cost_leaves_the_first_case_out():
    costs = cost.folder_costs([a_record(0, seconds) for seconds in (50, 1, 2, 3)])
    assert costs["p50"] == 11 and costs["p95"] == pytest.approx(11.9) and costs["rho"] == 4
    assert costs["memory_bytes"] == {"process_peak": 50}
    assert cost.quantiles([5.0]) == {"p50": 5.0, "p95": 5.0}
    rows = [{"rows": {"adapted-5": {"seconds": 3.0}, "independent-pixels": {"seconds": 0.5}}}] * 2
    costs = cost.row_costs(rows, {"adapted-5": (1, 256), "independent-pixels": (1, 0)})
    assert costs["adapted-5"] == {"encoder_passes": 1, "denoiser_passes": 256, "p50": 3.0, "p95": 3.0, "rho": 6.0}
