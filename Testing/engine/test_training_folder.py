"""Training from a folder: what is prepared, which windows are drawn, and from files to a model that segments."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from diffusion_segmentation.errors import InputError
from diffusion_segmentation.images.dataset import Case
from diffusion_segmentation.images.label_file import IGNORED
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.segmentation.pipeline import Request, segment
from diffusion_segmentation.study import tasks
from diffusion_segmentation.training import train
from diffusion_segmentation.training.defaults import labels
from diffusion_segmentation.training.folder import Folder, _place
from diffusion_segmentation.training.loss import dice_loss, losses
from diffusion_segmentation.training.settings import Optimisation, merged

SMALL = {
    "diffusion_segmentation": {
        "network": {
            "encoder": {"channels": [8, 8], "blocks": [1, 1]},
            "denoiser": {"channels": [8, 8], "blocks": 1},
        },
        "steps": {"cpu": 3, "gpu": 3},
    },
    "optimisation": {"iterations": 3, "shapes": [[16, 16, 16]], "precision": "float32", "warm_up": 1},
}


def ball(radius, size=24):
    grid = np.stack(np.meshgrid(*[np.arange(size) - size / 2] * 3, indexing="ij"))
    return (np.sqrt((grid**2).sum(0)) < radius).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Five cases at 2 mm, a ball each; of one case two raters who disagree on the radius."""
    root = tmp_path / "data"
    (root / "imagesTr").mkdir(parents=True)
    (root / "labelsTr").mkdir()
    rng = np.random.default_rng(0)
    for n in range(5):
        image = sitk.GetImageFromArray(
            (100 * ball(10) + 100 * ball(5) + rng.normal(0, 3, (24,) * 3)).astype(np.float32)
        )
        image.SetSpacing((2, 2, 2))
        sitk.WriteImage(image, root / "imagesTr" / f"case{n}_0000.nii.gz")
        for name, radius in ((f"case{n}", 5),) if n else (("case0_rater1", 4), ("case0_rater2", 6)):
            label = sitk.GetImageFromArray(ball(radius))
            label.CopyInformation(image)
            sitk.WriteImage(label, root / "labelsTr" / f"{name}.nii.gz")
    listing = {"name": "Balls", "channel_names": {"0": "MRI"}, "labels": {"background": 0, "ball": 1}}
    (root / "dataset.json").write_text(json.dumps(listing), encoding="utf-8")
    return root


def opened(folder, **changes):
    source = Folder(folder, folder.parent / "prepared")
    source.configure({"working_spacing_mm": 2.0, **changes})
    return source


def test_defaults_come_from_the_data(folder):
    section = Folder(folder, folder.parent / "prepared").settings()["diffusion_segmentation"]
    assert section["working_spacing_mm"] == 2.0 and section["labels"][0]["name"] == "ball"
    assert section["labels"][0]["id"] == "ball" and "intensity" not in section


def test_labels_of_like_names_are_told_apart():
    names = ["Left +", "Left -", "left", "+", "left_2"]
    found = [entry["id"] for entry in labels(names)]
    assert found[0] == "left" and len(set(found)) == 5 and [entry["name"] for entry in labels(names)] == names


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"title": "two\nlines"}, "'title' is missing or cannot be used"),
        ({"window": [16, 16]}, "'window' is missing or cannot be used"),
        ({"working_spacing_mm": 0}, "'working_spacing_mm' is missing or cannot be used"),
    ],
)
def test_what_no_model_may_have_is_refused_before_the_training(folder, changed, words):
    source = Folder(folder, folder.parent / "prepared")
    settings = source.settings()
    settings["diffusion_segmentation"].update(changed)
    with pytest.raises(InputError, match=words):
        train.Run(settings, Optimisation(), source, 1.0)


def test_cases_are_held_out_and_stay_so_when_others_are_added(folder):
    source = Folder(folder, folder.parent / "prepared")
    held_out = {case.name for case in source.held_out}
    assert held_out and source.seen and held_out.isdisjoint(case.name for case in source.seen)
    for part, suffix in (("imagesTr", "_0000"), ("labelsTr", "")):
        (folder / part / f"case9{suffix}.nii.gz").write_bytes((folder / part / f"case4{suffix}.nii.gz").read_bytes())
    assert {case.name for case in Folder(folder, folder.parent / "p").held_out} - {"case9"} == held_out


def test_held_out_is_about_a_fifth(folder):
    for n in range(10, 110):
        for part, suffix in (("imagesTr", "_0000"), ("labelsTr", "")):
            (folder / part / f"case{n}{suffix}.nii.gz").touch()
    source = Folder(folder, folder.parent / "prepared")
    assert 10 <= len(source.held_out) <= 32 and len(source.held_out) + len(source.seen) == 105


def test_scans_are_whole_and_first_those_that_were_held_out(folder):
    source = opened(folder)
    cases = [np.load(image) for image, _ in source.prepare([*source.held_out, *source.seen])]
    found = list(source.scans(64, 0))
    assert len(found) == len(cases) == 5
    for scan, case in zip(found, cases, strict=True):
        assert scan.dtype == np.float32 and (scan == case).all()
    assert len(list(source.scans(2, 0))) == 2
    source.held_out = source.held_out * 20  # enough of them: what was trained on looks too usual
    assert len(list(source.scans(64, 0))) == len(source.held_out)


def test_windows_keep_the_label_volume_and_draw_raters_at_random(folder):
    optimisation = Optimisation(shapes=((24, 24, 24),), draws=4)
    source = opened(folder)
    source.seen, source.held_out = [c for c in source.dataset.training if c.name == "case0"], []
    stream = iter(source.stream(optimisation, 1))
    volumes = []
    for _ in range(30):
        image, labels = next(stream)
        assert image.shape == (1, 24, 24, 24) and labels.shape == (4, 24, 24, 24) and labels.dtype == torch.uint8
        assert 0 <= image.min() and image.max() <= 1.5
        volumes += labels.flatten(1).sum(1, dtype=torch.float).tolist()
    small, large = ball(4).sum(), ball(6).sum()
    smaller = np.mean(np.array(volumes) < (small + large) / 2)
    assert 0.35 < smaller < 0.65, "each rater half of the time"


def test_windows_are_drawn_without_looking_at_the_label_unless_asked(folder):
    hits = {}
    for crops in ("image", "labels"):
        source = opened(folder)
        windows = source.stream(Optimisation(shapes=((8, 8, 8),), crops=crops, draws=1), 3)
        windows.augment = False
        stream = iter(windows)
        hits[crops] = np.mean([next(stream)[1].any().item() for _ in range(200)])
    assert hits["labels"] > hits["image"] + 0.08


def test_choices_that_void_calibration_are_told():
    assert Optimisation().warnings() == []
    told = Optimisation(crops="labels", dice_weight=1.0, class_weights=(1.0, 2.0)).warnings()
    assert len(told) == 3 and all(sentence.endswith("will not be calibrated.") for sentence in told)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"epochs": 3}, "unknown entry 'epochs'"),
        ({"iterations": "many"}, "wrong type"),
        ({"iterations": 0}, "above 0"),
        ({"batch": 2, "shapes": [[8, 8, 8], [16, 16, 16]]}, "'batch' .* must be 1 where"),
        ({"crops": "mask"}, "crops"),
    ],
)
def test_settings_that_cannot_be_are_refused(section, words):
    with pytest.raises(InputError, match=words):
        Optimisation.read(section)


def test_merging_keeps_what_is_not_named():
    assert merged({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"c": 3}, "d": [2]}) == {"a": {"b": 1, "c": 3}, "d": [2]}


@pytest.mark.parametrize("change", [{"origin": (50, 0, 0)}, {"direction": (-1, 0, 0, 0, 1, 0, 0, 0, 1)}])
def test_a_label_off_its_images_grid_is_refused(folder, change):
    path = next((folder / "labelsTr").glob("case1*"))
    label = sitk.ReadImage(path)
    label.SetOrigin(change.get("origin", label.GetOrigin()))
    label.SetDirection(change.get("direction", label.GetDirection()))
    sitk.WriteImage(label, path)
    source = opened(folder)
    with pytest.raises(InputError, match="case1.*grid"):
        for cases in (source.seen, source.held_out):
            source.prepare(cases)


def changed(folder, change):
    """Apply a change to the image or label files, or to the listing."""
    if isinstance(change, dict):
        listing = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        (folder / "dataset.json").write_text(json.dumps(listing | change), encoding="utf-8")
        return
    part, name, value = change
    path = folder / part / name
    image = sitk.ReadImage(path)
    image[12, 12, 12] = value
    sitk.WriteImage(image, path)


STALE = {
    "an image": ("imagesTr", "case1_0000.nii.gz", 7777.0),
    "a label": ("labelsTr", "case1.nii.gz", 0),
    "a rater's label": ("labelsTr", "case0_rater2.nii.gz", 0),
    "the numbering": {"labels": {"background": 0, "sphere": 1}},
    "what is ignored": {"labels": {"background": 0, "ball": 1, "ignore": 2}},
}


@pytest.mark.parametrize("case", STALE)
def test_prepared_files_do_not_outlive_what_they_were_made_of(folder, case):
    def prepared():
        source = opened(folder)
        return {path: path.stat().st_mtime_ns for path, _ in source.prepare(source.seen + source.held_out)}

    before = prepared()
    assert prepared() == before, "what has not changed is not prepared again"
    changed(folder, STALE[case])
    assert len(prepared().keys() - before.keys()) == (5 if isinstance(STALE[case], dict) else 1)


def test_another_data_set_of_the_same_name_is_prepared_anew(folder):
    def first():
        source = opened(folder)
        ((image, _), *_) = source.prepare([case for case in source.dataset.training if case.name == "case1"])
        return np.load(image)

    before = first()
    for part, suffix in (("imagesTr", "_0000"), ("labelsTr", "")):
        path = folder / part / f"case1{suffix}.nii.gz"
        old = sitk.ReadImage(path)
        new = sitk.GetImageFromArray(sitk.GetArrayFromImage(old)[::-1])
        new.CopyInformation(old)
        sitk.WriteImage(new, path)
    assert not np.array_equal(first(), before)


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_something_is_left_to_train_on_whatever_the_cases_are_called(folder, count):
    """These names all fall into the fifth that is held out."""
    names = [n for n in (f"case_{k:02d}" for k in range(200)) if folder_place(n) < 0.2][:count]
    for part, suffix in (("imagesTr", "_0000"), ("labelsTr", "")):
        content = (folder / part / f"case1{suffix}.nii.gz").read_bytes()
        for path in (folder / part).iterdir():
            path.unlink()
        for name in names:
            (folder / part / f"{name}{suffix}.nii.gz").write_bytes(content)
    source = opened(folder)
    assert len(source.held_out) == count // 2 and len(source.seen) == count - count // 2
    next(iter(source.stream(Optimisation(shapes=((8, 8, 8),), draws=1), 0)))


def folder_place(name):
    return _place(Case(name, None, ()))


def test_labels_that_nothing_can_be_learnt_from_are_refused_or_told(folder, capsys):
    changed(folder, {"labels": {"background": 0, "ball": 1, "vessel": 2}})
    opened(folder).stream(Optimisation(shapes=((8, 8, 8),)), 0)
    assert "No training case has the label 'vessel', so the model cannot learn it." in capsys.readouterr().err
    for path in (folder / "labelsTr").iterdir():
        sitk.WriteImage(sitk.ReadImage(path) * 0, path)
    with pytest.raises(InputError, match="None of the [34] training cases has a labelled voxel"):
        opened(folder).stream(Optimisation(shapes=((8, 8, 8),)), 0)


def test_some_cases_without_a_structure_are_counted(folder, capsys):
    name = opened(folder).seen[0].labels[0]
    sitk.WriteImage(sitk.ReadImage(name) * 0, name)
    opened(folder).stream(Optimisation(shapes=((8, 8, 8),)), 0)
    assert "1 of 4 training cases have no labelled voxel" in capsys.readouterr().err


def test_augmented_labels_are_labels_of_the_case(folder):
    """Interpolated between 0 and 2 they would be 1, another structure: the nearest voxel's label is taken."""
    for path in (folder / "labelsTr").iterdir():
        sitk.WriteImage(sitk.ReadImage(path) * 2, path)
    changed(folder, {"labels": {"background": 0, "shell": 1, "ball": 2}})
    stream = iter(opened(folder).stream(Optimisation(shapes=((24, 24, 24),), draws=1), 2))
    found = [torch.bincount(next(stream)[1].flatten().long(), minlength=3) for _ in range(40)]
    assert torch.stack(found)[:, 1].sum() == 0 and len({int(count[2]) for count in found}) > 5


def test_the_seed_determines_the_augmented_windows(folder):
    optimisation = Optimisation(shapes=((16, 16, 16),), draws=1)
    streams = [iter(opened(folder).stream(optimisation, seed)) for seed in (3, 3, 4)]
    first, again, other = (torch.stack([next(stream)[0] for _ in range(6)]) for stream in streams)
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_ignored_voxels_do_not_train(folder):
    changed(folder, {"labels": {"background": 0, "ball": 1, "ignore": 2}})
    for path in (folder / "labelsTr").iterdir():
        label = sitk.ReadImage(path)
        label[:12, :, :] = 2
        sitk.WriteImage(label, path)
    source = opened(folder)
    assert source.settings()["diffusion_segmentation"]["labels"][0]["name"] == "ball"
    assert len(source.settings()["diffusion_segmentation"]["labels"]) == 1
    masks = np.load(source.prepare(source.seen)[0][1])
    assert 0.3 < (masks == IGNORED).mean() < 0.7 and set(np.unique(masks)) == {0, 1, IGNORED}
    optimisation = Optimisation(shapes=((16, 16, 16),), draws=1, crops="labels")
    image, labels = next(iter(source.stream(optimisation, 0)))
    assert (labels == IGNORED).any()


@pytest.mark.parametrize("dice_weight", [0.0, 0.5])
@pytest.mark.parametrize("class_weights", [None, (1.0, 3.0)])
def test_what_is_ignored_adds_nothing_to_the_loss(dice_weight, class_weights):
    torch.manual_seed(0)
    network = {"encoder": {"channels": [8, 8], "blocks": [1, 1]}, "denoiser": {"channels": [8, 8], "blocks": 1}}
    encoder, denoiser = models.build(network, 2)
    image, labels = torch.rand(1, 1, 16, 16, 16), torch.randint(0, 2, (1, 1, 16, 16, 16), dtype=torch.uint8)
    some = labels.clone()
    some[..., :8] = IGNORED

    def loss(masks):
        torch.manual_seed(1)
        levels = torch.full((1, 2), -20.0)
        return losses(encoder, denoiser, image, masks, 2, levels, class_weights, dice_weight)[2]

    # In pure noise the state says nothing of the labels, so the loss is that of the voxels that count.
    half = loss(some)
    if not dice_weight and not class_weights:
        rest = labels.clone()
        rest[..., 8:] = IGNORED
        assert torch.isclose((half + loss(rest)) / 2, loss(labels), rtol=1e-3)
    other = some.clone()
    other[..., 8:] = 1 - other[..., 8:]
    assert half.isfinite() and not torch.isclose(loss(other), half)
    assert loss(torch.full_like(labels, IGNORED)).isfinite()
    gradient = torch.autograd.grad(loss(torch.full_like(labels, IGNORED)), encoder.parameters(), allow_unused=True)
    assert all(g is None or g.abs().max() < 1e-6 for g in gradient)


def test_the_dice_term_does_not_see_what_is_ignored():
    truth = torch.randint(0, 2, (1, 8, 4, 4, 4))
    answer = torch.stack([truth == 0, truth == 1], 1).float().mul(40).sub(20).flatten(1, 2)
    assert dice_loss(answer, truth, 2) < 0.01
    wrong = answer.clone().unflatten(1, (2, 8))
    wrong[:, :, :4] *= -1
    some = truth.clone()
    some[:, :4] = IGNORED
    assert dice_loss(wrong.flatten(1, 2), some, 2) < 0.01 < 0.3 < dice_loss(wrong.flatten(1, 2), truth, 2)


def test_a_study_on_a_folder_begins_anew_when_a_label_is_corrected(folder, tmp_path):
    sizes = tasks.Sizes(train=16, validation=16, test=4)
    first = tasks.prepare(str(folder), tmp_path / "cache", sizes)
    again = tasks.prepare(str(folder), tmp_path / "cache", sizes)
    assert (first.content, first.folder) == (again.content, again.folder) and first.name == "Balls"
    volumes = first.arrays(tasks.TRAIN)[1].sum()
    for path in (folder / "labelsTr").iterdir():
        label = sitk.ReadImage(path)
        sitk.WriteImage(sitk.BinaryDilate(label, [2, 2, 2]), path)
    corrected = tasks.prepare(str(folder), tmp_path / "cache", sizes)
    assert corrected.content != first.content and corrected.arrays(tasks.TRAIN)[1].sum() > 1.2 * volumes
    changed(folder, {"labels": {"background": 0, "ball": 1, "ignore": 2}})
    with pytest.raises(InputError, match="A study needs every voxel labelled"):
        tasks.prepare(str(folder), tmp_path / "cache", sizes)


def test_from_files_to_a_segmentation(folder, tmp_path, capsys):
    (folder / "imagesTr" / "unlabelled_0000.nii.gz").write_bytes(b"")
    config = tmp_path / "config.json"
    config.write_text(json.dumps(merged(SMALL, {"optimisation": {"dice_weight": 0.5}})), encoding="utf-8")
    output = train.main(str(folder), tmp_path / "model", config)
    said = capsys.readouterr().err
    assert "images in imagesTr without a label, left out: 1" in said
    assert "will not be calibrated" in said and "training on 4 cases; 1 held out: case" in said
    section = models.load(output).section
    names = section["training"]["data"]
    assert sorted(names["cases"] + names["held_out"]) == [f"case{n}" for n in range(5)]
    assert (output / "training.png").stat().st_size > 10_000
    assert len(json.loads((output / "training.json").read_text())["record"]) >= 1
    request = Request(folder / "imagesTr" / "case1_0000.nii.gz", tmp_path / "result", str(output), 2, device="cpu")
    assert segment(request).report["volumes"][0]["name"] == "ball"
