"""Writes a data set of generated pictures of stained tissue, with the nuclei that two raters mark.

    python Documentation/examples/stained_tissue.py DIR [PICTURES]

Layout and names are nnU-Net's. Raters agree on dark nuclei and mark faint ones with probability 0.5, each nucleus as a
whole, so the true uncertainty is whether an object is there.
"""

import json
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from skimage.color import hed2rgb

SHAPE = (192, 192)
NUCLEI = (25, 45)  # fewest and most of a picture
FAINT = 0.3  # share of faint nuclei
PICTURES = 40


def draw(rng: np.random.Generator) -> tuple[np.ndarray, list[np.ndarray]]:
    """A colour picture uint8 [y, x, 3] and the masks uint8 [y, x] of two raters."""
    rows, columns = np.indices(SHAPE)
    stain, masks = np.zeros(SHAPE), np.zeros((2, *SHAPE), np.uint8)
    for _ in range(rng.integers(*NUCLEI)):
        y, x = rng.uniform((0, 0), SHAPE)
        axes, angle = rng.uniform(3.5, 7.5, 2), rng.uniform(0, np.pi)
        across = (rows - y) * np.cos(angle) + (columns - x) * np.sin(angle)
        along = (columns - x) * np.cos(angle) - (rows - y) * np.sin(angle)
        inside = (across / axes[0]) ** 2 + (along / axes[1]) ** 2 < 1
        faint = rng.random() < FAINT
        stain = np.maximum(stain, inside * (rng.uniform(0.04, 0.06) if faint else rng.uniform(0.1, 0.16)))
        for mask in masks:
            mask[inside] |= not faint or rng.random() < 0.5
    texture = [ndimage.gaussian_filter(rng.normal(size=SHAPE), sigma) * sigma for sigma in (1.0, 6.0)]
    haematoxylin = ndimage.gaussian_filter(stain, 1.0) * (1 + 0.15 * texture[0]) + 0.015
    eosin = np.clip(rng.uniform(0.04, 0.08) + 0.02 * texture[1], 0, None)
    rgb = hed2rgb(np.stack([haematoxylin, eosin, np.zeros(SHAPE)], -1)) + rng.normal(0, 0.015, (*SHAPE, 3))
    return np.rint(255 * np.clip(rgb, 0, 1)).astype(np.uint8), list(masks)


def main(folder: Path, pictures: int = PICTURES) -> None:
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(pictures):
        image, masks = draw(rng)
        name = f"tissue{number:02d}"
        sitk.WriteImage(sitk.GetImageFromArray(image, isVector=True), str(folder / "imagesTr" / f"{name}_0000.png"))
        for rater, mask in enumerate(masks, 1):
            sitk.WriteImage(sitk.GetImageFromArray(mask), str(folder / "labelsTr" / f"{name}_rater{rater}.png"))
    listing = {
        "name": "Stained tissue",
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": {"background": 0, "nucleus": 1},
        "numTraining": pictures,
        "file_ending": ".png",
    }
    (folder / "dataset.json").write_text(json.dumps(listing, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:3]))
