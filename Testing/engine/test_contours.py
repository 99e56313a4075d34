"""Inner and outer contours: exact on `boundary`, in the stored probabilities and in the report."""

import json
import math

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.distance import cdist
from scipy.special import ndtr, ndtri

from diffusion_segmentation.images.compressed_mask import CompressedMask
from diffusion_segmentation.images.resampling import Projection
from diffusion_segmentation.phantoms import phantom
from diffusion_segmentation.segmentation.contours import INNER, OUTER, contour_distance
from diffusion_segmentation.segmentation.input_volume import InputVolume
from diffusion_segmentation.segmentation.members import Members, WriteOptions, write_members

LABELS = [{"label": 1, "id": "object", "name": "Object", "color": [1, 0, 0], "terminology": "a~b^c~d"}]
SPACING = (1.0, 1.5, 2.0)  # i, j, k


def written(folder, p, masks, spacing=SPACING):
    """Report and stored probabilities of a result with the map `p` and the samples `masks`, all [*, k, j, i]."""
    image = sitk.GetImageFromArray(p[0].astype(np.float32))
    image.SetSpacing(spacing)
    whole = tuple(slice(0, n) for n in p.shape[1:])
    members = Members(whole, p.astype(np.float32), [CompressedMask(mask) for mask in masks])
    options = WriteOptions(compress=False, keep_samples=True, region_mm=6.0)
    report = write_members(folder, InputVolume(image, "0" * 64, []), members, LABELS, lambda _: {}, options, [])
    stored = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "probabilities.seq.nrrd")))
    return json.loads(json.dumps(report)), np.moveaxis(stored, -1, 0)


def surface(mask):
    """Places [n, 3] of the voxels with a voxel outside beside one of their faces, the border of the grid left out."""
    padded = np.pad(mask, 1, mode="edge")
    shifts = [np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1] for axis in range(3) for step in (-1, 1)]
    return np.argwhere(mask & ~np.logical_and.reduce(shifts))


def between(inner, outer, spacing):
    distance = cdist(*(surface(mask) * spacing for mask in (inner, outer)))
    return (distance.min(0).mean() + distance.min(1).mean()) / 2


@pytest.mark.parametrize("index", range(3))
def test_on_boundary_the_contours_are_exact(tmp_path, index):
    rng = np.random.default_rng([11, index])
    case = phantom("boundary:24x24x24").draw(rng)
    report, stored = written(tmp_path, case.marginals, case.sample(rng, 8))
    assert report["contours"] == {"inner": INNER, "outer": OUTER}
    inner, outer = (stored[1] >= 255 * level for level in (INNER, OUTER))
    # P(v) = Phi(-depth): the mean border moved by 1.645 standard deviations to either side.
    assert np.array_equal(inner, case.depth <= -ndtri(INNER)) and np.array_equal(outer, case.depth <= -ndtri(OUTER))
    assert 0 < inner.sum() < (stored[1] >= 128).sum() < outer.sum()
    expected = between(inner, outer, SPACING[::-1])
    assert report["volumes"][0]["contour_distance_mm"] == pytest.approx(expected, abs=1e-3)


def test_the_distance_is_that_of_the_quantiles_of_a_border():
    """A ball whose border moves by 0.9 mm, one standard deviation; the grid makes up to half a voxel less of it."""
    spacing = np.array([0.4, 0.5, 0.5])
    grid = np.stack(np.meshgrid(*(np.arange(n) * s for n, s in zip((60, 48, 48), spacing, strict=True)), indexing="ij"))
    radius = np.linalg.norm(grid - grid.mean((1, 2, 3), keepdims=True), axis=0)
    found = contour_distance(ndtr((8 - radius) / 0.9), spacing)
    assert 3.29 * 0.9 - 0.25 < found < 3.29 * 0.9 + 0.05


def test_contours_that_are_the_same_have_no_distance():
    p = np.zeros((5, 6, 7), np.float32)
    p[1:4, 2:4, 2:5] = 1
    assert contour_distance(p, (1, 1, 1)) == 0
    assert contour_distance(np.pad(p, 0) * 0.9, (1, 1, 1)) is None  # nowhere sure
    assert contour_distance(p * 0, (1, 1, 1)) is None and contour_distance(p * 0 + 1, (1, 1, 1)) is None


def test_a_structure_cut_by_the_border_of_the_grid_has_no_contour_there():
    p = np.zeros((6, 9, 9), np.float32)
    p[:, 2:7, 2:7], p[:, 3:6, 3:6] = 0.5, 1  # a rod through all slices: its ends are not certain, but unseen
    side = contour_distance(p[:1], (1, 1, 1))
    assert contour_distance(p, (1, 1, 1)) == pytest.approx(side) and side == pytest.approx(
        ((12 + 4 * math.sqrt(2)) / 16 + 1) / 2
    )


def test_stored_probabilities_keep_the_side_of_each_level():
    """Rounding to 255ths alone would move 0.0495 to 13 / 255 and 0.9505 to 242 / 255."""
    p = np.linspace(0, 1, 1728, dtype=np.float32).reshape(12, 12, 12)
    image = sitk.GetImageFromArray(p)
    levels = INNER, OUTER, 0.2, 1 / 3
    _, stored = Projection(image, image).maps(np.stack([1 - p, p]), levels).quantised
    assert all(np.array_equal(stored >= 255 * level, p >= np.float32(level)) for level in levels)
    assert np.abs(stored - 255 * p).max() < 1


def test_the_report_lists_the_alternatives_of_each_region(tmp_path):
    rng = np.random.default_rng(2)
    case = phantom("lesions:20x20x20").draw(rng)
    labels = np.minimum(case.marginals[1:].sum(0), 1)
    masks = (case.sample(rng, 12) > 0).astype(np.uint8)
    report, _ = written(tmp_path, np.stack([1 - labels, labels]), masks)
    regions = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "regions.nrrd")))
    assert len(report["regions"]) > 1
    for region in report["regions"]:
        inside = masks[:, regions == region["basin"]]
        found = region["alternatives"]
        assert sum(one["count"] for one in found) == 12 and 1 <= len(found) <= 3
        distinct, counts = np.unique(inside, axis=0, return_counts=True)
        if len(distinct) <= 3:
            assert sorted(one["count"] for one in found) == sorted(counts.tolist())
            assert all(one["likeness"] == 1 for one in found)
