"""Scans unlike those of the fit are found, those like them are not, and a model folder keeps what it knows."""

import json
import shutil

import numpy as np
import pytest
import torch

from diffusion_segmentation import cli
from diffusion_segmentation import model as models
from diffusion_segmentation.calibration import calibrate
from diffusion_segmentation.errors import ModelError
from diffusion_segmentation.networks import Likeness, Traits, class_softmax
from diffusion_segmentation.networks.likeness import FEWEST, KINDS, LEAST_CELLS
from diffusion_segmentation.sampler import Encoded
from diffusion_segmentation.segment import Request, segment
from diffusion_segmentation.suitability import check_likeness
from diffusion_segmentation.tiles import Tiling
from diffusion_segmentation.training import likeness as fitting
from diffusion_segmentation.training import train

CPU = torch.device("cpu")
SHAPE = (6, 8, 10)
CLASSES, CHANNELS = 3, 5
NAMES = ["background", "one", "two"]


def scan(rng, shift=0.0, structure=1, size=1.0, doubt=0.2):
    """Traits of a made-up scan: blocks of three classes, each with a mean feature that differs a little a scan."""
    labels = np.zeros(SHAPE, int)
    labels[:, : max(1, round(3 * size)), :5] = 1
    labels[:, :, 6:] = 2
    p = np.full((CLASSES, *SHAPE), doubt / CLASSES)
    p += (1 - doubt) * np.eye(CLASSES)[labels].transpose(3, 0, 1, 2)
    means = np.arange(CLASSES)[:, None] + 0.3 * rng.standard_normal((CLASSES, CHANNELS))
    means[structure] += shift
    features = means[labels].transpose(3, 0, 1, 2) + rng.standard_normal((CHANNELS, *SHAPE))
    traits = Traits.none(CLASSES, CHANNELS)
    cells = torch.from_numpy(p).float()[:, None].expand(-1, 8, *SHAPE).reshape(1, 8 * CLASSES, *SHAPE)
    for take in (traits.add, traits.add_square):
        take(torch.from_numpy(features).float()[None], cells, torch.ones(SHAPE))
    return traits


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(0)
    return Likeness.fit([scan(rng, doubt=rng.uniform(0.15, 0.25)) for _ in range(60)])


def test_scans_like_those_of_the_fit_seldom_lie_beyond_the_limit(fitted):
    rng = np.random.default_rng(1)
    unlike = [fitted.standing(scan(rng, doubt=rng.uniform(0.15, 0.25))).unlike for _ in range(200)]
    assert np.mean(unlike) <= 0.03


@pytest.mark.parametrize(
    ("change", "kind"), [({"shift": 3.0}, "look"), ({"size": 0.34}, "size"), ({"doubt": 0.9}, "doubt")]
)
def test_what_a_scan_has_of_its_own_is_found_and_named(fitted, change, kind):
    standing = fitted.standing(scan(np.random.default_rng(2), **change))
    assert standing.unlike and standing.kind == kind
    if kind != "doubt":
        assert standing.structure == 1
    assert standing.as_json(NAMES)["unlike_training"] is True


def test_the_sentence_says_how_far_where_and_what_to_do(fitted):
    standing = fitted.standing(scan(np.random.default_rng(2), shift=4.0, structure=2))
    (sentence,) = check_likeness(standing, NAMES)
    assert sentence.startswith("The scan is unlike those that the model was made for (distance ")
    assert f"{standing.distance:.1f}, limit {standing.limit:.1f}, most in two); do not trust" in sentence
    assert check_likeness(fitted.standing(scan(np.random.default_rng(3))), NAMES) == [] == check_likeness(None, NAMES)


def test_no_unit_of_the_features_changes_a_distance():
    """Mahalanobis's distance does not, whatever is linear; the shrinkage knows no direction, so turns are left."""
    turn = np.linalg.qr(np.random.default_rng(5).standard_normal((CHANNELS, CHANNELS)))[0] * 7.0

    def turned(traits):
        return Traits(traits.cells, traits.features @ turn, traits.bits, turn.T @ traits.square @ turn)

    rng = np.random.default_rng(0)
    scans, odd = [scan(rng) for _ in range(12)], scan(rng, shift=2.0)
    here, there = Likeness.fit(scans).standing(odd), Likeness.fit([turned(one) for one in scans]).standing(turned(odd))
    assert here.structure == there.structure and here.distance == pytest.approx(there.distance, rel=1e-3)
    assert here.limit == pytest.approx(there.limit, rel=1e-3)


def test_of_few_scans_the_limit_is_wide_and_of_fewer_there_is_none():
    rng = np.random.default_rng(0)
    scans = [scan(rng, doubt=rng.uniform(0.15, 0.25)) for _ in range(40)]
    assert Likeness.fit(scans[: FEWEST - 1]) is None
    assert Likeness.fit(scans[:FEWEST]).limit > Likeness.fit(scans).limit > 0


def test_a_structure_that_is_not_there_is_not_compared_by_its_look(fitted):
    traits = scan(np.random.default_rng(0))
    traits.cells[1], traits.features[1] = LEAST_CELLS / 2, 1e3
    assert fitted.standing(traits).kind == "size"


def test_numbers_without_end_give_a_distance_that_can_be_written(fitted):
    traits = scan(np.random.default_rng(0))
    traits.features[:] = 1e300
    assert json.dumps(fitted.standing(traits).as_json(NAMES), allow_nan=False)
    traits.features[:] = np.nan
    assert np.isfinite(fitted.standing(traits).distance)


@pytest.fixture(scope="module")
def known(a_model_folder, a_head_file, tmp_path_factory):
    """The model with random weights, fitted to windows of noise: whatever looks like a head is unlike them."""
    model = models.load(a_model_folder)
    rng = np.random.default_rng(0)
    section = model.section
    images = [rng.random((24, 24, 24), dtype=np.float32) for _ in range(12)]
    likeness = Likeness.fit([fitting.looked_at(model.encoder, image, section) for image in images])
    likeness.region.copy_(torch.tensor([0.0, 1.0, 2.0]))
    folder = tmp_path_factory.mktemp("models") / "known"
    models.save(folder, model.metadata, model.encoder, model.denoiser, likeness)
    return folder


def test_a_model_folder_keeps_what_it_knows(known, tmp_path):
    model = models.load(known)
    assert model.section["likeness"] == {"scans": 12}
    models.save(tmp_path / "again", model.metadata, model.encoder, model.denoiser, model.likeness)
    for name in ("metadata.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (known / name).read_bytes()
    models.save(tmp_path / "without", model.metadata, model.encoder, model.denoiser)
    without = models.load(tmp_path / "without")
    assert without.likeness is None and "likeness" not in without.section


def damaged(known, copy, change):
    """A copy of the folder with other numbers of its likeness, and a checksum that fits."""
    model = models.load(known)
    change(model.likeness)
    models.save(copy, model.metadata, model.encoder, model.denoiser, model.likeness)
    return copy


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda one: one.across.fill_(torch.nan), "finite"),
        (lambda one: one.typical.fill_(torch.inf), "finite"),
        (lambda one: one.within.fill_(1e30), "do not fit"),
        (lambda one: one.spread.fill_(0.0), "do not fit"),
        (lambda one: one.region.zero_(), "do not fit"),
        (lambda one: one.register_buffer("typical", torch.zeros(9, 9)), "do not fit"),
        (lambda one: one.register_buffer("more", torch.zeros(1)), "do not fit"),
    ],
)
def test_numbers_that_cannot_be_compared_with_are_refused(known, tmp_path, change, words):
    with pytest.raises(ModelError, match=words):
        models.load(damaged(known, tmp_path / "copy", change))


@pytest.mark.parametrize("entry", [3, [], {"scans": 0}, {"scans": "12"}, {}, {"scans": 10**9}, None])
def test_an_entry_that_does_not_say_what_is_there_is_refused(known, tmp_path, entry):
    folder = shutil.copytree(known, tmp_path / "copy")
    metadata = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    metadata["diffusion_segmentation"]["likeness"] = entry
    (folder / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    with pytest.raises(ModelError, match="likeness|do not fit"):
        models.load(folder)


def test_a_run_warns_first_of_all_and_the_report_has_the_numbers(known, a_head_file, tmp_path, capsys):
    said = []
    outcome = segment(Request(a_head_file, tmp_path / "out", str(known), 2, device="cpu"), progress=said.append)
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    found = report["input"]
    assert found["unlike_training"] and found["distance"] > found["limit"] > 0 and found["farthest"]["in"] in KINDS
    assert report["warnings"][0].startswith("The scan is unlike those that the model was made for (distance ")
    assert report["warnings"][0] in [now.note for now in said]
    assert report["regions"] and all(np.isfinite(region["distance"]) for region in report["regions"])
    assert report["region_limit"] == 2.0 and report == json.loads(json.dumps(outcome.report))
    arguments = ["segment", str(a_head_file), "--output", str(tmp_path / "again"), "--model", str(known)]
    assert cli.main([*arguments, "--samples", "2"]) == 0
    assert f"warning: {report['warnings'][0]}\n" in capsys.readouterr().err


def test_a_model_that_knows_no_scans_works_as_before(a_model_folder, a_head_file, tmp_path):
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
    one, several = (Encoded(model, image, CPU, lambda: None, cover) for cover in (None, tiling))
    assert one.strangeness().shape == image.shape == several.strangeness().shape
    assert one._traits.cells.sum() == pytest.approx(25 * 14 * 16) == several._traits.cells.sum()
    assert one.standing().distance == pytest.approx(several.standing().distance, rel=0.3)


def test_strange_cells_are_found_among_others(fitted):
    rng = np.random.default_rng(7)
    labels = rng.integers(1, CLASSES, SHAPE)
    features = labels[None] + 0.3 * rng.standard_normal((CHANNELS, *SHAPE))
    features[:, :2, :2, :2] += 8
    p = class_softmax(torch.from_numpy(20.0 * np.eye(CLASSES)[labels].transpose(3, 0, 1, 2)).float()[:, None]
                      .expand(-1, 8, *SHAPE).reshape(1, 8 * CLASSES, *SHAPE))  # fmt: skip
    found = fitted.strangeness(torch.from_numpy(features).float()[None], p)[0, 0]
    assert found[:2, :2, :2].min() > 4 * found[3:].mean()


SMALL = {
    "diffusion_segmentation": {
        "network": {"encoder": {"channels": [8, 8], "blocks": [1, 1]}, "denoiser": {"channels": [8, 8], "blocks": 1}}
    },
    "optimisation": {"iterations": 4, "batch": 2, "warm_up": 1},
}


@pytest.mark.parametrize("task", ["boundary:16x16", "lesions:16x16x16"])
def test_training_and_calibration_both_tell_a_model_of_its_scans(task, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "SCANS", {2: 40, 3: 10})
    config = tmp_path / "config.json"
    config.write_text(json.dumps(SMALL), encoding="utf-8")
    trained = models.load(train.main(task, tmp_path / "model", config))
    assert trained.section["likeness"] == {"scans": fitting.SCANS[trained.dims]}
    models.save(tmp_path / "old", trained.metadata, trained.encoder, trained.denoiser)
    for name in ("COMPARED", "SAMPLES"):
        monkeypatch.setattr(calibrate, name, 3)
    calibrate.calibrate(calibrate.Request(str(tmp_path / "old"), task, tmp_path / "new", cases=4))
    again = models.load(tmp_path / "new").likeness
    assert again.scans == fitting.SCANS[trained.dims] and float(again.limit) > 0
    # An image of the task is as usual, and one that has nothing in common with it is not.
    image = next(iter(train.open_source(task, tmp_path).scans(1, 99)))
    usual = again.standing(fitting.looked_at(trained.encoder, image, trained.section))
    bright = again.standing(fitting.looked_at(trained.encoder, 30 + 9 * image, trained.section))
    assert not usual.unlike and bright.unlike and bright.distance > 3 * usual.distance


def test_too_few_cases_of_ones_own_leave_what_the_model_knew(known):
    class Few:
        def scans(self, count, seed):
            yield from np.zeros((FEWEST - 1, 16, 16, 16), np.float32)

    model = models.load(known)
    assert fitting.fit_likeness(model.encoder, model.section, Few(), 0) is None
