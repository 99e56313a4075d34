"""Unusual but valid volumes: every voxel has the right value and position.

In Testing/engine/test_volume.py: colour, complex, 4-D, 2-D, one slice, constant, NaN and infinite values, values beyond
float32, a cut NRRD file, text that is no volume, a folder. Random damage is tested by fuzz_volumes.py.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from handmade_volumes import NO_SPACE, ORIGIN, RAS, STEPS, VOXELS, meta, nifti, nrrd, zipped_meta

from diffusion_segmentation.images.intensity import normalise
from diffusion_segmentation.images.volume import read_volume


def of_type(kind: str, name: str) -> tuple:
    voxels = np.zeros((4, 5, 6), kind)
    voxels[0, 0, 0], voxels[1, 1, 1] = (np.iinfo(kind).max, np.iinfo(kind).min) if kind[1] != "f" else (1e29, -1e29)
    return (lambda f: nrrd(f / "a.nrrd", voxels.tobytes(), type=name)), STEPS, ORIGIN, voxels


LEFT = np.diag([2.0, 3.0, -4.0])
ROTATED = np.array([[0.0, -1.8, 3.2], [-2.0, 0, 0], [0, -2.4, -2.4]])

READ = {
    "big-endian NRRD": (lambda f: nrrd(f / "a.nrrd", VOXELS.astype(">i2").tobytes(), endian="big"), STEPS, ORIGIN),
    "big-endian NIfTI": (lambda f: nifti(f / "a.nii", VOXELS.astype(">i2").tobytes(), order=">"), RAS @ STEPS, 0),
    "big-endian MetaImage": (
        lambda f: meta(f / "a.mha", VOXELS.astype(">i2").tobytes(), BinaryDataByteOrderMSB="True"),
        STEPS,
        ORIGIN,
    ),
    "gzip NRRD": (lambda f: nrrd(f / "a.nrrd", gzip.compress(VOXELS.tobytes()), encoding="gzip"), STEPS, ORIGIN),
    "gzip NRRD in two members": (
        lambda f: nrrd(
            f / "a.nrrd",
            gzip.compress(VOXELS.tobytes()[:99]) + gzip.compress(VOXELS.tobytes()[99:]),
            encoding="gzip",
        ),
        STEPS,
        ORIGIN,
    ),
    "hex NRRD": (lambda f: nrrd(f / "a.nrrd", VOXELS.tobytes().hex().encode(), encoding="hex"), STEPS, ORIGIN),
    "text NRRD": (
        lambda f: nrrd(f / "a.nrrd", " ".join(map(str, VOXELS.ravel())).encode(), encoding="text"),
        STEPS,
        ORIGIN,
    ),
    "gzip NIfTI": (lambda f: nifti(f / "a.nii.gz"), RAS @ STEPS, 0),
    "scaled NIfTI": (lambda f: nifti(f / "a.nii", slope=2), RAS @ STEPS, 0, 2 * VOXELS),
    "NIfTI by its quaternion": (
        # Half a turn about the first axis, and the third reversed (pixdim[0] < 0).
        lambda f: nifti(f / "a.nii", codes=(1, 0), qform=(1, 0, 0, 10, 20, 30), pixdim=(-1, 2, 3, 4)),
        RAS @ np.diag([2.0, -3.0, 4.0]),
        0,
    ),
    "NIfTI in metres": (
        lambda f: nifti(
            f / "a.nii", units=1, sform=np.column_stack([STEPS, ORIGIN]) / 1000, pixdim=(1, 0.002, 0.003, 0.004)
        ),
        RAS @ STEPS,
        0,
    ),
    "deflated MetaImage": (
        lambda f: zipped_meta(f / "a.mha", z := zlib.compress(VOXELS.tobytes()), len(z)),
        STEPS,
        ORIGIN,
    ),
    "deflated MetaImage, detached": (
        lambda f: zipped_meta(f / "a.mhd", b"", None, ElementDataFile="d.zraw"),
        STEPS,
        ORIGIN,
    ),
    "detached NRRD": (lambda f: nrrd(f / "a.nhdr", b"", data_file="d.raw"), STEPS, ORIGIN),
    "detached NRRD in slices": (lambda f: nrrd(f / "a.nhdr", b"", data_file="s%d.raw 0 3 1"), STEPS, ORIGIN),
    "detached NRRD with a list": (
        lambda f: nrrd(f / "a.nhdr", b"", data_file="LIST\ns0.raw\ns1.raw\ns2.raw\ns3.raw"),
        STEPS,
        ORIGIN,
    ),
    "detached MetaImage": (lambda f: meta(f / "a.mhd", b"", ElementDataFile="d.raw"), STEPS, ORIGIN),
    "detached MetaImage with a list": (
        lambda f: meta(f / "a.mhd", b"", ElementDataFile="LIST\ns0.raw\ns1.raw\ns2.raw\ns3.raw"),
        STEPS,
        ORIGIN,
    ),
    "detached MetaImage in slices": (
        lambda f: meta(f / "a.mhd", b"", ElementDataFile="s%d.raw 0 3 1"),
        STEPS,
        ORIGIN,
    ),
    "right-anterior-superior": (lambda f: nrrd(f / "a.nrrd", space="right-anterior-superior"), RAS @ STEPS, 0),
    "left-anterior-superior": (
        lambda f: nrrd(f / "a.nrrd", space="left-anterior-superior"),
        np.diag([2.0, -3.0, 4.0]),
        (10, -20, 30),
    ),
    "left-handed": (lambda f: nrrd(f / "a.nrrd", space_directions="(2,0,0) (0,3,0) (0,0,-4)"), LEFT, ORIGIN),
    "rotated, axes changed, left-handed": (
        lambda f: nrrd(f / "a.nrrd", space_directions="(0,-2,0) (-1.8,0,-2.4) (3.2,0,-2.4)"),
        ROTATED,
        ORIGIN,
    ),
    "negative spacing, NRRD": (
        lambda f: nrrd(f / "a.nrrd", **NO_SPACE, spacings="-2 3 4"),
        np.diag([-2.0, 3.0, 4.0]),
        (0, 0, 0),
    ),
    "negative spacing, MetaImage": (
        lambda f: meta(f / "a.mha", ElementSpacing="-2 3 4"),
        np.diag([-2.0, 3.0, 4.0]),
        ORIGIN,
    ),
    "a factor in the directions": (
        lambda f: meta(f / "a.mha", TransformMatrix="0.5 0 0 0 1 0 0 0 1", ElementSpacing="4 3 4"),
        STEPS,
        ORIGIN,
    ),
    "one value a voxel in an axis of its own": (
        lambda f: nrrd(
            f / "a.nrrd",
            dimension="4",
            sizes="1 6 5 4",
            kinds="list domain domain domain",
            space_directions="none (2,0,0) (0,3,0) (0,0,4)",
        ),
        STEPS,
        ORIGIN,
    ),
    "label map": (
        lambda f: nrrd(f / "a.nrrd", (VOXELS % 3).astype("u1").tobytes(), type="uchar"),
        STEPS,
        ORIGIN,
        VOXELS % 3,
    ),
    # Slices of 1 mm at a distance of 4 mm: NRRD states it by thicknesses, which change no position.
    "gaps between slices": (lambda f: nrrd(f / "a.nrrd", thicknesses="nan nan 1"), STEPS, ORIGIN),
    "int8": of_type("<i1", "int8"),
    "uint8": of_type("<u1", "uint8"),
    "int16": of_type("<i2", "int16"),
    "uint16": of_type("<u2", "uint16"),
    "int32": of_type("<i4", "int32"),
    "uint32": of_type("<u4", "uint32"),
    "int64": of_type("<i8", "int64"),
    "uint64": of_type("<u8", "uint64"),
    "float32": of_type("<f4", "float"),
    "float64": of_type("<f8", "double"),
}


@pytest.mark.parametrize("case", READ)
def test_every_voxel_has_its_value_and_position(data_folder: Path, case: str) -> None:
    make, steps, origin, *voxels = READ[case]
    image = read_volume(make(data_folder))
    expected = np.asarray(voxels[0] if voxels else VOXELS).astype(np.float32)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), expected)
    # 0 stands for the origin of what is stored in RAS.
    origin = RAS @ ORIGIN if np.isscalar(origin) else np.asarray(origin, float)
    for ijk in np.ndindex(image.GetSize()):
        lps = image.TransformIndexToPhysicalPoint([int(n) for n in ijk])
        np.testing.assert_allclose(lps, steps @ ijk + origin, atol=1e-4)
    assert image.GetSpacing() == pytest.approx(np.linalg.norm(steps, axis=0), abs=1e-6)


def test_the_largest_values_that_are_read_have_a_finite_scale() -> None:
    image = np.linspace(-1e30, 1e30, 4096, dtype=np.float32).reshape(16, 16, 16)
    assert np.isfinite(normalise(image)).all() and normalise(image).max() > 0.9
