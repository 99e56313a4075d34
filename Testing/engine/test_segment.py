"""One volume, from file to result files: content, reproducibility, and stopping with and without a result."""

import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk

from diffusion_segmentation.errors import Cancelled, GeometryError, InputError
from diffusion_segmentation.images.volume import VolumeFile
from diffusion_segmentation.segmentation import partial_results
from diffusion_segmentation.segmentation.ensemble import Ensemble
from diffusion_segmentation.segmentation.pipeline import ModelCache, Request, choose_device, devices, segment


@pytest.fixture
def request_for(a_head_file, a_model_folder, tmp_path):
    def make(**changes) -> Request:
        given = {
            "volume": a_head_file,
            "output": tmp_path / "out",
            "model": str(a_model_folder),
            "samples": 4,
            "device": "cpu",
        }
        return Request(**{**given, **changes})

    return make


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_files_lie_on_the_grid_of_the_input(request_for, a_head_file):
    request = request_for(keep_samples=True)
    outcome = segment(request)
    reference = sitk.ReadImage(str(a_head_file))
    for name in ("segmentation.seg.nrrd", "entropy.nrrd"):
        image = sitk.ReadImage(str(request.output / name))
        assert image.GetSize() == reference.GetSize()
        np.testing.assert_allclose(image.GetOrigin(), reference.GetOrigin(), atol=1e-9)
        np.testing.assert_allclose(image.GetDirection(), reference.GetDirection(), atol=1e-9)
    assert names(request.output) == {
        "segmentation.seg.nrrd",
        "entropy.nrrd",
        "disagreement.nrrd",
        "samples.seq.nrrd",
        "probabilities.seq.nrrd",
        "regions.nrrd",
        "report.json",
    }
    assert json.loads((request.output / "report.json").read_text(encoding="utf-8")) == outcome.report
    assert not outcome.partial and outcome.report["samples"] == 4 and outcome.report["windows"] == 1


def around(image, lps):
    """The 3 x 3 x 3 voxels nearest to a point."""
    array = sitk.GetArrayFromImage(image)
    at = np.clip(image.TransformPhysicalPointToIndex(lps)[::-1], 1, np.array(array.shape) - 2)
    return array[tuple(slice(n - 1, n + 2) for n in at)]


def test_the_report_names_the_uncertain_regions_and_their_file_shows_them(request_for):
    request = request_for(keep_samples=True)
    report = segment(request).report
    regions, basins = report["regions"], sitk.ReadImage(str(request.output / "regions.nrrd"))
    entropy = sitk.ReadImage(str(request.output / "entropy.nrrd"))
    assert regions and sum(region["share"] for region in regions) < 1.001
    assert len(regions) <= 50
    errors = [(region["reviewable_ml"], region["expected_error_ml"]) for region in regions]
    assert errors == sorted(errors, reverse=True) and errors[0][1] > 0
    assert 0 <= report["reviewable_ml"] < report["expected_error_ml"]
    names = {0: "background"} | {volume["label"]: volume["name"] for volume in report["volumes"]}
    for region in regions:
        assert all(names[entry["label"]] == entry["name"] for entry in region["classes"])
        right, front, up = region["peak_ras_mm"]
        assert region["basin"] in around(basins, (-right, -front, up))
        assert around(entropy, (-right, -front, up)).max() > 0.1


@pytest.mark.slow
def test_larger_regions_are_fewer(request_for, tmp_path):
    small, large = (segment(request_for(output=tmp_path / str(mm), region_mm=mm)).report for mm in (8.0, 30.0))
    assert small["region_mm"] == 8.0
    sizes = [max(region["volume_ml"] for region in report["regions"]) for report in (small, large)]
    assert 0 < 4 * sizes[0] < sizes[1]


def box_of(request):
    """Index [k, j, i] at which the block of regions, samples and probabilities begins in the input."""
    whole = sitk.ReadImage(str(request.output / "entropy.nrrd"))
    part = sitk.ReadImage(str(request.output / "regions.nrrd"))
    return whole.TransformPhysicalPointToIndex(part.GetOrigin())[::-1]


def test_entropy_is_that_of_the_mean_and_volumes_are_those_of_the_samples(request_for):
    request = request_for(keep_samples=True)
    report = segment(request).report
    entropy = sitk.GetArrayFromImage(sitk.ReadImage(str(request.output / "entropy.nrrd")))
    assert 0 < entropy.max() <= report["max_entropy_bits"] + 1e-6
    samples = sitk.GetArrayFromImage(sitk.ReadImage(str(request.output / "samples.seq.nrrd")))
    samples = samples if samples.shape[-1] == 4 else np.moveaxis(samples, 0, -1)
    voxel_ml = 3.0 * 2.5 * 4.0 / 1000
    for volume in report["volumes"]:
        volumes_ml = [(samples[..., n] == volume["label"]).sum() * voxel_ml for n in range(4)]
        np.testing.assert_allclose(volume["samples_ml"], volumes_ml, atol=1e-3)
        low, high = volume["interval90_ml"]
        assert low <= volume["mean_ml"] <= high
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(request.output / "segmentation.seg.nrrd")))
    for volume in report["volumes"]:
        assert volume["consensus_ml"] == pytest.approx((labels == volume["label"]).sum() * voxel_ml, abs=1e-3)
    block = np.s_[tuple(slice(a, a + n) for a, n in zip(box_of(request), samples.shape[:3], strict=True))]
    for n, reported in enumerate(report["samples_dice"]):
        pairs = [(samples[..., n] == v["label"], labels[block] == v["label"]) for v in report["volumes"]]
        exact = [2 * (a & b).sum() / (a.sum() + b.sum()) if a.any() or b.any() else 1.0 for a, b in pairs]
        assert reported == pytest.approx(np.mean(exact), abs=1e-4)
    assert len(report["samples_dice"]) == 4
    for volume in report["volumes"]:
        masks = [samples[..., n] == volume["label"] for n in range(4)]
        pairs = [(a, b) for n, a in enumerate(masks) for b in masks[n + 1 :]]
        exact = [2 * (a & b).sum() / (a.sum() + b.sum()) if a.any() or b.any() else 1.0 for a, b in pairs]
        assert volume["expected_dice"] == pytest.approx(np.mean(exact), abs=1e-4)
    scores = [volume["expected_dice"] for volume in report["volumes"]]
    assert report["expected_dice"] == pytest.approx(np.mean(scores), abs=1e-4)


@pytest.mark.slow
def test_same_seed_same_bytes_another_seed_other_samples(request_for, tmp_path):
    first, again, other = (
        request_for(output=tmp_path / name, seed=seed, keep_samples=True)
        for name, seed in (("a", 5), ("b", 5), ("c", 6))
    )
    for request in (first, again, other):
        segment(request)
    for name in ("segmentation.seg.nrrd", "entropy.nrrd", "samples.seq.nrrd", "probabilities.seq.nrrd"):
        assert (first.output / name).read_bytes() == (again.output / name).read_bytes(), name
    assert (first.output / "samples.seq.nrrd").read_bytes() != (other.output / "samples.seq.nrrd").read_bytes()


@pytest.mark.slow
def test_more_samples_begin_with_the_same_ones(request_for, tmp_path):
    few = segment(request_for(output=tmp_path / "few", samples=2)).report["volumes"]
    many = segment(request_for(output=tmp_path / "many", samples=5)).report["volumes"]
    for a, b in zip(few, many, strict=True):
        assert a["samples_ml"] == b["samples_ml"][:2]


def test_progress_goes_through_the_stages_and_counts_down(request_for):
    seen = []
    segment(request_for(), progress=seen.append)
    stages = list(dict.fromkeys(now.stage for now in seen))
    assert stages == ["reading", "model", "encoding", "sampling", "writing"]
    steps = [(now.sample, now.step) for now in seen if now.step]
    assert steps == [(sample, step) for sample in range(1, 5) for step in range(1, 4)]
    assert [now.seconds_left for now in seen if now.step][-1] == 0


def test_previews_come_early_with_their_number_of_samples(request_for):
    seen = []
    segment(request_for(previews=True, samples=5), preview=seen.append)
    assert [now.samples for now in seen] == [0, 1, 2, 4]
    assert all(now.segmentation.exists() and now.entropy.exists() for now in seen)


def test_stop_and_keep_finishes_with_the_samples_drawn(request_for):
    request, seen = request_for(samples=20), []
    outcome = segment(request, progress=seen.append, cancel=lambda: "keep" if seen and seen[-1].sample == 4 else None)
    assert outcome.partial and outcome.report["partial"] and outcome.report["samples"] == 3
    assert names(request.output) == {"segmentation.seg.nrrd", "entropy.nrrd", "report.json"}


@pytest.mark.parametrize("answer", ["drop", "keep"])
@pytest.mark.parametrize("stage", ["reading", "encoding", "sampling"])
def test_stop_before_the_first_sample_leaves_nothing(request_for, answer, stage):
    request, seen = request_for(), []
    with pytest.raises(Cancelled):
        segment(request, progress=seen.append, cancel=lambda: answer if seen and seen[-1].stage == stage else None)
    assert names(request.output) == set()


def test_drop_during_sampling_leaves_nothing(request_for):
    request, seen = request_for(), []
    with pytest.raises(Cancelled):
        segment(request, progress=seen.append, cancel=lambda: "drop" if seen and seen[-1].sample == 3 else None)
    assert names(request.output) == set()


class Died(BaseException):
    """As in a killed process: no handler runs."""


@pytest.mark.slow
def test_a_run_that_dies_leaves_a_complete_result_of_its_finished_samples(request_for, monkeypatch, tmp_path):
    monkeypatch.setattr(partial_results, "INTERVAL_SECONDS", -1.0)
    request = request_for(samples=6, keep_samples=True, previews=True)

    def die(now):
        if now.stage == "sampling" and now.sample == 6:
            raise Died

    with pytest.raises(Died):
        segment(request, progress=die)
    remaining = [path.name for path in request.output.iterdir() if path.is_dir()]
    assert len(remaining) == 1 and remaining[0].startswith("finished-")
    backup = request.output / remaining[0]
    report = json.loads((backup / "report.json").read_text(encoding="utf-8"))
    assert report["partial"] and report["samples"] == int(remaining[0].removeprefix("finished-")) >= 1
    other = request_for(samples=report["samples"], keep_samples=True, output=tmp_path / "other", compress=False)
    segment(other)
    for name in ("segmentation.seg.nrrd", "entropy.nrrd", "samples.seq.nrrd"):
        actual, expected = (sitk.GetArrayFromImage(sitk.ReadImage(str(f / name))) for f in (backup, other.output))
        np.testing.assert_array_equal(actual, expected)


def test_a_completed_run_leaves_no_folders(request_for, monkeypatch):
    monkeypatch.setattr(partial_results, "INTERVAL_SECONDS", -1.0)
    request = request_for(previews=True)
    segment(request)
    assert not [path for path in request.output.iterdir() if path.is_dir()]


def test_a_run_continues_if_its_samples_cannot_be_stored(request_for, monkeypatch, capsys):
    monkeypatch.setattr(partial_results, "INTERVAL_SECONDS", -1.0)
    request = request_for(previews=True)
    request.output.mkdir()
    for n in range(1, 5):
        (request.output / f"finished-{n}").write_text("in the way")
    assert segment(request).report["samples"] == 4
    assert "could not be kept" in capsys.readouterr().err


@pytest.mark.slow
def test_auto_stops_between_its_bounds(request_for):
    report = segment(request_for(samples="auto")).report
    assert 8 <= report["samples"] <= 32 and report["requested_samples"] == "auto"


def test_a_volume_far_from_the_model_is_refused(request_for, a_head_file, tmp_path):
    image = sitk.ReadImage(str(a_head_file))
    image.SetSpacing([0.05 * s for s in image.GetSpacing()])
    sitk.WriteImage(image, str(tmp_path / "tiny.nrrd"))
    with pytest.raises(GeometryError):
        segment(request_for(volume=tmp_path / "tiny.nrrd"))


def test_an_unavailable_device_is_refused(request_for):
    with pytest.raises(InputError, match="cuda:77"):
        choose_device("cuda:77")


@pytest.mark.slow
def test_the_cache_keeps_a_model_until_it_is_cleared(a_model_folder):
    cache, cpu = ModelCache(), choose_device("cpu")
    model = cache.get(str(a_model_folder), cpu)
    assert cache.get(str(a_model_folder), cpu) is model
    cache.clear()
    assert cache.get(str(a_model_folder), cpu) is not model


def test_one_step_is_refused_before_any_work(request_for):
    request = request_for(steps=1)
    with pytest.raises(InputError, match="two steps"):
        segment(request)
    assert not request.output.exists()


@pytest.mark.slow
def test_maps_of_a_direct_model_do_not_come_from_the_samples(request_for, a_model_folder, tmp_path):
    """The shipped model's case: one sample or four, segmentation and entropy are the direct head's."""
    folder = tmp_path / "direct"
    shutil.copytree(a_model_folder, folder)
    metadata = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    metadata["diffusion_segmentation"]["map_source"] = "direct"
    (folder / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    files = {}
    for model, samples in ((folder, 1), (folder, 4), (a_model_folder, 4)):
        request = request_for(model=str(model), samples=samples, output=tmp_path / f"{model.name}-{samples}")
        assert segment(request).report["map_source"] == ("direct" if model == folder else "samples")
        files[request.output.name] = (request.output / "entropy.nrrd").read_bytes()
    assert files["direct-1"] == files["direct-4"] != files[f"{a_model_folder.name}-4"]


def test_a_graphics_card_that_cannot_be_used_does_not_hide_the_others(monkeypatch):
    def mem_get_info(index):
        if index == 0:
            raise RuntimeError("CUDA error: out of memory")
        return 3, 4

    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.mem_get_info", mem_get_info)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda index: f"card {index}")
    assert [(device["id"], device["freeBytes"]) for device in devices()] == [("cpu", None), ("cuda:1", 3)]


def test_masks_are_kept_only_where_they_are_written():
    p = np.full((2, 1, 1, 2), 0.5, np.float32)
    with_masks, without_masks = Ensemble(p, 0.0, 0.001), Ensemble(p, 0.0, 0.001, max_masks=0)
    for ensemble in (with_masks, without_masks):
        ensemble.add(p, np.array([[[0, 1]]], np.uint8))
    assert len(with_masks) == len(without_masks) == 1 and len(with_masks.masks) == 1 and without_masks.masks == []
    assert without_masks.volumes.tolist() == with_masks.volumes.tolist() == [[0.001, 0.001]]


def test_a_volume_that_does_not_fit_is_refused_by_its_header_alone(a_model_folder, tmp_path, monkeypatch):
    """A CT of a whole body: 512 x 512 x 900 voxels are 2.3 GB while they are read."""
    path = tmp_path / "body.nrrd"
    header = "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 512 512 900\n"
    header += "space directions: (0.9,0,0) (0,0.9,0) (0,0,2)\nkinds: domain domain domain\nendian: little\n"
    path.write_bytes(f"{header}encoding: raw\nspace origin: (0,0,0)\n\n".encode())
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size + 2 * 512 * 512 * 900)
    monkeypatch.setattr(VolumeFile, "_executed", lambda *_: pytest.fail("voxels were read"))
    with pytest.raises(GeometryError, match="field of view is 460.8 x 460.8 x 1800 mm"):
        segment(Request(path, tmp_path / "out", str(a_model_folder), device="cpu"))
    assert not (tmp_path / "out").exists()
