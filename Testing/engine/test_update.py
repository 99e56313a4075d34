"""Updates of a result: facts in files, the request, and what the result files say of it."""

import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from diffusion_segmentation import any_model, cli
from diffusion_segmentation.diffusion.copula import Copula
from diffusion_segmentation.errors import Cancelled, InputError, ModelError
from diffusion_segmentation.images import resampling
from diffusion_segmentation.images.working_grid import Grid
from diffusion_segmentation.model.building import build
from diffusion_segmentation.model.folder import save
from diffusion_segmentation.networks import UNKNOWN
from diffusion_segmentation.segmentation.facts import ROUGH, Facts, FactsProjection
from diffusion_segmentation.segmentation.pipeline import ModelCache, Request, segment
from diffusion_segmentation.segmentation.sampler import EncodedVolume
from diffusion_segmentation.segmentation.updating import update_request

COVARIANCE = {"scales_mm": [6.0, 20.0], "weights": [[0.5, 0.3]] * 3, "shared": [0.2] * 3}


@pytest.fixture(scope="module")
def models(a_model_folder, tmp_path_factory):
    """A model that was trained with facts, one whose samples are copula masks, and one that can follow none."""
    root = tmp_path_factory.mktemp("models")
    for name in ("plain", "copula"):
        shutil.copytree(a_model_folder, root / name)
    metadata = json.loads((a_model_folder / "metadata.json").read_text(encoding="utf-8"))
    section = metadata["diffusion_segmentation"]
    start = {"covariance": COVARIANCE, "log_snr": None}
    changed = {**metadata, "diffusion_segmentation": {**section, "start": start}}
    (root / "copula" / "metadata.json").write_text(json.dumps(changed), encoding="utf-8")
    section["network"]["denoiser"]["facts"] = True
    torch.manual_seed(7)
    encoder, denoiser = build(section["network"], 3)
    for layer in (denoiser.head, denoiser.facts.head):
        torch.nn.init.normal_(layer.weight, std=0.2)
    save(root / "facts", metadata, encoder, denoiser)
    return root


def read(folder, name):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(folder / name)))


def write_facts(path, volume, **places):
    """A facts file with the labels of the `places`, {label_N: slices}."""
    image = sitk.ReadImage(str(volume))
    labels = np.full(image.GetSize()[::-1], UNKNOWN, np.uint8)
    for name, place in places.items():
        labels[place] = int(name.removeprefix("label_"))
    facts = sitk.GetImageFromArray(labels)
    facts.CopyInformation(image)
    sitk.WriteImage(facts, str(path))
    return path


@pytest.mark.parametrize("kind", ["facts", "copula"])
def test_a_result_follows_the_facts_and_keeps_them(kind, models, a_head_file, tmp_path):
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    cache = ModelCache()
    run = {"model": str(models / kind), "samples": 4, "seed": 5, "device": "cpu", "keep_samples": True}
    segment(Request(a_head_file, first, **run), models=cache)
    place, edge = np.s_[10:18, 12:30, 10:26], np.s_[0, 0, :3]
    facts = write_facts(tmp_path / "facts.nrrd", a_head_file, label_2=place, label_1=edge)
    options = {"device": "cpu", "keep_samples": True, "model": str(models / kind)}
    outcome = segment(update_request(first, a_head_file, facts, second, **options), models=cache)
    stored = sitk.ReadImage(str(second / "samples.seq.nrrd"))
    first_voxel = sitk.ReadImage(str(a_head_file)).TransformPhysicalPointToIndex(stored.GetOrigin())
    assert first_voxel == (0, 0, 0)  # the box of the run begins at the known foreground in the corner
    samples = sitk.GetArrayFromImage(stored)
    before, after, entropy = (
        read(*of)
        for of in ((first, "segmentation.seg.nrrd"), (second, "segmentation.seg.nrrd"), (second, "entropy.nrrd"))
    )
    assert (after[place] == 2).all() and (after[edge] == 1).all() and not entropy[place].any()
    assert samples.shape[-1] == 4
    assert (samples[place] == 2).all() and (samples[edge] == 1).all()
    outside = read(second, "facts.nrrd") == UNKNOWN
    assert (before != after)[outside].any()
    assert outcome.report["facts"] == {
        "voxels": int((~outside).sum()),
        "rounds": 1,
        "labels": {"Structure 1": 3, "Structure 2": int((~outside).sum()) - 3},
    }
    assert (ROUGH in outcome.report["warnings"]) == (kind == "copula")
    assert outcome.report["samples"] == 4 and outcome.report["seed"] == 5
    # The second round keeps the facts of the first, but where it says something else.
    small = np.s_[10:12, 12:14, 10:12]
    changed = write_facts(tmp_path / "more.nrrd", a_head_file, label_0=small)
    report = segment(update_request(second, a_head_file, changed, third, **options), models=cache).report
    labels = read(third, "segmentation.seg.nrrd")
    assert (labels[small] == 0).all() and (labels[place] == 2).sum() == after[place].size - 8
    assert report["facts"]["rounds"] == 2 and report["facts"]["voxels"] == int((~outside).sum())


def test_the_check_on_own_cases_does_not_hold_for_an_update(models, a_head_file, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(models / "copula", model)
    metadata = json.loads((model / "metadata.json").read_text(encoding="utf-8"))
    factors = {"factor50": 1.5, "factor90": 2.0, "floor50": 0.0, "floor90": 0.0}
    metadata["diffusion_segmentation"]["own_cases"] = {
        "data": {"kind": "folder", "name": "Clinic"},
        "cases": [f"case{n}" for n in range(24)],
        "samples": 4,
        "steps": 0,
        "temperature": 1.5,
        "structures": [factors | {"label": 1, "cases": 24, "held50": 13, "held90": 22}],
    }
    (model / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    run = {"model": str(model), "samples": 4, "device": "cpu"}
    before = segment(Request(a_head_file, tmp_path / "first", **run)).report
    place = np.s_[10:18, 12:30, 10:26]
    facts = write_facts(tmp_path / "facts.nrrd", a_head_file, label_2=place)
    request = update_request(tmp_path / "first", a_head_file, facts, tmp_path / "second", str(model), device="cpu")
    after = segment(request).report
    assert before["own_cases"]["checked"] and before["volumes"][0]["held90"] == 22
    assert not after["own_cases"]["checked"] and "given corrections" in after["own_cases"]["sentence"]
    assert "held90" not in after["volumes"][0] and after["volumes"][0]["interval90_factor"] == 2.0
    assert not read(tmp_path / "second", "entropy.nrrd")[place].any()  # the temperature leaves facts as they are


def test_memory_of_another_run_is_free_before_the_next(models, a_head_file, tmp_path):
    cache, run = ModelCache(), {"model": str(models / "facts"), "samples": 2, "device": "cpu"}
    held: list[object] = []
    segment(Request(a_head_file, tmp_path / "a", **run), models=cache)
    assert cache._encoded is not None
    note = lambda now: held.append(cache._encoded) if now.stage == "encoding" else None  # noqa: E731
    segment(Request(a_head_file, tmp_path / "b", **run), progress=note, models=cache)
    assert held and held[0] is None


def test_what_is_kept_of_the_result_before_changes_no_file(models, a_head_file, tmp_path, monkeypatch):
    monkeypatch.setattr(resampling, "BLOCK_VALUES", 6000)
    cache, run = ModelCache(), {"model": str(models / "copula"), "samples": 4, "seed": 5, "device": "cpu"}
    run |= {"keep_samples": True, "compress": False}
    done, original = [], FactsProjection._interpolated
    monkeypatch.setattr(FactsProjection, "_interpolated", lambda self, *of: done.append(1) or original(self, *of))
    segment(Request(a_head_file, tmp_path / "first", **run), models=cache)
    facts = write_facts(tmp_path / "facts.nrrd", a_head_file, label_2=np.s_[8:12, 10:14, 10:14])
    warm = segment(Request(a_head_file, tmp_path / "warm", facts=(facts,), **run), models=cache).report
    again = len(done)
    cold = segment(Request(a_head_file, tmp_path / "cold", facts=(facts,), **run)).report
    assert 0 < again < len(done) - again
    assert len(warm["files"]) == 7
    assert {**warm, "timings_s": 0} == {**cold, "timings_s": 0}  # with the digests of all files
    cache.clear()
    assert not cache.maps


def test_an_update_is_cancelled_while_its_masks_are_drawn(models, a_head_file, tmp_path):
    facts = write_facts(tmp_path / "facts.nrrd", a_head_file, label_2=np.s_[10:18, 12:30, 10:26])
    run = {"model": str(models / "copula"), "samples": 16, "device": "cpu"}
    cache, drawn, original = ModelCache(), [], Copula.drawn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Copula, "drawn", lambda self, seed: drawn.append(seed) or original(self, seed))
        with pytest.raises(Cancelled):
            segment(
                Request(a_head_file, tmp_path / "out", facts=(facts,), **run),
                cancel=lambda: "drop" if len(drawn) >= 3 else None,
                models=cache,
            )
    assert len(drawn) == 3
    warm = segment(Request(a_head_file, tmp_path / "warm", facts=(facts,), **run), models=cache).report
    cold = segment(Request(a_head_file, tmp_path / "cold", facts=(facts,), **run)).report
    assert warm["files"] == cold["files"]


@pytest.mark.slow
def test_an_update_reuses_what_the_encoder_gave(models, a_head_file, tmp_path, monkeypatch):
    cache, made = ModelCache(), []
    original = EncodedVolume.__init__
    monkeypatch.setattr(EncodedVolume, "__init__", lambda self, *given: made.append(1) or original(self, *given))
    run = {"model": str(models / "facts"), "samples": 2, "device": "cpu"}
    facts = write_facts(tmp_path / "facts.nrrd", a_head_file, label_1=np.s_[10:18, 12:30, 10:26])
    segment(Request(a_head_file, tmp_path / "a", **run), models=cache)
    warm = segment(Request(a_head_file, tmp_path / "b", facts=(facts,), **run), models=cache)
    assert len(made) == 1
    cold = segment(Request(a_head_file, tmp_path / "c", facts=(facts,), **run))
    assert len(made) == 2 and warm.report["volumes"] == cold.report["volumes"]
    cache.clear()
    segment(Request(a_head_file, tmp_path / "d", **run), models=cache)
    assert len(made) == 3


def test_a_working_voxel_is_known_if_half_of_it_is(models):
    image = sitk.Image((8, 8, 8), sitk.sitkFloat32)
    image.SetSpacing((2.0, 2.0, 2.0))
    working_grid = Grid(4.0, (), []).resampled(image)
    labels = np.full((8, 8, 8), UNKNOWN, np.uint8)
    labels[2:8], labels[:, :, :2] = 2, 1
    working, foreground = Facts(labels).on_working_grid(working_grid, image)
    assert working.shape == (4, 4, 4) and foreground[:, :, 0].all()
    assert (working[:, 1:3, 0] == 1).all() and (working[2:, 1:3, 2:] == 2).all()
    assert (working[0, 1:3, 2:] == UNKNOWN).all()
    labels[:] = UNKNOWN
    labels[4, 4, 4] = 1
    working, foreground = Facts(labels).on_working_grid(working_grid, image)
    assert (working == UNKNOWN).all() and foreground[2, 2, 2]


def test_what_cannot_be_followed_is_refused_and_leaves_no_folder(models, a_head_file, tmp_path):
    facts = write_facts(tmp_path / "facts.nrrd", a_head_file, label_1=np.s_[1:3, 1:3, 1:3])
    empty, wrong = write_facts(tmp_path / "empty.nrrd", a_head_file), tmp_path / "wrong.nrrd"
    write_facts(wrong, a_head_file, label_7=np.s_[1:3, 1:3, 1:3])
    run = {"model": str(models / "facts"), "samples": 2, "device": "cpu"}
    for file, words in ((empty, "no known voxel"), (wrong, "label 7"), (a_head_file, "label")):
        with pytest.raises(InputError, match=words):
            segment(Request(a_head_file, tmp_path / "out", facts=(file,), **run))
    with pytest.raises(ModelError, match="not trained to follow corrections"):
        segment(Request(a_head_file, tmp_path / "out", facts=(facts,), **{**run, "model": str(models / "plain")}))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_command_updates_the_folder_of_a_result(models, a_head_file, tmp_path, capsys):
    folder, model = tmp_path / "result", str(models / "facts")
    facts = str(write_facts(tmp_path / "facts.nrrd", a_head_file, label_2=np.s_[10:18, 12:30, 10:26]))
    common = ["--facts", facts, "--output", str(folder), "--device", "cpu"]
    assert cli.main(["segment", str(a_head_file), "--model", model, "--samples", "2", *common[2:]]) == 0
    update = ["update", str(folder), str(a_head_file), *common]
    assert cli.main([*update, "--model", model]) == 0
    assert cli.main([*update, "--model", model]) == 0
    assert json.loads((folder / "report.json").read_text(encoding="utf-8"))["facts"]["rounds"] == 2
    other = sitk.ReadImage(str(a_head_file)) + 1.0
    sitk.WriteImage(other, str(tmp_path / "other.nrrd"))
    refused = (
        ([*update, "--model", str(models / "plain")], "another version of the model"),
        (["update", str(folder), str(tmp_path / "other.nrrd"), *common, "--model", model], "not the one of the result"),
        (["update", str(tmp_path), str(a_head_file), *common], "not the folder of a finished run"),
        (update, "no model"),
    )
    for arguments, words in refused:
        assert cli.main(arguments) == 1
        assert words in capsys.readouterr().err


def test_models_that_others_trained_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(any_model, "foreign_model", lambda name: ("nnunet", tmp_path / "net"))
    with pytest.raises(ModelError, match="'net' has no samples"):
        any_model.segment(Request(tmp_path / "a.nrrd", tmp_path / "out", facts=(tmp_path / "f.nrrd",)))


def write_body(path, centre):
    """A ball of two tissues, 12 voxels of 4 mm in radius, at `centre` along the first axis of a volume of 80 voxels."""
    k, j, i = np.ogrid[:40, :40, :80]
    r = np.sqrt((k - 20) ** 2 + (j - 20) ** 2 + (i - centre) ** 2) / 12
    values = np.where(r < 0.5, 60.0, 100.0) * (r < 1) + 5 * np.random.default_rng(3).random(r.shape)
    image = sitk.GetImageFromArray(values.astype(np.float32))
    image.SetSpacing((4.0, 4.0, 4.0))
    sitk.WriteImage(image, str(path))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("moved", ["volume", "facts"])
def test_maps_of_another_place_are_not_used_again(moved, models, tmp_path):
    """Parts of equal size elsewhere: of another scan of that size, or because of facts on the other side."""
    first = write_body(tmp_path / "first.nrrd", 40)
    second = write_body(tmp_path / "second.nrrd", 60) if moved == "volume" else first
    run = {"model": str(models / "copula"), "samples": 2, "seed": 5, "device": "cpu", "keep_samples": True}
    cache = ModelCache()
    segment(Request(first, tmp_path / "a", **run), models=cache)
    place = np.s_[18:22, 18:22, 58:62]
    if moved == "facts":
        box = sitk.ReadImage(str(tmp_path / "a" / "samples.seq.nrrd"))
        start = sitk.ReadImage(str(first)).TransformPhysicalPointToIndex(box.GetOrigin())[0]
        left = write_facts(tmp_path / "left.nrrd", first, label_2=np.s_[18:24, 18:24, start - 6 : start - 3])
        segment(Request(first, tmp_path / "b", facts=(left,), **run), models=cache)
        end = start + box.GetSize()[0]
        place = np.s_[18:24, 18:24, end + 3 : end + 6]
    facts = (write_facts(tmp_path / "facts.nrrd", second, label_2=place),)
    warm = segment(Request(second, tmp_path / "warm", facts=facts, **run), models=cache)
    cold = segment(Request(second, tmp_path / "cold", facts=facts, **run))
    assert warm.report["files"] == cold.report["files"] and warm.report["volumes"] == cold.report["volumes"]
