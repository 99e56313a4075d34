"""Windows and losses of a training on a data set: raters, augmentation, seeds and ignored voxels."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from ball_dataset import ball, change_dataset, open_dataset, write_ball_dataset

from diffusion_segmentation.errors import InputError
from diffusion_segmentation.images.label_file import IGNORED
from diffusion_segmentation.model.building import build
from diffusion_segmentation.training.folder import Folder
from diffusion_segmentation.training.loss import dice_loss, losses
from diffusion_segmentation.training.settings import Optimisation


def test_windows_keep_the_label_volume_and_draw_raters_at_random(ball_dataset):
    optimisation = Optimisation(shapes=((24, 24, 24),), draws=4)
    source = open_dataset(ball_dataset)
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


def test_windows_are_placed_independently_of_labels_by_default(ball_dataset):
    hits = {}
    for crops in ("image", "labels"):
        source = open_dataset(ball_dataset)
        windows = source.stream(Optimisation(shapes=((8, 8, 8),), crops=crops, draws=1), 3)
        windows.augment = False
        stream = iter(windows)
        hits[crops] = np.mean([next(stream)[1].any().item() for _ in range(200)])
    assert hits["labels"] > hits["image"] + 0.08


def test_labels_without_voxels_are_refused_or_reported(ball_dataset, capsys):
    change_dataset(ball_dataset, {"labels": {"background": 0, "ball": 1, "vessel": 2}})
    open_dataset(ball_dataset).stream(Optimisation(shapes=((8, 8, 8),)), 0)
    assert "No training case has the label 'vessel', so the model cannot learn it." in capsys.readouterr().err
    for path in (ball_dataset / "labelsTr").iterdir():
        sitk.WriteImage(sitk.ReadImage(path) * 0, path)
    with pytest.raises(InputError, match="None of the [34] training cases has a labelled voxel"):
        open_dataset(ball_dataset).stream(Optimisation(shapes=((8, 8, 8),)), 0)


def test_some_cases_without_a_structure_are_counted(ball_dataset, capsys):
    name = open_dataset(ball_dataset).seen[0].labels[0]
    sitk.WriteImage(sitk.ReadImage(name) * 0, name)
    open_dataset(ball_dataset).stream(Optimisation(shapes=((8, 8, 8),)), 0)
    assert "1 of 4 training cases have no labelled voxel" in capsys.readouterr().err


def test_augmented_labels_are_labels_of_the_case(ball_dataset):
    """Interpolated between 0 and 2 they would be 1, another structure: the nearest voxel's label is taken."""
    for path in (ball_dataset / "labelsTr").iterdir():
        sitk.WriteImage(sitk.ReadImage(path) * 2, path)
    change_dataset(ball_dataset, {"labels": {"background": 0, "shell": 1, "ball": 2}})
    stream = iter(open_dataset(ball_dataset).stream(Optimisation(shapes=((24, 24, 24),), draws=1), 2))
    counts = [torch.bincount(next(stream)[1].flatten().long(), minlength=3) for _ in range(40)]
    assert torch.stack(counts)[:, 1].sum() == 0 and len({int(count[2]) for count in counts}) > 5


def test_the_seed_determines_the_augmented_windows(ball_dataset):
    optimisation = Optimisation(shapes=((16, 16, 16),), draws=1)
    streams = [iter(open_dataset(ball_dataset).stream(optimisation, seed)) for seed in (3, 3, 4)]
    first, again, other = (torch.stack([next(stream)[0] for _ in range(6)]) for stream in streams)
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_ignored_voxels_do_not_train(ball_dataset):
    change_dataset(ball_dataset, {"labels": {"background": 0, "ball": 1, "ignore": 2}})
    for path in (ball_dataset / "labelsTr").iterdir():
        label = sitk.ReadImage(path)
        label[:12, :, :] = 2
        sitk.WriteImage(label, path)
    source = open_dataset(ball_dataset)
    assert source.settings()["diffusion_segmentation"]["labels"][0]["name"] == "ball"
    assert len(source.settings()["diffusion_segmentation"]["labels"]) == 1
    masks = np.load(source.prepare(source.seen)[0][1])
    assert 0.3 < (masks == IGNORED).mean() < 0.7 and set(np.unique(masks)) == {0, 1, IGNORED}
    optimisation = Optimisation(shapes=((16, 16, 16),), draws=1, crops="labels")
    image, labels = next(iter(source.stream(optimisation, 0)))
    assert (labels == IGNORED).any()


@pytest.mark.parametrize("dice_weight", [0.0, 0.5])
@pytest.mark.parametrize("class_weights", [None, (1.0, 3.0)])
def test_ignored_voxels_add_nothing_to_the_loss(dice_weight, class_weights):
    torch.manual_seed(0)
    network = {"encoder": {"channels": [8, 8], "blocks": [1, 1]}, "denoiser": {"channels": [8, 8], "blocks": 1}}
    encoder, denoiser = build(network, 2)
    image, labels = torch.rand(1, 1, 16, 16, 16), torch.randint(0, 2, (1, 1, 16, 16, 16), dtype=torch.uint8)
    some = labels.clone()
    some[..., :8] = IGNORED

    def loss(masks):
        torch.manual_seed(1)
        levels = torch.full((1, 2), -20.0)
        return losses(encoder, denoiser, image, masks, 2, levels, class_weights, dice_weight)[2]

    # In pure noise the state has no information about the labels: the loss is that of the other voxels.
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


def test_ignored_voxels_do_not_change_the_dice_loss():
    truth = torch.randint(0, 2, (1, 8, 4, 4, 4))
    answer = torch.stack([truth == 0, truth == 1], 1).float().mul(40).sub(20).flatten(1, 2)
    assert dice_loss(answer, truth, 2) < 0.01
    wrong = answer.clone().unflatten(1, (2, 8))
    wrong[:, :, :4] *= -1
    some = truth.clone()
    some[:, :4] = IGNORED
    assert dice_loss(wrong.flatten(1, 2), some, 2) < 0.01 < 0.3 < dice_loss(wrong.flatten(1, 2), truth, 2)


def test_a_calibration_sees_random_slices_with_labels(tmp_path):
    source = Folder(write_ball_dataset(tmp_path / "data", [(3,)] * 12), tmp_path / "prepared", slices=True)
    source.configure({"working_spacing_mm": 2.0, "network": {"dims": 2}})
    areas = [[int((labels > 0).sum()) for _, labels in source.labelled(6, seed)] for seed in (0, 0, 1)]
    assert areas[0] == areas[1] != areas[2] and all(areas[0])
    largest = int(ball(3)[12].sum())
    assert min(areas[0] + areas[2]) < largest, "not always the slice with most labels"
