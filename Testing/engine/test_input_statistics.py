"""Input statistics: unusual scans are detected, usual ones are not, and model folders store the statistics."""

import json
import shutil
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffusion_segmentation import cli
from diffusion_segmentation.calibration import calibrate
from diffusion_segmentation.errors import InputError, ModelError
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.networks import InputStatistics, ScanSummary, class_softmax
from diffusion_segmentation.networks.input_statistics import KINDS, MAX_VALUE, MIN_CELLS, MIN_SCANS
from diffusion_segmentation.segmentation.input_volume import check_input_distance
from diffusion_segmentation.segmentation.pipeline import Request, segment
from diffusion_segmentation.segmentation.sampler import EncodedVolume
from diffusion_segmentation.segmentation.tiling import Tiling
from diffusion_segmentation.training import input_statistics as fitting
from diffusion_segmentation.training import train

CPU = torch.device("cpu")
SHAPE = (6, 8, 10)
CLASSES, CHANNELS = 3, 5
NAMES = ["background", "one", "two"]


def scan(rng, shift=0.0, structure=1, volume=1.0, entropy=0.2):
    """ScanSummary of a made-up scan: blocks of three classes, each with a mean feature that differs a little a scan."""
    labels = np.zeros(SHAPE, int)
    labels[:, : max(1, round(3 * volume)), :5] = 1
    labels[:, :, 6:] = 2
    p = np.full((CLASSES, *SHAPE), entropy / CLASSES)
    p += (1 - entropy) * np.eye(CLASSES)[labels].transpose(3, 0, 1, 2)
    means = np.arange(CLASSES)[:, None] + 0.3 * rng.standard_normal((CLASSES, CHANNELS))
    means[structure] += shift
    features = means[labels].transpose(3, 0, 1, 2) + rng.standard_normal((CHANNELS, *SHAPE))
    summary = ScanSummary.none(CLASSES, CHANNELS)
    cells = torch.from_numpy(p).float()[:, None].expand(-1, 8, *SHAPE).reshape(1, 8 * CLASSES, *SHAPE)
    for take in (summary.add, summary.add_square):
        take(torch.from_numpy(features).float()[None], cells, torch.ones(SHAPE))
    return summary


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(0)
    return InputStatistics.fit([scan(rng, entropy=rng.uniform(0.15, 0.25)) for _ in range(60)])


def test_scans_like_those_of_the_fit_seldom_lie_beyond_the_limit(fitted):
    rng = np.random.default_rng(1)
    unlike = [fitted.input_distance(scan(rng, entropy=rng.uniform(0.15, 0.25))).unlike for _ in range(200)]
    assert np.mean(unlike) <= 0.03


@pytest.mark.parametrize(
    ("change", "kind"), [({"shift": 3.0}, "features"), ({"volume": 0.34}, "volume"), ({"entropy": 0.9}, "entropy")]
)
def test_an_unusual_feature_of_a_scan_is_detected_and_named(fitted, change, kind):
    input_distance = fitted.input_distance(scan(np.random.default_rng(2), **change))
    assert input_distance.unlike and input_distance.kind == kind
    if kind != "entropy":
        assert input_distance.structure == 1
    assert input_distance.as_json(NAMES)["unlike_training"] is True


def test_the_warning_states_distance_structure_and_remedy(fitted):
    input_distance = fitted.input_distance(scan(np.random.default_rng(2), shift=4.0, structure=2))
    (sentence,) = check_input_distance(input_distance, NAMES)
    assert sentence.startswith("The scan is unlike those that the model was made for (distance ")
    assert f"{input_distance.distance:.1f}, limit {input_distance.limit:.1f}, most in two); do not trust" in sentence
    assert (
        check_input_distance(fitted.input_distance(scan(np.random.default_rng(3))), NAMES)
        == []
        == check_input_distance(None, NAMES)
    )


def test_no_unit_of_the_features_changes_a_distance():
    """Mahalanobis's distance is invariant to linear maps; with shrinkage only to rotations."""
    turn = np.linalg.qr(np.random.default_rng(5).standard_normal((CHANNELS, CHANNELS)))[0] * 7.0

    def turned(summary):
        return ScanSummary(summary.cells, summary.features @ turn, summary.bits, turn.T @ summary.square @ turn)

    rng = np.random.default_rng(0)
    scans, odd = [scan(rng) for _ in range(12)], scan(rng, shift=2.0)
    here, there = (
        InputStatistics.fit(scans).input_distance(odd),
        InputStatistics.fit([turned(one) for one in scans]).input_distance(turned(odd)),
    )
    assert here.structure == there.structure and here.distance == pytest.approx(there.distance, rel=1e-3)
    assert here.limit == pytest.approx(there.limit, rel=1e-3)


def test_few_scans_give_a_wide_limit_and_fewer_none():
    rng = np.random.default_rng(0)
    scans = [scan(rng, entropy=rng.uniform(0.15, 0.25)) for _ in range(40)]
    assert InputStatistics.fit(scans[: MIN_SCANS - 1]) is None
    assert InputStatistics.fit(scans[:MIN_SCANS]).limit > InputStatistics.fit(scans).limit > 0


def test_cells_beyond_the_range_of_numbers_are_as_far_as_can_be(fitted):
    """Weights may be finite and their features so large that float32 does not hold the squares."""
    p = torch.full((1, 8 * CLASSES, *SHAPE), 1 / CLASSES)
    for features in (torch.randn(1, CHANNELS, *SHAPE) * 1e22, torch.full((1, CHANNELS, *SHAPE), torch.inf)):
        assert (fitted.cell_distances(features, p) == MAX_VALUE).all()


def test_features_of_an_absent_structure_are_not_compared(fitted):
    summary = scan(np.random.default_rng(0))
    summary.cells[1], summary.features[1] = MIN_CELLS / 2, 1e3
    assert fitted.input_distance(summary).kind == "volume"


def test_extreme_numbers_give_a_finite_distance(fitted):
    summary = scan(np.random.default_rng(0))
    summary.features[:] = 1e300
    assert json.dumps(fitted.input_distance(summary).as_json(NAMES), allow_nan=False)
    summary.features[:] = np.nan
    assert np.isfinite(fitted.input_distance(summary).distance)


@pytest.fixture(scope="module")
def known(a_model_folder, a_head_file, tmp_path_factory):
    """The model with random weights, fitted to windows of noise, which are unlike any head."""
    model = models.load(a_model_folder)
    rng = np.random.default_rng(0)
    section = model.section
    images = [rng.random((24, 24, 24), dtype=np.float32) for _ in range(12)]
    input_statistics = InputStatistics.fit([fitting.summarised(model.encoder, image, section) for image in images])
    input_statistics.region.copy_(torch.tensor([0.0, 1.0, 2.0]))
    folder = tmp_path_factory.mktemp("models") / "known"
    models.save(folder, model.metadata, model.encoder, model.denoiser, input_statistics)
    return folder


def test_a_model_folder_stores_the_input_statistics(known, tmp_path):
    model = models.load(known)
    assert model.section["input_statistics"] == {"scans": 12}
    models.save(tmp_path / "again", model.metadata, model.encoder, model.denoiser, model.input_statistics)
    for name in ("metadata.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (known / name).read_bytes()
    models.save(tmp_path / "without", model.metadata, model.encoder, model.denoiser)
    without = models.load(tmp_path / "without")
    assert without.input_statistics is None and "input_statistics" not in without.section


def damaged(known, copy, change):
    """A copy of the folder with other numbers of its input_statistics, and a checksum that fits."""
    model = models.load(known)
    change(model.input_statistics)
    models.save(copy, model.metadata, model.encoder, model.denoiser, model.input_statistics)
    return copy


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda one: one.between_scans.fill_(torch.nan), "finite"),
        (lambda one: one.class_means.fill_(torch.inf), "finite"),
        (lambda one: one.between_cells.fill_(1e30), "do not fit"),
        (lambda one: one.spread.fill_(0.0), "do not fit"),
        (lambda one: one.region.zero_(), "do not fit"),
        (lambda one: one.register_buffer("class_means", torch.zeros(9, 9)), "do not fit"),
        (lambda one: one.register_buffer("more", torch.zeros(1)), "do not fit"),
    ],
)
def test_numbers_that_cannot_be_compared_with_are_refused(known, tmp_path, change, words):
    with pytest.raises(ModelError, match=words):
        models.load(damaged(known, tmp_path / "copy", change))


@pytest.mark.parametrize("entry", [3, [], {"scans": 0}, {"scans": "12"}, {}, {"scans": 11}, {"scans": 10**9}, None])
def test_input_statistics_that_do_not_match_their_entry_are_refused(known, tmp_path, entry):
    folder = shutil.copytree(known, tmp_path / "copy")
    metadata = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    metadata["diffusion_segmentation"]["input_statistics"] = entry
    (folder / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    with pytest.raises(ModelError, match="input_statistics|do not fit"):
        models.load(folder)


@pytest.mark.slow
def test_the_warning_of_an_unusual_scan_comes_first_and_the_report_has_its_numbers(
    known, a_head_file, tmp_path, capsys
):
    progress = []
    outcome = segment(Request(a_head_file, tmp_path / "out", str(known), 2, device="cpu"), progress=progress.append)
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    check = report["input"]
    assert check["unlike_training"] and check["distance"] > check["limit"] > 0 and check["farthest"]["in"] in KINDS
    assert report["warnings"][0].startswith("The scan is unlike those that the model was made for (distance ")
    assert report["warnings"][0] in [now.note for now in progress]
    assert report["regions"] and all(np.isfinite(region["distance"]) for region in report["regions"])
    assert report["region_limit"] == 2.0 and report == json.loads(json.dumps(outcome.report))
    arguments = ["segment", str(a_head_file), "--output", str(tmp_path / "again"), "--model", str(known)]
    assert cli.main([*arguments, "--samples", "2"]) == 0
    assert f"warning: {report['warnings'][0]}\n" in capsys.readouterr().err


def test_a_model_without_input_statistics_is_loaded(a_model_folder, a_head_file, tmp_path):
    report = segment(Request(a_head_file, tmp_path / "out", str(a_model_folder), 2, device="cpu")).report
    assert set(report["input"]) == {"size_ijk", "spacing_mm", "sha256"} and "region_limit" not in report
    assert not any("unlike" in sentence for sentence in report["warnings"])
    assert all("distance" not in region for region in report["regions"])


def test_windows_and_padding_count_no_cell_twice(known):
    model = models.load(known)
    image = np.random.default_rng(1).random((50, 27, 32), dtype=np.float32)
    tiling = Tiling(image.shape, (32, 32, 32), model.multiple)
    assert len(tiling.windows) > 1
    total = torch.zeros(tiling.cells)
    for window, share in zip(tiling.windows, tiling.shares(), strict=True):
        total[window] += share
    inside = torch.zeros(tiling.cells)
    inside[:25, :14, :16] = 1
    torch.testing.assert_close(total, inside)
    one, several = (EncodedVolume(model, image, CPU, cover) for cover in (None, tiling))
    assert one.voxel_distances.shape == image.shape == several.voxel_distances.shape
    assert one._summary.cells.sum() == pytest.approx(25 * 14 * 16) == several._summary.cells.sum()
    assert one.input_distance().distance == pytest.approx(several.input_distance().distance, rel=0.3)


def test_strange_cells_are_found_among_others(fitted):
    rng = np.random.default_rng(7)
    labels = rng.integers(1, CLASSES, SHAPE)
    features = labels[None] + 0.3 * rng.standard_normal((CHANNELS, *SHAPE))
    features[:, :2, :2, :2] += 8
    p = class_softmax(torch.from_numpy(20.0 * np.eye(CLASSES)[labels].transpose(3, 0, 1, 2)).float()[:, None]
                      .expand(-1, 8, *SHAPE).reshape(1, 8 * CLASSES, *SHAPE))  # fmt: skip
    result = fitted.cell_distances(torch.from_numpy(features).float()[None], p)[0, 0]
    assert result[:2, :2, :2].min() > 4 * result[3:].mean()


SMALL = {
    "diffusion_segmentation": {
        "network": {"encoder": {"channels": [8, 8], "blocks": [1, 1]}, "denoiser": {"channels": [8, 8], "blocks": 1}}
    },
    "optimisation": {"iterations": 4, "batch": 2, "warm_up": 1},
}


@pytest.mark.parametrize("task", ["boundary:16x16", pytest.param("lesions:16x16x16", marks=pytest.mark.slow)])
def test_training_and_calibration_both_store_input_statistics(task, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "SCANS", {2: 40, 3: 10})
    config = tmp_path / "config.json"
    config.write_text(json.dumps(SMALL), encoding="utf-8")
    trained = models.load(train.main(task, tmp_path / "model", config))
    assert trained.section["input_statistics"] == {"scans": fitting.SCANS[trained.dims]}
    models.save(tmp_path / "old", trained.metadata, trained.encoder, trained.denoiser)
    for name in ("COMPARED", "SAMPLES"):
        monkeypatch.setattr(calibrate, name, 3)
    calibrate.calibrate(str(tmp_path / "old"), task, tmp_path / "new", cases=4)
    again = models.load(tmp_path / "new").input_statistics
    assert again.scans == fitting.SCANS[trained.dims] and float(again.limit) > 0
    # An image of the task is as usual, and one that has nothing in common with it is not.
    image = next(iter(train.open_source(task, tmp_path).scans(1, 99)))
    usual = again.input_distance(fitting.summarised(trained.encoder, image, trained.section))
    bright = again.input_distance(fitting.summarised(trained.encoder, 30 + 9 * image, trained.section))
    assert not usual.unlike and bright.unlike and bright.distance > 3 * usual.distance


def test_too_few_scans_give_no_new_statistics(known):
    class Few:
        def scans(self, count, seed):
            yield from np.zeros((MIN_SCANS - 1, 16, 16, 16), np.float32)

    model = models.load(known)
    assert fitting.fit_input_statistics(model.encoder, model.section, Few(), 0) is None


class Thin:
    """Scans of two cells along an axis, of which no more than one is kept."""

    def scans(self, count, seed):
        rng, alive = np.random.default_rng(seed), []
        for _ in range(min(count, MIN_SCANS)):
            image = rng.random((4, 32, 32), dtype=np.float32)
            alive = [one for one in (*alive, weakref.ref(image)) if one() is not None]
            assert len(alive) <= 2  # including the case replaced by it
            yield image


def test_thin_scans_are_fitted_to_and_not_kept(known):
    model = models.load(known)
    result = fitting.fit_input_statistics(model.encoder, model.section, Thin(), 0)
    assert result.scans == MIN_SCANS and result.sound


@pytest.mark.filterwarnings("ignore:All-NaN")
def test_features_that_are_not_finite_are_refused_in_one_sentence(known):
    model = models.load(known)
    next(model.encoder.parameters()).fill_(torch.nan)
    with pytest.raises(ModelError, match="not finite or out of range"):
        fitting.fit_input_statistics(model.encoder, model.section, Thin(), 0)


def test_calibrate_with_too_few_scans_keeps_the_statistics_and_reports_none(known, tmp_path, monkeypatch):
    source = SimpleNamespace(configure=lambda section: None, scans=lambda count, seed: iter(()))
    monkeypatch.setattr(calibrate, "open_source", lambda *_, **__: source)
    monkeypatch.setattr(calibrate, "require_fit", lambda *_: None)
    monkeypatch.setattr(calibrate, "fitted", lambda model, *_: (model, {"model": "known", "starts": []}))
    arguments = (str(known), "few", tmp_path / "new")
    with pytest.raises(InputError, match="too few for input statistics"):
        calibrate.calibrate(*arguments, device="cpu", scans_only=True)
    assert not (tmp_path / "new").exists()
    assert calibrate.calibrate(*arguments, device="cpu")["scans"] == 0
    assert models.load(tmp_path / "new").input_statistics.scans == 12
