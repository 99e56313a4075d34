"""`evaluate` on synthetic heads, from priors to page, where the truth is a draw of the model's own copula."""

import json

import numpy as np
import pytest
from test_start import with_entries

from diffusion_segmentation.calibration import start
from diffusion_segmentation.diffusion.copula import Copula
from diffusion_segmentation.errors import InputError
from diffusion_segmentation.evaluation import evaluate, joint
from diffusion_segmentation.evaluation.report.formatting import number
from diffusion_segmentation.evaluation.report.text import joint_text
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.training import sources

COVARIANCE = {"scales_mm": [8.0, 24.0], "weights": [[0.6, 0.2]] * 3, "shared": [0.2] * 3}
SHAPE = (16, 16, 16)


@pytest.fixture(scope="module")
def a_fitted_folder(a_model_folder, tmp_path_factory):
    entry = {"covariance": COVARIANCE, "log_snr": None}
    return with_entries(a_model_folder, tmp_path_factory.mktemp("models") / "fitted", start=entry, map_prior=0)


@pytest.fixture
def drawn_heads(monkeypatch, a_fitted_folder):
    """Heads whose labels are a mask of the model's own copula: the model is a perfect sampler of them."""
    model = models.load(a_fitted_folder)

    def unseen(priors, window, count, seed, stream, spacing_mm):
        rng = np.random.default_rng(seed)
        for _ in range(count):
            image = rng.random(SHAPE, dtype=np.float32)
            p = start.labelled(model, image, np.zeros(SHAPE, np.uint8)).p
            yield image, Copula(model.start.covariance, p, model.spacing).draw(int(rng.integers(2**31)))

    monkeypatch.setattr(sources, "unseen_heads", unseen)
    # The tiny model has structures of its own.
    monkeypatch.setattr(evaluate, "require_fit", lambda model, source: None)


@pytest.mark.slow
def test_a_perfect_sampler_passes_from_priors_to_page(drawn_heads, a_fitted_folder, tmp_path):
    priors = tmp_path / "priors.npz"
    np.savez(priors)
    request = evaluate.EvaluationRequest(
        str(a_fitted_folder), str(priors), tmp_path / "scores", samples=12, cases=20, device="cpu"
    )
    result = evaluate.evaluate(request)
    assert json.loads((tmp_path / "scores" / "evaluation.json").read_text(encoding="utf-8")) == result
    measures = result["joint"]["measures"]
    outside = [name for name, one in measures.items() if one["value"] is not None and not one["inside"]]
    assert len(outside) <= 1, outside  # each of 13 is outside in one evaluation of a hundred
    assert measures["z_rms"]["value"] == pytest.approx(1, abs=0.35)
    text = evaluate.text(result, request.output)
    assert joint.titles()["dice_ratio"] in text and number(measures["z_rms"]["value"]) in text
    page = (tmp_path / "scores" / "evaluation.html").read_text(encoding="utf-8")
    assert "wrong sampler to detect" in page and "Structure 2" in page
    lines = (tmp_path / "scores" / "cases.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + 20 * 2 and lines[0].startswith("case,structure,true_ml,expected_ml")


@pytest.mark.slow
def test_finished_heads_are_kept(drawn_heads, a_fitted_folder, tmp_path, monkeypatch):
    priors = tmp_path / "priors.npz"
    np.savez(priors)
    request = evaluate.EvaluationRequest(
        str(a_fitted_folder), str(priors), tmp_path / "scores", samples=4, cases=3, device="cpu"
    )
    first = evaluate.evaluate(request)
    monkeypatch.setattr(joint, "joint_case", pytest.fail)
    assert evaluate.evaluate(request)["joint"] == first["joint"]


@pytest.mark.slow
def test_a_denoiser_that_only_adds_noise_is_worse_than_the_copula_that_it_starts_from(
    drawn_heads, a_fitted_folder, tmp_path
):
    """The network was never trained: to it voxels are independent, which those of the truth are not."""
    entry = {"covariance": COVARIANCE, "log_snr": -3.0}
    folder = with_entries(a_fitted_folder, tmp_path / "denoised", start=entry)
    priors = tmp_path / "priors.npz"
    np.savez(priors)
    request = evaluate.EvaluationRequest(
        str(folder), str(priors), tmp_path / "scores", samples=4, cases=12, device="cpu"
    )
    result = evaluate.evaluate(request)
    differences = result["joint"]["against_copula"]
    assert differences["energy_score"]["low"] > 0
    assert "energy score, samples minus copula alone" in evaluate.text(result, request.output)
    page = (tmp_path / "scores" / "evaluation.html").read_text(encoding="utf-8")
    assert "nergy score, samples minus copula alone" in page


def test_a_model_of_other_structures_or_another_grid_is_refused(a_fitted_folder, tmp_path):
    priors = tmp_path / "priors.npz"
    np.savez(priors)
    with pytest.raises(InputError, match="choose data of the same kind"):
        evaluate.evaluate(
            evaluate.EvaluationRequest(str(a_fitted_folder), str(priors), tmp_path / "scores", device="cpu")
        )


def test_blocks_of_the_map_halve_the_distance_between_samples():
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 2, (6, 16, 16, 16)).astype(np.uint8)
    chosen = np.zeros((16, 16, 16), np.uint8)
    mixed = joint.halve_spread(masks, chosen, (4, 4, 4), rng)
    apart = [np.mean([(of[a] != of[b]).mean() for a in range(6) for b in range(a)]) for of in (masks, mixed)]
    assert 0.3 < apart[1] / apart[0] < 0.85


def test_measures_without_a_value_are_a_dash():
    measure = dict.fromkeys(("value", "low", "high")) | {"inside": None}
    measure |= {f"{key}by_structure": [None] for key in ("", "low_", "high_")}
    result = {
        "n": 4,
        "structures": ["one"],
        "measures": dict.fromkeys(joint.titles(), measure),
        "controls": {
            row: dict.fromkeys(joint.titles())
            for row in (joint.INDEPENDENT, joint.HALVED, joint.REPEATED, joint.WIDENED)
        },
        "describe": {
            "interval_90_width_ml": [None],
            "correlation_truth": [None] * 4,
            "correlation_samples": [None] * 4,
            "specks_truth": 0.0,
            "specks_samples": 0.0,
            "one_sample_dice": None,
        },
        "map_dice": 1.0,
        "expected_dice": 1.0,
        "against_copula": None,
        "rank_correlation": None,
    }
    assert joint_text(result).count(" - ") >= 10
