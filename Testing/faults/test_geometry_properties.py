"""A marker has the same position in every result file as in the input, for any grid of the input.

The network is left out: from the working grid on its probabilities are what the marker's voxel would get from a
perfect one, background or structure by where a working voxel lies. On the Slicer's side, transforms included, places
are tested in Testing/mrml/test_geometry.py: that layer runs in a process of its own.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from diffusion_segmentation.errors import GeometryError
from diffusion_segmentation.images import writing as results
from diffusion_segmentation.images.resampling import Projection, working_image
from diffusion_segmentation.images.volume import read_volume

TOLERANCE_MM = 1e-4
EXAMPLES = settings(derandomize=True, deadline=None, max_examples=40, database=None)
LABELS = [{"label": 1, "id": "marker", "name": "Marker", "color": [1, 0, 0], "terminology": "x"}]

numbers = st.floats(-1, 1, allow_subnormal=False)
spacings = st.tuples(*[st.floats(0.2, 5)] * 3)
origins = st.tuples(*[st.floats(-1000, 1000)] * 3)
sizes = st.tuples(*[st.integers(7, 11)] * 3)


@st.composite
def directions(draw: st.DrawFn) -> np.ndarray:
    """An orthogonal matrix: rotated or along the axes, the axes in any order, each either way round."""
    order, signs = draw(st.permutations(range(3))), draw(st.tuples(*[st.sampled_from((-1, 1))] * 3))
    axes = np.eye(3)[:, order] * signs
    if draw(st.booleans()):
        return axes
    quaternion = np.array(draw(st.tuples(*[numbers] * 4)))
    assume(np.linalg.norm(quaternion) > 0.1)
    a, b, c, d = quaternion / np.linalg.norm(quaternion)
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    return rotation @ axes


@st.composite
def inputs(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, int, int], tuple[int, int, int]]:
    """LPS affine 4 x 4 of a grid, its size, and the marker's ijk, which is not at the border."""
    affine = np.eye(4)
    affine[:3, :3] = draw(directions()) * draw(spacings)
    affine[:3, 3] = draw(origins)
    size = draw(sizes)
    return affine, size, tuple(draw(st.integers(2, n - 3)) for n in size)


def write_nrrd(path: Path, affine: np.ndarray, size: tuple[int, int, int], marker: tuple[int, int, int]) -> Path:
    """The input, written without the product or ITK: zero but for the marker, which is 1000."""
    voxels = np.zeros(size[::-1], "<f4")
    voxels[marker[::-1]] = 1000
    vectors = " ".join(f"({','.join(repr(float(x)) for x in affine[:3, n])})" for n in range(3))
    lines = ["NRRD0004", "type: float", "dimension: 3", "space: left-posterior-superior", "encoding: raw"]
    lines += [f"sizes: {size[0]} {size[1]} {size[2]}", f"space directions: {vectors}", "endian: little"]
    lines += [f"space origin: ({','.join(repr(float(x)) for x in affine[:3, 3])})", "", ""]
    path.write_bytes("\n".join(lines).encode() + voxels.tobytes())
    return path


def affine_in(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The LPS affine in a result file's header, and its voxels [k, j, i] or [k, j, i, n]; no ITK takes part."""
    import gzip

    header, data = path.read_bytes().split(b"\n\n", 1)
    fields = dict(line.split(": ", 1) for line in header.decode().splitlines() if ": " in line and ":=" not in line)
    assert fields["space"] == "left-posterior-superior" and fields["endian"] == "little"
    affine = np.eye(4)
    vectors = [word for word in fields["space directions"].split() if word != "none"]
    for n, word in enumerate([*vectors, fields["space origin"]]):
        affine[:3, n] = np.fromstring(word.strip("()"), sep=",")
    kind = {"uint8": "u1", "uint16": "<u2", "float": "<f4"}[fields["type"]]
    if fields["encoding"] == "gzip":
        data = gzip.decompress(data)
    return affine, np.frombuffer(data, kind).reshape([int(n) for n in fields["sizes"].split()][::-1])


def place(affine: np.ndarray, kji: np.ndarray) -> np.ndarray:
    """LPS, mm, of the mean of voxels."""
    return (affine @ [*np.mean(np.atleast_2d(kji), axis=0)[::-1], 1])[:3]


def written(folder: Path, image: sitk.Image, projection: Projection, p: np.ndarray, compress: bool) -> None:
    maps = projection.maps(p, ())
    labels, entropy = maps.labels, maps.entropy
    results.write_segmentation(folder / "segmentation.seg.nrrd", labels, image, LABELS, compress)
    results.write_volume(folder / "entropy.nrrd", entropy, image, compress)
    samples = [projection.labels(p), projection.labels(p)]
    results.write_sequence(folder / "samples.seq.nrrd", samples, image, projection.box, compress)
    shares = list(maps.quantised)
    results.write_sequence(folder / "probabilities.seq.nrrd", shares, image, projection.box, compress)
    nearest = projection.nearest((p[1] > 0.5).astype(np.uint16))
    results.write_volume(folder / "regions.nrrd", nearest, image, compress, projection.box)


@EXAMPLES
@given(inputs(), st.booleans())
def test_the_marker_has_the_same_position_in_every_file(given_input, compress: bool) -> None:
    affine, size, marker = given_input
    truth = (affine @ [*marker, 1])[:3]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image = read_volume(write_nrrd(folder / "input.nrrd", affine, size, marker))
        assert np.abs(image.TransformIndexToPhysicalPoint(marker) - truth).max() < TOLERANCE_MM
        # Finer than the input, so that the marker's voxel alone can be told apart; the input stays unblurred.
        spacing = float(np.linalg.norm(affine[:3, :3], axis=0).min()) / 2
        centre = truth - 3 * spacing, truth + 3 * spacing
        working = working_image(image, spacing, box=(tuple(centre[0]), tuple(centre[1])))
        # Certain at the marker's place, undecided around it, background in the other voxels' places.
        zyx = np.stack(np.meshgrid(*[np.arange(n) for n in working.GetSize()[::-1]], indexing="ij"), axis=-1)
        lps = np.array(working.GetOrigin()) + zyx[..., ::-1] * spacing
        away = np.abs((lps - truth) @ np.linalg.inv(affine[:3, :3]).T).max(axis=-1)
        inside = np.clip(0.9 - 0.8 * away, 0, 1).astype(np.float32)
        written(folder, image, Projection(working, image), np.stack([1 - inside, inside]), compress)

        written_affine, labels = affine_in(folder / "segmentation.seg.nrrd")
        assert np.abs(written_affine - affine).max() < TOLERANCE_MM / 10
        assert np.argwhere(labels).tolist() == [list(marker[::-1])]
        assert np.abs(place(written_affine, np.argwhere(labels)) - truth).max() < TOLERANCE_MM
        for file in ("samples.seq.nrrd", "probabilities.seq.nrrd"):
            written_affine, volumes = affine_in(folder / file)
            assert volumes.shape[-1] == 2
            where = np.unravel_index(volumes[..., 1].argmax(), volumes.shape[:3])
            assert np.abs(place(written_affine, where) - truth).max() < TOLERANCE_MM, file
        written_affine, entropy = affine_in(folder / "entropy.nrrd")
        where = np.unravel_index(entropy.argmax(), entropy.shape)
        assert np.abs(place(written_affine, where) - truth).max() < TOLERANCE_MM
        written_affine, regions = affine_in(folder / "regions.nrrd")
        assert np.abs(place(written_affine, np.argwhere(regions)) - truth).max() < TOLERANCE_MM


@EXAMPLES
@given(inputs(), st.floats(0.3, 3))
def test_the_working_grid_shows_the_marker_at_its_place(given_input, spacing: float) -> None:
    affine, size, marker = given_input
    with tempfile.TemporaryDirectory() as name:
        image = read_volume(write_nrrd(Path(name) / "input.nrrd", affine, size, marker))
    truth = (affine @ [*marker, 1])[:3]
    # Linear interpolation keeps a ramp as it is, and no axis is blurred: the grid is finer than all of them.
    index = np.stack(np.meshgrid(*[np.arange(n) for n in size[::-1]], indexing="ij"), axis=-1)[..., ::-1]
    working = None
    for axis in range(3):
        ramp = sitk.GetImageFromArray((index @ affine[:3, :3].T + affine[:3, 3] - truth)[..., axis].astype(np.float32))
        ramp.CopyInformation(image)
        box = tuple(truth - 1e-3), tuple(truth + 1e-3)
        working = working_image(ramp, min(spacing, float(np.linalg.norm(affine[:3, :3], axis=0).min())), box=box)
        assert working.GetSize() == (1, 1, 1)
        assert np.abs(np.array(working.GetOrigin()) - truth).max() < TOLERANCE_MM
        extent = np.abs(sitk.GetArrayViewFromImage(ramp)).max()
        assert abs(sitk.GetArrayViewFromImage(working).item()) < max(TOLERANCE_MM, 1e-6 * extent)


@EXAMPLES
@given(inputs(), st.integers(0, 2), st.floats(0.1, 1), st.sampled_from((-1, 1)))
def test_a_sheared_grid_is_refused(given_input, axis: int, amount: float, sign: int) -> None:
    """Its marker would lie where it should, but a voxel would be taken for larger than it is."""
    affine, size, marker = given_input
    steps = affine[:3, :3]
    lengths = np.linalg.norm(steps, axis=0)
    other = (axis + 1) % 3
    steps[:, axis] += sign * amount * lengths[axis] * steps[:, other] / lengths[other]
    with tempfile.TemporaryDirectory() as name, pytest.raises(GeometryError, match="not at right angles"):
        read_volume(write_nrrd(Path(name) / "input.nrrd", affine, size, marker))
