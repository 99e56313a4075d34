"""Import of class probabilities: map, intervals, order of the voxels and damaged files."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from test_masks import SHAPE, ball, image_of, probabilities, read, refused

from diffusion_segmentation.masks.import_masks import ImportRequest, import_masks


@pytest.fixture
def a_volume(tmp_path: Path) -> Path:
    path = tmp_path / "volume.nrrd"
    sitk.WriteImage(image_of(np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)), str(path))
    return path


def two_classes(foreground: np.ndarray) -> np.ndarray:
    return np.stack([1 - foreground, foreground]).astype(np.float32)


def test_one_probability_file_has_a_map_but_no_intervals(tmp_path: Path, a_volume: Path) -> None:
    foreground = np.where(ball(4), 0.9, np.where(ball(7), 0.3, 0.0))
    path = probabilities(tmp_path / "case.npz", np.stack([1 - foreground, foreground]).astype(np.float16))
    report = import_masks(ImportRequest(a_volume, tmp_path / "result", (path,), keep_samples=True)).report
    assert report["samples"] == 0
    volume = report["volumes"][0]
    assert volume["interval90_ml"] is None and volume["samples_ml"] == []
    assert volume["expected_ml"] == pytest.approx(foreground.sum() * 3 / 1000, rel=1e-3)
    assert "without samples" in report["warnings"][0]
    p = np.maximum(foreground, 1e-12)
    entropy = -(p * np.log2(p) + (1 - foreground) * np.log2(1 - foreground))
    assert np.abs(read(tmp_path / "result" / "entropy.nrrd") - entropy).max() < 2e-3  # float16
    assert not (tmp_path / "result" / "samples.seq.nrrd").exists()


def test_probability_files_of_folds_are_averaged(tmp_path: Path, a_volume: Path) -> None:
    folds = [np.where(ball(5, x), 0.8, 0.1) for x in (11, 13)]
    paths = tuple(
        probabilities(tmp_path / f"fold{n}.npz", np.stack([1 - p, p]).astype(np.float32)) for n, p in enumerate(folds)
    )
    report = import_masks(ImportRequest(a_volume, tmp_path / "result", paths, keep_samples=True)).report
    assert report["samples"] == 2
    assert report["volumes"][0]["expected_ml"] == pytest.approx(np.mean(folds) * np.prod(SHAPE) * 3 / 1000, rel=1e-4)
    assert (read(tmp_path / "result" / "segmentation.seg.nrrd") == (np.mean(folds, 0) > 0.5)).all()
    assert "can miss the expected volume" in report["warnings"][0]


def test_low_probabilities_far_from_the_structure_count(tmp_path: Path, a_volume: Path) -> None:
    foreground = np.where(ball(3), 0.9, 0.003)
    path = probabilities(tmp_path / "case.npz", two_classes(foreground))
    report = import_masks(ImportRequest(a_volume, tmp_path / "result", (path,))).report
    assert report["volumes"][0]["expected_ml"] == pytest.approx(foreground.sum() * 3 / 1000, rel=1e-3)


def test_order_of_voxels_is_checked_against_the_mask_beside(tmp_path: Path, a_volume: Path) -> None:
    foreground = np.where(ball(4, 8), 0.9, 0.1)
    sitk.WriteImage(image_of(ball(4, 8).astype(np.uint8)), str(tmp_path / "case.nii.gz"))
    path = probabilities(tmp_path / "case.npz", two_classes(foreground))
    report = import_masks(ImportRequest(a_volume, tmp_path / "result", (path,))).report
    assert not any("state no grid" in warning for warning in report["warnings"])
    probabilities(path, two_classes(foreground[:, :, ::-1]))
    refused("another order", ImportRequest(a_volume, tmp_path / "other", (path,)))
    alone = probabilities(tmp_path / "alone.npz", two_classes(foreground))
    report = import_masks(ImportRequest(a_volume, tmp_path / "result", (alone,))).report
    assert any("state no grid" in warning for warning in report["warnings"])


def test_damaged_files_are_one_sentence(tmp_path: Path, a_volume: Path) -> None:
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 20, 22, 24), }"
    values = two_classes(np.where(ball(4), 0.9, 0.1)).tobytes()

    def refuse(header: str, data: bytes, method: int = zipfile.ZIP_STORED, at: int = -1, flip: int = 0) -> None:
        path, text = tmp_path / "bad.npz", header.encode() + b"\n"
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("probabilities.npy", b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + data)
        stored = bytearray(path.read_bytes())
        stored[at] ^= flip
        path.write_bytes(stored)
        refused("cannot be read", ImportRequest(a_volume, tmp_path / "result", (path,)))

    refuse(header, values[:-4])
    refuse(header, values + b"\0")
    refuse("{'shape': ((((", values)
    refuse(header, values, at=-77, flip=1)  # encrypted, in the central directory
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA):
        refuse(header, values, method, at=150, flip=255)
    refused("does not exist", ImportRequest(a_volume, tmp_path / "result", (tmp_path / "missing.npz",)))


@pytest.mark.parametrize("kind", ["4-D NIfTI", "4-D NRRD", "vectors", "uint8 vectors"])
def test_a_volume_of_several_values_per_voxel_has_class_probabilities(
    tmp_path: Path, a_volume: Path, kind: str
) -> None:
    foreground = np.where(ball(4), 0.8, np.where(ball(7), 0.4, 0.0)).astype(np.float32)
    p = [1 - foreground, foreground]
    path = tmp_path / ("p.nii.gz" if kind == "4-D NIfTI" else "p.nrrd")
    if kind.startswith("4-D"):
        image = sitk.JoinSeries([image_of(part) for part in p])
    elif kind == "vectors":
        image = sitk.Compose([image_of(part) for part in p])
    else:
        image = sitk.Compose([image_of(np.rint(255 * part).astype(np.uint8)) for part in p])
    sitk.WriteImage(image, str(path))
    report = import_masks(ImportRequest(a_volume, tmp_path / "result", (path,))).report
    assert report["volumes"][0]["expected_ml"] == pytest.approx(foreground.sum() * 3 / 1000, rel=1e-3)
    assert (read(tmp_path / "result" / "segmentation.seg.nrrd") == ball(4)).all()


def test_probabilities_on_another_grid_are_refused(tmp_path: Path, a_volume: Path) -> None:
    image = sitk.Compose([image_of(np.full(SHAPE, 0.5, np.float32))] * 2)
    image.SetOrigin((0, 0, 0))
    sitk.WriteImage(image, str(tmp_path / "p.nrrd"))
    refused("volume's grid", ImportRequest(a_volume, tmp_path / "result", (tmp_path / "p.nrrd",)))


def bits(p: np.ndarray) -> np.ndarray:
    return -(p * np.log2(p) + (1 - p) * np.log2(1 - p))


def test_mutual_information_is_what_the_folds_disagree_on(tmp_path: Path, a_volume: Path) -> None:
    agreed, disputed = ball(3), ball(7) & ~ball(3)
    folds = [np.where(agreed, 0.5, np.where(disputed, p, 0.01)) for p in (0.1, 0.9)]
    paths = tuple(
        probabilities(tmp_path / f"fold{n}.npz", np.stack([1 - p, p]).astype(np.float32)) for n, p in enumerate(folds)
    )
    import_masks(ImportRequest(a_volume, tmp_path / "result", paths))
    information = read(tmp_path / "result" / "mutual_information.nrrd")
    assert np.abs(information - (bits(np.mean(folds, 0)) - np.mean([bits(p) for p in folds], 0))).max() < 1e-5
    assert information[agreed].max() < 1e-6 < 0.5 < information[disputed].min()
