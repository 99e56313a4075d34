"""`evaluate` on pictures, stacks of slices and several inputs: sizes are areas, distances lie in the plane."""

import csv
import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from test_pictures import bright_square, model_of_pictures

from diffusion_segmentation.calibration.start import labelled
from diffusion_segmentation.errors import InputError
from diffusion_segmentation.evaluation import evaluate, joint
from diffusion_segmentation.evaluation.dataset import cases
from diffusion_segmentation.evaluation.dataset.comparison import RunOutputs, score_map
from diffusion_segmentation.evaluation.report import formatting, text
from diffusion_segmentation.images.dataset import read_dataset
from diffusion_segmentation.metrics.joint import joint_record
from diffusion_segmentation.model.building import build
from diffusion_segmentation.model.folder import load, save
from diffusion_segmentation.runtime.units import Units
from diffusion_segmentation.training.sources import Phantoms

pytestmark = pytest.mark.usefixtures("quick_evaluation")

SQUARE = (slice(6, 16), slice(20, 34))  # rows and columns of `bright_square`, 140 pixels
ML, MM2, PX = Units("ml"), Units("mm2"), Units("px")


@pytest.fixture
def a_model(tmp_path, monkeypatch):
    """A model of colour pictures whose encoder finds bright pixels."""
    from diffusion_segmentation.networks import Encoder

    forward = model_of_pictures(tmp_path / "model")
    monkeypatch.setattr(Encoder, "forward", lambda self, image: forward(image))
    return tmp_path / "model"


def write(path, values, spacing=None, vector=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(values, isVector=vector)
    if spacing:
        image.SetSpacing(spacing)
    sitk.WriteImage(image, str(path))


def labels_of(shift=0):
    """The square as a rater marks it, moved along the rows by `shift` pixels."""
    labels = np.zeros((28, 40), np.uint8)
    labels[SQUARE] = 1
    return np.roll(labels, shift, axis=0)


def data_set(folder, count=2, spacing=None, depth=None, ignored=False):
    """Colour pictures, or stacks of `depth` of them; the second rater of the first case marks 2 pixels further down."""
    ending = ".nrrd" if spacing else ".png"
    for n in range(count):
        raters = {f"c{n}_rater1": 0, f"c{n}_rater2": 2} if n == 0 else {f"c{n}": 0}
        values = bright_square()
        write(
            folder / "imagesTr" / f"c{n}_0000{ending}",
            np.stack([values] * depth) if depth else values,
            spacing and spacing[: 3 if depth else 2],
            vector=True,
        )
        for name, shift in raters.items():
            labels = labels_of(shift)
            if ignored:
                labels[:, :6] = 2
            write(
                folder / "labelsTr" / f"{name}{ending}",
                np.stack([labels] * depth) if depth else labels,
                spacing and spacing[: 3 if depth else 2],
            )
    labels = {"background": 0, "bright": 1, **({"ignore": 2} if ignored else {})}
    listing = {"name": "Squares", "channel_names": {"0": "R", "1": "G", "2": "B"}, "labels": labels}
    (folder / "dataset.json").write_text(json.dumps(listing), encoding="utf-8")
    return folder


def evaluated(model, data, tmp_path, **options):
    request = evaluate.EvaluationRequest(str(model), str(data), tmp_path / "out", 3, ("2",), device="cpu", **options)
    return evaluate.evaluate(request)


def keys(entry):
    """All keys of nested objects and lists."""
    if isinstance(entry, dict):
        return set(entry).union(*map(keys, entry.values()))
    return set().union(*map(keys, entry)) if isinstance(entry, list) else set()


@pytest.mark.slow
def test_pictures_without_a_pixel_size_are_scored_in_pixels(a_model, tmp_path, monkeypatch):
    result = evaluated(a_model, data_set(tmp_path / "data"), tmp_path)
    assert result["unit"] == "px" and result["tolerance_px"] == 1.0
    assert not [key for key in keys(result) if key.endswith(("_ml", "_mm", "mm")) and "memory" not in key]
    (row,) = result["scores"]["maps"]["direct"]["by_class"]
    assert row["hd95_px"]["value"] == pytest.approx(0.5, abs=0.3), "0 for one case, about 1 for two raters 2 px apart"
    assert row["volume_error_px"]["value"] == pytest.approx(0)
    assert result["scores"]["samples"]["raters"]["m"] == [2]
    assert "crps_px" in result["joint"]["measures"] and "variogram_2px" in result["joint"]["measures"]
    with (tmp_path / "out" / "cases.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["reference_px"]) == 140 and "hd95_px" in rows[0] and "mean_of_samples_px" in rows[0]
    page = (tmp_path / "out" / "evaluation.html").read_text(encoding="utf-8")
    shown = page + evaluate.text(result, tmp_path / "out")
    assert "area error (px)" in page and "CRPS of the areas (px)" in page and "within 10 working pixels" in page
    assert not any(word in shown for word in ("(ml)", " ml", "voxel size", "within 10 mm", "wrong voxels"))
    assert page.count("data:image/png;base64,") == 5 + 2
    with np.load(next((tmp_path / "out" / "cases").glob("c1*.npz"))) as picture:
        assert picture["image"].shape == (28, 40, 3) and picture["truth"].sum() == 140
    monkeypatch.setattr(cases, "_segment", lambda *_: pytest.fail("all cases are kept"))
    assert evaluated(a_model, tmp_path / "data", tmp_path)["scores"] == result["scores"]


def records_of(model, data, tmp_path, units):
    dataset = read_dataset(data)
    settings, store = cases.Settings(str(model), 3, 2, 0, "cpu"), cases.CaseStore(tmp_path / "cases", {})
    records, skipped = cases.evaluate_cases(dataset.training[:1], dataset, [0, 1], settings, store, units)
    assert not skipped
    return records["c0"]


def test_pixels_with_a_size_are_scored_in_mm2_and_mm(a_model, tmp_path):
    data = data_set(tmp_path / "data", spacing=(0.5, 0.5))
    assert cases.units_of(read_dataset(data).training, "x") == MM2
    record = records_of(a_model, data, tmp_path, MM2)
    assert record["maps"]["direct"]["reference_mm2"] == [35.0] and record["samples"]["references_mm2"] == [[35.0]] * 2
    assert 0.2 <= record["maps"]["direct"]["hd95_mm"][0] <= 1, "2 pixels of 0.5 mm for one of two raters"
    joined = record["joint"]["rows"]["samples"]
    assert joined["voxel_mm2"] == 1.0 and joined["volumes_mm2"][0] == [pytest.approx(35, rel=0.1)]


def test_ignored_pixels_of_a_picture_do_not_count(a_model, tmp_path):
    data = data_set(tmp_path / "data", ignored=True)
    record = records_of(a_model, data, tmp_path, PX)
    assert np.sum(record["maps"]["direct"]["everywhere"][0]) == 2 * 28 * (40 - 6), "of both raters"


def test_a_stack_is_scored_as_a_volume_and_its_joint_samples_too(a_model, tmp_path):
    data = data_set(tmp_path / "data", spacing=(1.0, 1.0, 5.0), depth=3)
    assert cases.units_of(read_dataset(data).training, "x") == ML
    record = records_of(a_model, data, tmp_path, ML)
    assert record["maps"]["direct"]["reference_ml"] == [pytest.approx(3 * 140 * 5 / 1000)]
    joined = record["joint"]["rows"]["samples"]
    assert joined["voxel_ml"] == pytest.approx(0.005) and joined["volumes_ml"][0] == [pytest.approx(2.1)]


def test_distances_in_a_picture_lie_in_its_plane():
    """In three dimensions every pixel of the only slice is at the surface, and the 95th percentile is that of areas."""
    maps = [np.pad(np.ones((20 + n, 20), np.uint8), ((9, 15 - n), (9, 11))) for n in (0, 4)]
    p = [np.where(maps[0] == c, np.uint8(255), np.uint8(0)) for c in range(2)]
    outputs = RunOutputs(
        maps[0][None], np.zeros((1, *maps[0].shape), np.float32), [a[None] for a in p], [maps[0][None]]
    )
    flat = score_map(outputs.of_slice(0), [maps[1]], (0.25, 0.25), 0.25, units=MM2)
    assert flat["hd95_mm"] == [1.0] and flat["volume_error_mm2"] == [-80 * 0.25**2]
    pixels = score_map(outputs.of_slice(0), [maps[1]], (1.0, 1.0), 1.0, units=PX)
    assert pixels["hd95_px"] == [4.0] and pixels["near"] == flat["near"], "near is 10 pixels, whatever their size"


def test_sizes_of_different_units_are_refused_before_anything_is_written(a_model, tmp_path):
    data = data_set(tmp_path / "data")
    image = sitk.ReadImage(str(data / "imagesTr" / "c1_0000.png"))
    image.SetSpacing((0.5, 0.5))
    sitk.WriteImage(image, str(data / "imagesTr" / "c1_0000.nrrd"))
    (data / "imagesTr" / "c1_0000.png").unlink()
    with pytest.raises(InputError, match=r"different units: px \(c0\), mm² \(c1\); evaluate pictures"):
        evaluated(a_model, data, tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_volume_model_has_no_use_for_pictures(a_model_folder, tmp_path):
    data = data_set(tmp_path / "data")
    listing = json.loads((data / "dataset.json").read_text(encoding="utf-8"))
    listing["labels"] = {"background": 0, "structure 1": 1, "structure 2": 2}
    (data / "dataset.json").write_text(json.dumps(listing))
    with pytest.raises(InputError, match="None of the 2 cases can be used; the first: "):
        evaluated(a_model_folder, data, tmp_path)


def test_lags_of_pictures_are_pixels_of_the_working_grid():
    rng = np.random.default_rng(0)
    p = np.stack([np.full((32, 32), 0.5)] * 2)
    masks = (rng.random((5, 32, 32)) < 0.5).astype(np.uint8)
    small = joint_record(masks[0], masks[1:], p, masks[0], (0.004, 0.004), unit="mm2")
    pixels = joint_record(masks[0], masks[1:], p, masks[0], (1.0, 1.0), unit="px")
    assert small["products"] == pixels["products"] and np.min(small["scale"]) > 0
    assert small["voxel_mm2"] == pytest.approx(1.6e-5) and pixels["voxel_px"] == 1


def test_areas_of_micrometres_keep_their_digits():
    evaluation = {"unit": "mm2", "tolerance_mm": 0.004}
    scores = formatting.class_scores(MM2, formatting.finer_digits(evaluation))
    assert scores["hd95_mm"] == ("HD95 (mm)", 4) and scores["volume_error_mm2"] == ("area error (mm²)", 8)
    assert formatting.finer_digits({"unit": "px", "tolerance_px": 0.5}) == 0 == formatting.finer_digits({})


@pytest.mark.slow
def test_slices_of_a_stack_have_samples_of_their_own(tmp_path):
    model_of_pictures(tmp_path / "model", inputs=[{"name": "Grey"}])
    model = load(tmp_path / "model")
    plane = np.random.default_rng(0).random((1, 1, 24, 32), np.float32)
    truth = np.zeros((2, 24, 32), np.uint8)
    case = labelled(model, np.concatenate([plane, plane], 1), truth)
    assert case.p.shape == (2, 2, 24, 32)
    np.testing.assert_array_equal(case.p[:, 0], case.p[:, 1])
    record = joint.joint_case(model, case, 3, 0, (5.0, 1.0, 1.0))
    assert record["rows"]["samples"]["voxel_ml"] == pytest.approx(0.005)
    assert "90 % intervals by structure (px)" in text.joint_text(
        joint.summarise(
            [joint.joint_case(model, labelled(model, plane[:, 0], truth[0]), 3, 0, units=PX)], ["Grey"], PX
        ),
        PX,
    )


@pytest.mark.slow
def test_volumes_of_two_inputs_are_scored_with_both(tmp_path):
    settings = Phantoms("split:16x16x16").settings()
    section = settings["diffusion_segmentation"]
    torch.manual_seed(0)
    encoder, denoiser = build(section["network"], 2)
    torch.nn.init.normal_(encoder.head.weight, std=1.0)
    curve = {"log_snr": [-12.0, 8.0], "cross_entropy": [1.0, 0.0]}
    section |= {"sha256": "", "process": {"input_scale": 0.5, "loss_curve": curve}}
    save(tmp_path / "model", {**settings["bundle"], "diffusion_segmentation": section}, encoder, denoiser)
    rng, data = np.random.default_rng(0), tmp_path / "data"
    labels = np.zeros((16, 16, 16), np.uint8)
    labels[4:12, 4:12, 4:12] = 1
    for n in range(2):
        for channel in range(2):
            values = (rng.normal(100, 20, labels.shape) + 50 * labels).astype(np.float32)
            write(data / "imagesTr" / f"c{n}_000{channel}.nrrd", values, (1.0, 1.0, 1.0))
        write(data / "labelsTr" / f"c{n}.nrrd", labels, (1.0, 1.0, 1.0))
    listing = {"name": "Two", "channel_names": {"0": "First", "1": "Second"}}
    (data / "dataset.json").write_text(json.dumps(listing | {"labels": {"background": 0, "object": 1}}))
    assert cases.units_of(read_dataset(data).training, "x") == ML
    before = records_of(tmp_path / "model", data, tmp_path, ML)
    assert before["maps"]["direct"]["reference_ml"] == [pytest.approx(0.512)]
    (data / "imagesTr" / "c1_0001.nrrd").replace(data / "imagesTr" / "c0_0001.nrrd")
    write(data / "imagesTr" / "c1_0001.nrrd", labels.astype(np.float32))
    after = records_of(tmp_path / "model", data, tmp_path, ML)
    assert after["maps"] != before["maps"] and after["joint"] != before["joint"]
    with pytest.raises(InputError, match="The model has the inputs First, Second and the data set 'Two' Second, First"):
        listing["channel_names"] = {"0": "Second", "1": "First"}
        (data / "dataset.json").write_text(json.dumps(listing | {"labels": {"background": 0, "object": 1}}))
        evaluated(tmp_path / "model", data, tmp_path)
    assert not (tmp_path / "out").exists()
