"""Tasks with a known answer: the exact sampler passes, wrong samplers and an untrained model do not."""

import json
import math

import numpy as np
import pytest
import torch

from diffusion_segmentation import metrics
from diffusion_segmentation.diffusion.process import LOG_SNR_MAX, LOG_SNR_MIN
from diffusion_segmentation.errors import InputError
from diffusion_segmentation.evaluation import evaluate, pooling
from diffusion_segmentation.evaluation.known_answer import posterior, samplers
from diffusion_segmentation.evaluation.known_answer import run as known
from diffusion_segmentation.evaluation.known_answer import scores as known_scores
from diffusion_segmentation.evaluation.known_answer.samplers import (
    CONTROLS,
    EXACT,
    Prediction,
    Steps,
    independent_pixels,
    mean_squared,
)
from diffusion_segmentation.evaluation.report import figures
from diffusion_segmentation.evaluation.store import CaseStore
from diffusion_segmentation.model.building import build
from diffusion_segmentation.model.folder import load, save
from diffusion_segmentation.phantoms import phantom

SAMPLES = 64


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(pooling, "RESAMPLES", 40)


def exact_rows(task, draw_case):
    """Predictions of a sampler with the exact law, and controls made of the exact marginals."""

    def respond(image, index):
        case, rng = draw_case(index), np.random.default_rng([7, index])
        assert np.array_equal(case.image, image)
        masks, p = case.sample(rng, SAMPLES), case.marginals
        return {
            "adapted-10": Prediction(samplers.votes(masks, case.classes), masks, seconds=0.1),
            "independent-pixels": Prediction(p, independent_pixels(p, SAMPLES, rng), seconds=0.01),
            "one-step": Prediction(p, np.repeat(p.argmax(0)[None].astype(np.uint8), SAMPLES, 0)),
            "mean-squared": Prediction(mean_squared(masks, case.classes)),
        }

    return respond


def evaluated(text, cases, folder):
    task = phantom(text)
    respond = exact_rows(task, lambda index: task.draw(np.random.default_rng([0, index, known.DRAW_CASE])))
    return list(known.evaluate_known(task, respond, cases, SAMPLES, 0, CaseStore(folder, {})).values())


@pytest.fixture(scope="module")
def lesions(tmp_path_factory):
    return evaluated("lesions:24x24", 20, tmp_path_factory.mktemp("lesions"))


def test_the_exact_law_passes_and_every_wrong_sampler_fails(lesions):
    rows = known_scores.summarise(lesions)
    assert rows["adapted-10"]["failures"] == [] and rows[EXACT]["failures"] == []
    assert known_scores.blind_controls(rows) == []
    failed = {key: {name for name, gate in rows[key]["gates"].items() if not gate["passed"]} for key in CONTROLS}
    assert failed["independent-pixels"] == {"volume_variance_ratio", "ged_u", "chimera_share", "coverage"}
    assert failed["one-step"] == {"volume_variance_ratio", "probability_rmse", "ged_u", "coverage"}
    assert failed["mean-squared"] == set(rows["mean-squared"]["gates"]) == {"probability_rmse"}


def test_scores_of_the_exact_law_are_what_they_should_be(lesions):
    rows, ideal = known_scores.summarise(lesions), known_scores.ideal(lesions)
    exact, certain = rows[EXACT]["scores"], rows["independent-pixels"]["scores"]
    assert exact["brier"]["value"] == pytest.approx(ideal["brier"]["value"], abs=0.01)
    assert exact["ged_v"]["value"] == pytest.approx(exact["ged_floor"]["value"], abs=0.004)
    assert abs(exact["ged_u"]["value"]) < 0.004 and exact["strays"]["value"] == 0
    assert exact["entropy_correlation"]["value"] > 0.98
    assert exact["pit_50"]["value"] == pytest.approx(0.5, abs=0.06)
    # Exact probabilities have no error of calibration and the exact ranking, whatever the masks beside them are.
    assert certain["ece"]["value"] < 1e-9 and certain["entropy_correlation"]["value"] == pytest.approx(1)
    assert certain["e_aurc_patch_max"]["value"] == pytest.approx(ideal["e_aurc_patch_max"]["value"])
    np.testing.assert_allclose(np.sum(rows[EXACT]["ranks"]), 1)


def test_a_verdict_is_certain_if_its_interval_lies_on_one_side():
    certain = known_scores._verdict("ged_u", {"value": 0.0, "low": -0.01, "high": 0.005})
    uncertain = known_scores._verdict("ged_u", {"value": 0.008, "low": 0.0, "high": 0.02})
    single = known_scores._verdict("ged_u", {"value": 0.008, "low": None, "high": None})
    wrong = known_scores._verdict("ged_u", {"value": 0.3, "low": 0.2, "high": 0.4})
    assert (certain, uncertain, single, wrong) == (
        {"passed": True, "decided": True},
        {"passed": True, "decided": False},
        {"passed": True, "decided": False},
        {"passed": False, "decided": True},
    )


@pytest.mark.parametrize(("text", "by_rank"), [("boundary:16x16", False), ("probit:16x16", False)])
def test_volumes_with_many_values_are_judged_by_intervals(text, by_rank, tmp_path):
    records = evaluated(text, 8, tmp_path)
    assert known_scores.covers_by_rank(records) == by_rank
    coverage, ged = known_scores.notes(64, records)
    assert "8 samples, 8 intervals per case" in coverage and ("64 exact samples" in ged) == text.startswith("probit")
    rows = known_scores.summarise(records)
    assert rows["adapted-10"]["scores"]["coverage"] == rows["adapted-10"]["scores"]["interval_90"]
    assert 0.85 < rows["adapted-10"]["scores"]["interval_90"]["value"] < 0.95
    assert rows["independent-pixels"]["scores"]["interval_90"]["value"] < 0.7
    assert set(CONTROLS) <= {key for key, row in rows.items() if row["failures"]}


def test_volumes_with_few_values_are_judged_by_ranks(lesions):
    assert known_scores.covers_by_rank(lesions)
    assert (
        "randomised rank" in known_scores.notes(64, lesions)[0]
        and "the exact posterior" in known_scores.notes(64, lesions)[1]
    )
    scores = known_scores.summarise(lesions)[EXACT]["scores"]
    assert scores["coverage"] != scores["interval_90"] and scores["coverage"]["value"] == pytest.approx(0.9, abs=0.02)


def test_intervals_and_ranks_by_hand():
    volumes = np.tile(np.array([[10.0], [20.0]]), (8, 1))  # two groups of eight: 10, 20, 10, 20, ...
    true = np.array([[15.0], [10.0], [99.0]])
    result = posterior._intervals(volumes, true)
    low, high = metrics.predictive_interval(volumes[:8, 0], 0.9)
    assert low < 10 and high > 20 and result["90"] == [pytest.approx(2 / 3)]
    ranks = posterior._ranks(volumes, true, np.random.default_rng(0))
    shares = np.array(ranks["ranks"][0])
    assert shares[8] == pytest.approx(1 / 3) and shares[4] >= 1 / 3, "above all, and in the middle"
    assert shares[:5].sum() == pytest.approx(2 / 3)


def test_error_counts_open_voxels_and_takes_the_samples_noise_off(tmp_path):
    task = phantom("boundary:16x16")
    case = task.draw(np.random.default_rng(3))
    truth = posterior.Truth(case, np.random.default_rng(4))
    result = [
        posterior.score_case(
            truth, Prediction(case.marginals, case.sample(np.random.default_rng(n), 8)), np.random.default_rng(n)
        )
        for n in range(60)
    ]
    error, noise = (np.mean([one[name] for one in result]) for name in ("squared_error", "noise"))
    assert noise == pytest.approx(error, rel=0.15), "an exact sampler's error is nothing but noise"
    masks = case.sample(np.random.default_rng(5), 8)
    one = posterior.score_case(truth, Prediction(case.marginals, masks), np.random.default_rng(0))
    votes = masks.mean(0)[truth.open[0]]
    assert one["noise"] == pytest.approx((votes * (1 - votes)).sum() / 7)
    assert one["volume_variance"] == [pytest.approx(masks.sum((1, 2)).var(ddof=1))]
    exact = posterior.score_case(truth, Prediction(case.marginals), np.random.default_rng(0))
    assert exact["squared_error"] == 0 and exact["noise"] == 0 and "ged_u" not in exact
    assert exact["risk"] == pytest.approx(truth.record()["risk"])


def test_independent_pixels_keep_the_marginals_and_fusion_squares_them():
    p = np.stack([np.full((4, 4), 0.5), np.full((4, 4), 0.3), np.full((4, 4), 0.2)])
    masks = independent_pixels(p, 4000, np.random.default_rng(0))
    np.testing.assert_allclose(samplers.votes(masks, 3), p, atol=0.04)
    half = np.array([[[1, 0]], [[1, 2]]], np.uint8)
    np.testing.assert_allclose(mean_squared(half, 3)[:, 0], [[0, 0.75], [1, 0], [0, 0.25]])


@pytest.mark.parametrize("text", ["1", "0", "uniform:1", "cosine:5", "5.5", "uniform", ""])
def test_invalid_steps_are_refused(text):
    with pytest.raises(InputError, match="steps"):
        Steps.read(text)


@pytest.fixture
def untrained(a_model_folder, tmp_path):
    """A 2-D model for `lesions` with random weights."""
    metadata = json.loads((a_model_folder / "metadata.json").read_text(encoding="utf-8"))
    section = metadata["diffusion_segmentation"]
    section["network"] |= {"dims": 2, "encoder": {"channels": [8, 8], "blocks": [1, 1]}}
    section |= {"window": [16, 16], "name": "untrained <b>", "title": "Untrained <b>"}
    torch.manual_seed(0)
    networks = build(section["network"], 3)
    torch.nn.init.normal_(networks[1].head.weight, std=0.5)
    save(tmp_path / "model", metadata, *networks)
    return tmp_path / "model"


def test_uniform_steps_are_uniform_and_leave_the_last_share(untrained):
    grid = Steps.read("uniform:4").grid(load(untrained))
    np.testing.assert_allclose(np.diff(grid), (LOG_SNR_MAX - LOG_SNR_MIN) / 4)
    assert grid[0] == LOG_SNR_MIN and Steps.read("4").grid(load(untrained))[0] == LOG_SNR_MIN
    assert Steps.read("uniform:4").title == "4 uniform steps" and Steps.read("7").key == "adapted-7"


@pytest.mark.slow
def test_an_untrained_model_fails_from_command_to_page(untrained, tmp_path, monkeypatch):
    request = evaluate.EvaluationRequest(
        str(untrained), "lesions:16x16", tmp_path / "out", 8, ("2", "uniform:3"), 3, device="cpu"
    )
    monkeypatch.setattr(figures, "DPI", 30)
    result = evaluate.evaluate(request)
    assert result == json.loads((tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8"))
    assert list(result["rows"]) == ["adapted-2", "uniform-3", *CONTROLS, EXACT]
    assert all(result["rows"][key]["failures"] for key in ("adapted-2", "uniform-3", *CONTROLS))
    assert (
        result["cost"]["rows"]["uniform-3"]["denoiser_passes"] == 16 and result["cost"]["rows"]["uniform-3"]["rho"] > 0
    )
    page = (tmp_path / "out" / "evaluation.html").read_text(encoding="utf-8")
    assert "Untrained &lt;b&gt;" in page and "<b>" not in page
    assert len((tmp_path / "out" / "cases.csv").read_text(encoding="utf-8").splitlines()) == 1 + 3 * 6 * 2

    def no_more(*_):
        raise AssertionError("all cases are kept")

    monkeypatch.setattr(samplers, "draw", no_more)
    monkeypatch.setattr(evaluate, "write_page", lambda *_: None)
    assert evaluate.evaluate(request)["rows"] == result["rows"]
    with pytest.raises(AssertionError, match="kept"):
        evaluate.evaluate(evaluate.EvaluationRequest(**{**vars(request), "seed": 1}))


@pytest.mark.slow
def test_a_model_that_cannot_start_from_noise_is_judged_from_its_own_start_alone(untrained, tmp_path, monkeypatch):
    model = load(untrained)
    covariance = {"scales_mm": [3.0], "weights": [[0.9]] * 3, "shared": [0.1] * 3}
    model.section["process"]["lowest_log_snr"] = -2.0
    model.section["start"] = {"covariance": covariance, "log_snr": -2.0}
    save(tmp_path / "started", model.metadata, model.encoder, model.denoiser)
    monkeypatch.setattr(figures, "DPI", 30)
    steps = ("2", "uniform:3")
    request = evaluate.EvaluationRequest(
        str(tmp_path / "started"), "lesions:16x16", tmp_path / "out", 8, steps, 3, device="cpu"
    )
    result = evaluate.evaluate(request)
    assert list(result["rows"]) == [samplers.FITTED, *CONTROLS, EXACT]
    text = evaluate.text(result, request.output)
    assert "Fitted start" in text and "No samples were drawn with 2 adapted steps, 3 uniform steps: step grids" in text
    assert "fitted start" in (tmp_path / "out" / "evaluation.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("task", "samples", "words"),
    [
        ("lesions:16x16", 4, "8 samples"),
        ("lesions:16x16x16", 8, "2 axes"),
        ("boundary:16x16", 8, "same structures"),
        ("lesions:18x18", 8, "multiple of 4"),
        ("lesions:2x2", 8, "phantom has"),
        ("nowhere", 8, "neither a folder of labelled images"),
    ],
)
def test_incompatible_task_and_model_are_refused_in_one_sentence(untrained, tmp_path, task, samples, words):
    with pytest.raises(InputError, match=words):
        evaluate.evaluate(evaluate.EvaluationRequest(str(untrained), task, tmp_path, samples, device="cpu"))


def test_in_space_the_picture_is_the_most_uncertain_slice(tmp_path):
    task, store = phantom("boundary:16x16x16"), CaseStore(tmp_path, {})
    p = np.full((2, 16, 16, 16), [[[[0.0]]], [[[1.0]]]])
    p[:, 5] = 0.5

    def respond(image, index):
        return {"adapted-2": Prediction(p, case.sample(np.random.default_rng(0), 8))}

    case = task.draw(np.random.default_rng([0, 0, known.DRAW_CASE]))
    records = known.evaluate_known(task, respond, 1, 8, 0, store)
    picture = store.picture("case 1")
    np.testing.assert_array_equal(picture["image"], case.image[5].astype(np.float16))
    assert picture["entropy"].min() == 1 and picture["samples"].shape == (2, 16, 16)
    assert figures.case_strip(picture, "truth").startswith(b"\x89PNG")
    rows = known_scores.summarise(list(records.values()))
    assert rows["adapted-2"]["gates"]["ged_u"]["decided"] is False, "one case decides nothing"


def test_cases_depend_on_the_seed_and_not_on_each_other(tmp_path):
    task = phantom("boundary:16x16")
    seen = {}

    def respond(image, index):
        seen[len(seen)] = image
        return {"adapted-2": Prediction(np.full((2, 16, 16), 0.5))}

    for cases, seed, folder in ((3, 0, "a"), (1, 0, "b"), (1, 1, "c")):
        known.evaluate_known(task, respond, cases, 8, seed, CaseStore(tmp_path / folder, {}))
    assert np.array_equal(seen[0], seen[3]) and not np.array_equal(seen[0], seen[4])
    assert not np.array_equal(seen[0], seen[1]) and math.isfinite(seen[2].sum())
