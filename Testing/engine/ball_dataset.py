"""A small folder of labelled images: balls at 2 mm, whose radius the raters see differently."""

import json

import numpy as np
import SimpleITK as sitk

from diffusion_segmentation.training.folder import Folder

SIZE = 24


def ball(radius):
    """Mask [z, y, x] of a ball in the middle of SIZE voxels, uint8."""
    grid = np.stack(np.meshgrid(*[np.arange(SIZE) - SIZE / 2] * 3, indexing="ij"))
    return (np.sqrt((grid**2).sum(0)) < radius).astype(np.uint8)


def write_ball_dataset(root, radii):
    """Write a case for each entry of `radii`, the radii (voxels) of the ball as its raters drew it; returns `root`."""
    for part in ("imagesTr", "labelsTr"):
        (root / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for n, of_case in enumerate(radii):
        values = 100 * ball(10) + 100 * ball(5) + rng.normal(0, 3, (SIZE,) * 3)
        image = sitk.GetImageFromArray(values.astype(np.float32))
        image.SetSpacing((2, 2, 2))
        sitk.WriteImage(image, root / "imagesTr" / f"case{n}_0000.nii.gz")
        for rater, radius in enumerate(of_case, 1):
            label = sitk.GetImageFromArray(ball(radius))
            label.CopyInformation(image)
            name = f"case{n}_rater{rater}" if len(of_case) > 1 else f"case{n}"
            sitk.WriteImage(label, root / "labelsTr" / f"{name}.nii.gz")
    listing = {"name": "Balls", "channel_names": {"0": "MRI"}, "labels": {"background": 0, "ball": 1}}
    (root / "dataset.json").write_text(json.dumps(listing), encoding="utf-8")
    return root


def open_dataset(folder, **changes):
    """Training cases of a data set at 2 mm; `changes` are entries of the model's section."""
    source = Folder(folder, folder.parent / "prepared")
    source.configure({"working_spacing_mm": 2.0, **changes})
    return source


def change_dataset(folder, change):
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
