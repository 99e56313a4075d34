"""A correlated start, from metadata to result files: samples without a network, and denoised ones."""

import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from diffusion_segmentation.calibration.start import labelled, samples
from diffusion_segmentation.diffusion.copula import Frame, period
from diffusion_segmentation.errors import ModelError
from diffusion_segmentation.images.label_file import IGNORED
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.model.folder import DEFAULT_COPULA_SAMPLES
from diffusion_segmentation.segmentation.ensemble import MAX_MASKS
from diffusion_segmentation.segmentation.memory_plan import MemoryPlan
from diffusion_segmentation.segmentation.pipeline import Request, segment
from diffusion_segmentation.segmentation.sampler import EncodedVolume
from diffusion_segmentation.segmentation.tiling import Tiling

CPU = torch.device("cpu")
COVARIANCE = {"scales_mm": [6.0, 20.0], "weights": [[0.5, 0.3]] * 3, "shared": [0.2] * 3}


def with_entries(folder, copy, **entries):
    """A copy of a model folder with other entries in its section `diffusion_segmentation`."""
    shutil.copytree(folder, copy)
    metadata = json.loads((copy / "metadata.json").read_text(encoding="utf-8"))
    metadata["diffusion_segmentation"].update(entries)
    (copy / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    return copy


@pytest.fixture(scope="module")
def copula_folder(a_model_folder, tmp_path_factory):
    start = {"covariance": COVARIANCE, "log_snr": None}
    return with_entries(a_model_folder, tmp_path_factory.mktemp("models") / "copula", start=start, calibration={})


@pytest.fixture(scope="module")
def denoised_folder(a_model_folder, tmp_path_factory):
    start = {"covariance": COVARIANCE, "log_snr": -2.0}
    return with_entries(
        a_model_folder, tmp_path_factory.mktemp("models") / "denoised", calibration={}, start=start, map_prior=8
    )


@pytest.fixture(scope="module")
def copula_run(copula_folder, a_head_file, tmp_path_factory):
    """A run with the model's own number of samples: the request, its report and its previews."""
    request = Request(
        a_head_file, tmp_path_factory.mktemp("out"), str(copula_folder), device="cpu", keep_samples=True, previews=True
    )
    seen = []
    return request, segment(request, preview=seen.append).report, seen


@pytest.mark.slow
def test_samples_without_a_pass_are_many_and_the_report_says_how_they_were_drawn(copula_run):
    _, report, seen = copula_run
    assert report["samples"] == report["requested_samples"] == DEFAULT_COPULA_SAMPLES == 64
    assert report["kept_samples"] == MAX_MASKS == len(report["samples_dice"])
    assert report["steps"] == 0 and report["start"] == {"kind": "copula", "log_snr": None}
    assert report["map_source"] == "exact" and report["direct_difference"] == 0
    assert [now.samples for now in seen] == [0]
    assert not any("not fitted" in sentence for sentence in report["warnings"])


def test_the_samples_volumes_lie_about_the_expected_one(copula_run):
    """The map is the samples' exact mean: by at most half a standard deviation the mean of 64 may be away from it."""
    _, report, _ = copula_run
    for volume in report["volumes"]:
        volumes = np.array(volume["samples_ml"])
        assert abs(volume["mean_ml"] - volume["expected_ml"]) < 0.5 * volumes.std(ddof=1)
        low, high = volume["interval90_ml"]
        assert low < volume["expected_ml"] < high


def test_the_stored_masks_are_those_of_the_first_samples(copula_run):
    request, report, _ = copula_run
    stored = sitk.GetArrayFromImage(sitk.ReadImage(str(request.output / "samples.seq.nrrd")))
    stored = stored if stored.shape[-1] == MAX_MASKS else np.moveaxis(stored, 0, -1)
    voxel_ml = 3.0 * 2.5 * 4.0 / 1000
    for volume in report["volumes"]:
        counted = [(stored[..., n] == volume["label"]).sum() * voxel_ml for n in range(MAX_MASKS)]
        np.testing.assert_allclose(volume["samples_ml"][:MAX_MASKS], counted, atol=1e-3)


def test_disagreement_is_the_entropy_of_the_samples_votes(copula_run):
    request, report, _ = copula_run
    bits, entropy = (
        sitk.GetArrayFromImage(sitk.ReadImage(str(request.output / name)))
        for name in ("disagreement.nrrd", "entropy.nrrd")
    )
    assert 0 < bits.max() <= report["max_entropy_bits"]
    # Of 64 masks with these probabilities; fewer votes than infinitely many are a little surer.
    assert np.corrcoef(bits.ravel(), entropy.ravel())[0, 1] > 0.97
    assert 0.9 < bits.sum() / entropy.sum() < 1.0


def test_a_model_without_a_fitted_start_samples_from_noise_and_reports_it(a_model_folder, a_head_file, tmp_path):
    report = segment(Request(a_head_file, tmp_path / "out", str(a_model_folder), device="cpu")).report
    assert report["samples"] == 8 and report["steps"] == 3
    assert report["start"] == {"kind": "noise", "log_snr": None} and report["map_prior"] == 0
    assert [sentence for sentence in report["warnings"] if "not fitted" in sentence]


@pytest.mark.slow
def test_a_denoised_start_uses_the_nodes_after_its_noise_level(denoised_folder, a_head_file, tmp_path):
    report = segment(Request(a_head_file, tmp_path / "out", str(denoised_folder), steps=6, device="cpu")).report
    model = models.load(denoised_folder)
    grid = model.step_grid(6)
    assert report["samples"] == 8 and report["steps"] == 6 and len(grid) < 6
    assert grid[0] == -2.0 and (np.diff(grid) > 0.4).all()
    assert report["start"] == {"kind": "copula", "log_snr": -2.0}
    assert report["map_source"] == "both" and report["map_prior"] == 8


def test_a_denoised_sample_follows_its_start(denoised_folder):
    """From a state with little noise the mask is that of the copula; from pure noise it is not."""
    model = models.load(denoised_folder)
    image = np.random.default_rng(0).random((16, 16, 16), dtype=np.float32)
    agreement = {}
    for log_snr in (-11.0, 6.0):
        from_here = model.with_start(models.Start(model.start.covariance, log_snr))
        encoded = EncodedVolume(from_here, image, CPU)
        grid = from_here.step_grid(6)
        masks = [encoded.sample([seed], grid)[0].argmax(0) == encoded.start_mask(seed) for seed in range(3)]
        agreement[log_snr] = np.mean(masks)
    assert agreement[6.0] > 0.95 > agreement[-11.0] + 0.1


def test_samples_do_not_depend_on_windows_or_on_which_are_drawn_together(denoised_folder):
    model = models.load(denoised_folder)
    image = np.random.default_rng(0).random((24, 16, 16), dtype=np.float32)
    whole = EncodedVolume(model, image, CPU)
    tiling = Tiling(image.shape, (16, 16, 16), model.multiple, whole.tiling.padded)
    smaller = EncodedVolume(model, image, CPU, tiling)
    # The probabilities differ a little between windows; what is drawn belongs to the voxels.
    assert (whole.start_mask(4) == smaller.start_mask(4)).mean() > 0.9
    grid = model.step_grid(4)
    together = whole.sample([4, 5], grid)
    np.testing.assert_allclose(together[1], whole.sample([5], grid)[0], atol=2e-3)


def test_the_start_does_not_depend_on_the_crop(copula_folder):
    """Where two crops of the working grid overlap, and the network says the same, the mask is the same."""
    model = models.load(copula_folder)
    frame = (40, 36, 44)
    masks = []
    for offset in ((0, 0, 0), (4, 8, 4)):
        encoded = EncodedVolume(model, np.zeros((24, 24, 24), np.float32), CPU, frame=Frame(frame, offset))
        encoded._marginals = torch.full_like(
            encoded._marginals, 1 / 3
        )  # everywhere: what the networks see of a crop's border is not the point
        masks.append(encoded.start_mask(1))
    np.testing.assert_array_equal(masks[0][4:, 8:, 4:], masks[1][:20, :16, :20])
    assert (masks[0][:20, :16, :20] != masks[1][:20, :16, :20]).any()


def test_the_memory_plan_counts_the_fields(copula_folder, a_model_folder):
    tiling = Tiling((64, 64, 64), (64, 64, 64), 4)
    plain, fitted = (
        MemoryPlan(models.load(folder), CPU).sampling_bytes(tiling) for folder in (a_model_folder, copula_folder)
    )
    # Of three classes and two scales of 1.5 and 5 voxels: a margin of 10 voxels, 26 bytes a voxel.
    assert fitted - plain >= 26 * 74**3


def test_a_margin_is_never_wider_than_the_frame():
    """Metadata from anywhere may ask for a width of half a metre at 0.2 mm."""
    assert max(period((64, 64, 64), [2500.0])) < 2.2 * 64


@pytest.mark.parametrize(
    "start",
    [
        {"covariance": COVARIANCE},
        {"covariance": COVARIANCE | {"weights": [[0.5, 0.3]] * 2}, "log_snr": None},
        {"covariance": COVARIANCE | {"weights": [[0.5, -0.3]] * 3}, "log_snr": None},
        {"covariance": COVARIANCE | {"shared": [0.9] * 3}, "log_snr": None},
        {"covariance": COVARIANCE | {"scales_mm": [6.0]}, "log_snr": None},
        {"covariance": COVARIANCE | {"scales_mm": [6.0, 1e9]}, "log_snr": None},
        {"covariance": COVARIANCE, "log_snr": 99.0},
        {"covariance": COVARIANCE, "log_snr": "low"},
        [],
        "copula",
    ],
)
def test_an_entry_that_cannot_be_drawn_from_is_refused(a_model_folder, tmp_path, start):
    with pytest.raises(ModelError, match="'start'"):
        models.load(with_entries(a_model_folder, tmp_path / "model", start=start))


@pytest.mark.parametrize(
    ("log_snr", "entry"), [(-4.0, "start"), ("none", "start"), (-3.0, None), (None, None)], ids=str
)
def test_no_sample_starts_at_a_level_for_which_the_denoiser_was_not_trained(a_model_folder, tmp_path, log_snr, entry):
    """Neither from white noise: the samples would be arbitrary without a warning."""
    process = models.read_metadata(a_model_folder)["diffusion_segmentation"]["process"] | {"lowest_log_snr": -3.0}
    start = None if log_snr == "none" else {"covariance": COVARIANCE, "log_snr": log_snr}
    folder = with_entries(a_model_folder, tmp_path / "model", start=start, process=process)
    if entry is None:
        assert models.load(folder).lowest_log_snr == -3
    else:
        with pytest.raises(ModelError, match=f"'{entry}'"):
            models.load(folder)


@pytest.mark.parametrize("which", ["copula_folder", "denoised_folder"])
def test_ignored_voxels_are_background_in_labels_probabilities_and_samples(which, request):
    model = models.load(request.getfixturevalue(which))
    image = np.random.default_rng(0).random((16, 16, 16)).astype(np.float32)
    labels = np.full((16, 16, 16), IGNORED, np.uint8)
    labels[:, :, :8] = 1
    case = labelled(model, image, labels)
    masks, mean = samples(model, case, 3, 0)
    out = labels == IGNORED
    assert (case.labels[out] == 0).all() and (case.labels[~out] == 1).all()
    for p in (case.p, mean):
        assert (p[0][out] == 1).all() and (p[1:, out] == 0).all() and not (p[0][~out] == 1).all()
    assert (masks[:, out] == 0).all() and (masks[:, ~out] > 0).any()
