"""`calibrate --intervals`: temperature and interval factors from one's own cases, in the model and in its results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from diffusion_segmentation import cli
from diffusion_segmentation.calibration import calibrate, own_cases
from diffusion_segmentation.calibration.temperature import fit_temperature, log_score
from diffusion_segmentation.errors import InputError, ModelError
from diffusion_segmentation.images.dataset import Case, Dataset
from diffusion_segmentation.images.input_names import ONE_INPUT
from diffusion_segmentation.metrics.conformal import fit_scaling
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.model.building import build
from diffusion_segmentation.networks import InputDistance
from diffusion_segmentation.phantoms import phantom
from diffusion_segmentation.segmentation.own_cases import OwnCases, tempered
from diffusion_segmentation.segmentation.pipeline import Request, segment
from diffusion_segmentation.training.sources import Phantoms

CASES = 24
SCALES = {"factor50": 1.2, "factor90": 1.6, "floor50": 0.02, "floor90": 0.05}
ENTRY = {
    "data": {"kind": "folder", "name": "Clinic"},
    "cases": [f"case{n}" for n in range(CASES)],
    "samples": 8,
    "steps": 3,
    "temperature": 1.5,
    "structures": [SCALES | {"label": 1, "cases": 24, "held50": 13, "held90": 22}],
}
NAMES = ["background", "ventricles"]
LIKE, UNLIKE = (InputDistance(distance, 3.0, "features", 1) for distance in (1.0, 9.0))


def small_model(folder: Path, shape: str = "32x32", **section: Any) -> Path:
    """A model with random weights for the phantom `boundary` of a shape."""
    import torch

    settings = Phantoms(f"boundary:{shape}").settings()
    entries = settings["diffusion_segmentation"]
    entries["network"] |= {
        "encoder": {"channels": [8, 8], "blocks": [1, 1]},
        "denoiser": {"channels": [8, 8], "blocks": 1},
    }
    entries["process"]["loss_curve"] = {"log_snr": [-11.0, -3.0, 1.0, 7.0], "cross_entropy": [0.9, 0.8, 0.1, 0.0]}
    entries |= {"steps": {"cpu": 2, "gpu": 2}, "intensity": None, **section}
    torch.manual_seed(0)
    encoder, denoiser = build(entries["network"], 2)
    with torch.no_grad():
        for parameter in (*encoder.parameters(), *denoiser.parameters()):
            parameter.add_(0.1 * torch.randn_like(parameter))
    metadata = {"version": "0", **settings["bundle"], "diffusion_segmentation": entries}
    models.save(folder, metadata, encoder, denoiser)
    return folder


def clinic(folder: Path, shape: str = "32x32", count: int = CASES) -> Path:
    """A data set of images of the phantom, with one mask of each as its labels."""
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for n in range(count):
        rng = np.random.default_rng([n, 5])
        case = phantom(f"boundary:{shape}").draw(rng)
        for part, array, end in (("imagesTr", case.image, "_0000"), ("labelsTr", case.sample(rng, 1)[0], "")):
            image = sitk.GetImageFromArray(array if array.ndim == 3 else array[None])
            sitk.WriteImage(image, folder / part / f"case{n:02d}{end}.nii.gz")
    listing = {"name": "Clinic", "channel_names": {"0": "Image"}, "labels": {"background": 0, "object": 1}}
    (folder / "dataset.json").write_text(json.dumps(listing), encoding="utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["32x32", "16x16x16"])
def test_factors_are_those_of_the_intervals_of_segment(tmp_path, shape):
    model, data = small_model(tmp_path / "model", shape), clinic(tmp_path / "data", shape)
    result = calibrate.calibrate(str(model), str(data), tmp_path / "own", device="cpu", intervals=True)
    written = json.loads((tmp_path / "own" / "calibration.json").read_text(encoding="utf-8"))
    assert written == result and "90 % of new cases" in calibrate.text(result, tmp_path / "own")
    calibrated = models.load(tmp_path / "own")
    entry, before = calibrated.section["own_cases"], models.load(model).section
    assert {key: calibrated.section[key] for key in before if key != "sha256"} == {
        key: before[key] for key in before if key != "sha256"
    }
    assert entry["cases"] == [f"case{n:02d}" for n in range(CASES)] and entry["samples"] == 8
    assert result["scans"] == CASES, "the input check compares with these cases"

    samples, truth = [], []
    for n in range(CASES):
        request = Request(data / "imagesTr" / f"case{n:02d}_0000.nii.gz", tmp_path / f"{n}", str(model), device="cpu")
        report = segment(request).report
        samples.append(report["volumes"][0][f"samples_{report['unit']}"])
        labels = sitk.GetArrayFromImage(sitk.ReadImage(data / "labelsTr" / f"case{n:02d}.nii.gz"))
        truth.append(labels.sum() * (1e-3 if report["unit"] == "ml" else 1.0))
    factor, scaling = entry["structures"][0]["factor90"], fit_scaling(np.array(samples), np.array(truth), 0.9)
    assert factor == pytest.approx(scaling.factor, rel=1e-3)
    assert entry["structures"][0]["floor90"] == pytest.approx(scaling.floor, rel=1e-3)

    again = segment(Request(request.volume, tmp_path / "again", str(tmp_path / "own"), device="cpu")).report
    unit, volume, raw = report["unit"], again["volumes"][0], report["volumes"][0]
    assert volume[f"samples_{unit}"] == raw[f"samples_{unit}"], "samples are not changed"
    size = labels.size * (1e-3 if unit == "ml" else 1.0)  # no interval ends beyond that of the image
    expected = [min(bound, size) for bound in scaling.interval(np.array(samples[-1]))]
    assert volume[f"interval90_{unit}"] == pytest.approx(expected, rel=1e-2)
    assert volume[f"interval90_{unit}"] != raw[f"interval90_{unit}"]
    assert volume["interval90_factor"] == factor and again["own_cases"]["cases"] == CASES
    assert again["own_cases"]["checked"] is not again["input"]["unlike_training"]
    assert not any("not fitted" in warning for warning in again["warnings"])
    scans = calibrate.calibrate(str(tmp_path / "own"), str(data), tmp_path / "scans", device="cpu", scans_only=True)
    assert scans["scans"] > 0 and "own_cases" not in models.load(tmp_path / "scans").section


def test_the_sentence_counts_cases_and_is_withheld_for_another_scan_or_other_samples():
    own = OwnCases(ENTRY)
    stated = own.report(NAMES, 8, 3, LIKE)["own_cases"]
    assert (
        stated["checked"] and stated["sentence"] == "Checked on 24 labelled cases of Clinic: 90 % intervals held in 22."
    )
    for samples, steps, distance, reason in (
        (8, 3, UNLIKE, "the scan is unlike those cases"),
        (4, 3, LIKE, "this run has 4 samples and the check had 8"),
        (8, 5, LIKE, "this run has 5 steps and the check had 3"),
    ):
        stated = own.report(NAMES, samples, steps, distance)["own_cases"]
        assert not stated["checked"] and "held in" not in stated["sentence"] and reason in stated["sentence"]
    stated = own.report(NAMES, 8, 3, LIKE, updated=True)["own_cases"]
    assert not stated["checked"] and stated["sentence"].endswith(
        "not hold here: these samples were drawn given corrections."
    )
    assert "it is assumed that this scan is like those cases" in own.report(NAMES, 8, 3, None)["own_cases"]["sentence"]
    assert OwnCases().report(NAMES, 8, 3, LIKE) == {}


@pytest.mark.parametrize("rows", [ENTRY["structures"], [{"label": 1, "cases": 3}]], ids=["factors", "too-few"])
def test_intervals_that_got_no_factors_are_still_said_not_to_be_fitted(tmp_path, rows):
    model = small_model(tmp_path / "model", own_cases=ENTRY | {"structures": rows})
    image = sitk.GetImageFromArray(np.random.default_rng(0).random((1, 32, 32), np.float32))
    sitk.WriteImage(image, tmp_path / "scan.nrrd")
    report = segment(Request(tmp_path / "scan.nrrd", tmp_path / "result", str(model), samples=2, device="cpu")).report
    assert any("not fitted" in warning for warning in report["warnings"]) is (rows is not ENTRY["structures"])


def test_structures_are_named_where_their_counts_differ():
    rows = [ENTRY["structures"][0] | {"label": n, "held90": 20 + n} for n in (1, 2, 3, 4)]
    names = ["background", "a", "b", "c", "d"]

    def sentence(rows):
        return OwnCases(ENTRY | {"structures": rows}).report(names, 8, 3, LIKE)["own_cases"]["sentence"]

    assert sentence(rows[:2]).endswith("held in 21 of 24 (a), 22 of 24 (b).")
    assert sentence(rows).endswith("held in 88 to 100 % of them, depending on the structure.")
    none = sentence([{"label": 1, "cases": 3}])
    assert "too few" in none and "held" not in none


def test_a_structure_that_no_sample_has_keeps_its_interval():
    own, absent, present = OwnCases(ENTRY), np.zeros(8), np.arange(8.0)
    assert own.interval(1, absent, 90) == (0, 0) and own.volume_entries(1, absent, True) == {}
    assert own.interval(1, present, 90)[1] > OwnCases().interval(1, present, 90)[1]
    entries = own.volume_entries(1, present, checked=True)
    assert entries["interval90_factor"] == 1.6 and (entries["held90"], entries["held_of"]) == (22, 24)
    assert "held90" not in own.volume_entries(1, present, checked=False)


def test_factors_of_a_structure_need_twenty_cases_in_which_a_sample_has_it():
    rng = np.random.default_rng(0)
    samples = rng.uniform(1, 2, (30, 8))
    samples[:11] = 0
    truth = np.where(np.arange(30) < 10, 0, 1.5)
    row = own_cases.structure(samples, truth)
    assert row == {"cases": 19, "absent": 11, "absent_right": 10}
    row = own_cases.structure(samples[10:], truth[10:] * 10)
    assert "factor90" not in row
    row = own_cases.structure(np.concatenate([samples, samples[11:]]), np.concatenate([truth, truth[11:] * 10]))
    assert row["cases"] == 38 and row["factor90"] > 5 and row["raw90"] == 19


def overconfident(count, power, seed=0):
    """Probabilities [2, n] that are too sure if `power` > 1, with their labels, for each case."""
    rng, cases = np.random.default_rng(seed), []
    for _ in range(count):
        p = rng.uniform(0.02, 0.98, 500)
        labels = (rng.random(500) < p).astype(np.uint8)
        cases.append((tempered(np.stack([1 - p, p]), 1 / power), labels))
    return cases


def test_the_temperature_of_too_sure_probabilities_is_found_and_of_right_ones_is_near_one():
    sure = fit_temperature(overconfident(24, 2.0))
    assert sure.value == pytest.approx(2, rel=0.05) and sure.after < sure.before
    assert fit_temperature(overconfident(24, 1.0)).value == pytest.approx(1, abs=0.05)
    half = log_score(overconfident(24, 2.0)[:12], 2.0)
    assert half < log_score(overconfident(24, 2.0)[:12], 1.0)


def test_a_temperature_that_does_not_help_other_cases_is_not_taken():
    one, other = overconfident(12, 2.0), overconfident(12, 0.5)
    assert fit_temperature([*one, *other]).value == 1.0


def test_tempered_probabilities_sum_to_one_and_keep_the_order():
    p = np.random.default_rng(0).dirichlet([0.3] * 4, (5, 6)).astype(np.float32).transpose(2, 0, 1)
    flat = tempered(p, 3.0)
    np.testing.assert_allclose(flat.sum(0), 1, rtol=1e-5)
    assert (flat.argmax(0) == p.argmax(0)).all() and (flat.max(0) <= p.max(0) + 1e-6).all()
    assert tempered(p, 1.0) is p


def test_cases_of_training_and_of_the_spread_are_left_out():
    dataset = Dataset("Clinic", ONE_INPUT, ("MRI",), ("ball",), tuple(Case(name, (), ()) for name in "gfedcba"), ())
    section = {
        "training": {"data": {"kind": "folder", "name": "Clinic", "cases": ["a"]}},
        "calibration": {"data": {"name": "Clinic"}, "cases": ["b", "c"]},
    }
    assert [case.name for case in own_cases.unseen_cases(dataset, section, None)] == list("defg")
    assert [case.name for case in own_cases.unseen_cases(dataset, section, None, 2)] == list("de")
    folds = {"training": {"data": {"folds": {"0": ["d"], "1": ["d", "e"]}}}}
    assert [case.name for case in own_cases.unseen_cases(dataset, section, folds)] == list("fg")
    by_splits = section | {"frozen": {"trained": {"0": ["d"], "1": ["f"]}}}  # given to `train`, before the model's
    assert [case.name for case in own_cases.unseen_cases(dataset, by_splits, folds)] == list("eg")
    section["calibration"]["data"]["name"] = "Other"
    assert len(own_cases.unseen_cases(dataset, section, None)) == 6


def test_too_few_cases_and_data_of_another_kind_are_refused(tmp_path):
    model = small_model(tmp_path / "model")
    with pytest.raises(InputError, match=r"calibrated on 19 cases .* 20 or more are needed, because"):
        calibrate.calibrate(str(model), str(clinic(tmp_path / "data", count=19)), tmp_path / "own", intervals=True)
    with pytest.raises(InputError, match="folder of labelled images"):
        calibrate.calibrate(str(model), "boundary:32x32", tmp_path / "own", intervals=True)
    assert not (tmp_path / "own" / "metadata.json").exists()


def test_cases_with_unlabelled_voxels_do_not_count(tmp_path):
    model, data = small_model(tmp_path / "model"), clinic(tmp_path / "data", count=20)
    listing = json.loads((data / "dataset.json").read_text(encoding="utf-8"))
    listing["labels"]["ignore"] = 2
    (data / "dataset.json").write_text(json.dumps(listing), encoding="utf-8")
    labels = sitk.ReadImage(data / "labelsTr" / "case03.nii.gz")
    labels[0, 0, 0] = 2
    sitk.WriteImage(labels, data / "labelsTr" / "case03.nii.gz")
    with pytest.raises(InputError, match="19 of these 20 cases .* labelled in every voxel"):
        calibrate.calibrate(str(model), str(data), tmp_path / "own", intervals=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", 0),
        ("temperature", "1"),
        ("samples", -1),
        ("cases", ["a\nb"]),
        ("data", {"name": ""}),
        ("structures", [ENTRY["structures"][0] | {"factor90": float("1e300")}]),
        ("structures", [ENTRY["structures"][0] | {"label": 2}]),
        ("structures", [ENTRY["structures"][0] | {"held90": 25}]),
        ("structures", [{"label": 1, "cases": 24, "factor90": 1.0}]),
        ("structures", [ENTRY["structures"][0] | {"floor50": None}]),
    ],
)
def test_a_wrong_entry_of_a_model_is_refused(tmp_path, key, value):
    folder = small_model(tmp_path / "model", own_cases=ENTRY)
    assert models.load(folder).section["own_cases"] == ENTRY
    metadata = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    metadata["diffusion_segmentation"]["own_cases"][key] = value
    (folder / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    with pytest.raises(ModelError, match="'own_cases'"):
        models.load(folder)


def test_options_exclude_each_other(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["calibrate", "m", "d", "--output", "o", "--intervals", "--scans-only"])
    assert ended.value.code == 2 and "--scans-only" in capsys.readouterr().err
