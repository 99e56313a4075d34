"""To the working grid and back: positions, compared with independent arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk

from diffusion_segmentation.errors import GeometryError
from diffusion_segmentation.images import resampling as grids
from diffusion_segmentation.images.resampling import Projection, bounding_box, working_image

SEEDS = range(8)


def random_geometry(seed: int) -> sitk.Image:
    """An empty image: oblique, axes permuted and flipped (left-handed too), anisotropic, far from the origin."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0][:, rng.permutation(3)] * rng.choice([-1, 1], 3)
    image = sitk.Image([int(n) for n in rng.integers(24, 40, 3)], sitk.sitkFloat32)
    image.SetSpacing(rng.uniform(0.8, 3.0, 3).tolist())
    image.SetDirection(rotation.ravel().tolist())
    image.SetOrigin(rng.uniform(-200, 200, 3).tolist())
    return image


def steps(image: sitk.Image) -> np.ndarray:
    """Columns: LPS mm for one voxel along i, j, k."""
    return np.reshape(image.GetDirection(), (3, 3)) @ np.diag(image.GetSpacing())


def to_lps(image: sitk.Image, ijk: np.ndarray) -> np.ndarray:
    return np.array(image.GetOrigin()) + np.asarray(ijk, float) @ steps(image).T


def to_ijk(image: sitk.Image, lps: np.ndarray) -> np.ndarray:
    return (np.asarray(lps, float) - image.GetOrigin()) @ np.linalg.inv(steps(image)).T


def centroid(array: np.ndarray, image: sitk.Image) -> np.ndarray:
    """LPS centre of mass of an array [k, j, i] on the grid of an image."""
    kji = np.argwhere(array > 0)
    return to_lps(image, np.average(kji[:, ::-1], axis=0, weights=array[tuple(kji.T)]))


def all_lps(image: sitk.Image) -> np.ndarray:
    """LPS of every voxel, [k, j, i, 3]."""
    kji = np.stack(np.meshgrid(*[np.arange(n) for n in image.GetSize()[::-1]], indexing="ij"), axis=-1)
    return to_lps(image, kji[..., ::-1])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_marker_is_found_again_on_the_working_grid(seed: int) -> None:
    image = random_geometry(seed)
    ijk = np.random.default_rng(seed).integers(6, np.array(image.GetSize()) - 6)
    image[[int(n) for n in ijk]] = 1000.0
    working = working_image(image, 1.5)
    assert working.GetSpacing() == (1.5, 1.5, 1.5)
    assert working.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    # Half a working voxel: linear sampling of a single bright voxel may lean that far, a wrong axis leans centimetres.
    centre = centroid(sitk.GetArrayFromImage(working), working)
    assert np.linalg.norm(centre - to_lps(image, ijk)) < 0.75


@pytest.mark.parametrize("seed", SEEDS)
def test_the_working_grid_covers_the_image_and_hardly_more(seed: int) -> None:
    image = random_geometry(seed)
    size = np.array(image.GetSize())
    corners = to_lps(image, np.array([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)]) * size - 0.5)
    lower, upper = np.array(bounding_box(image))
    assert lower == pytest.approx(corners.min(axis=0)) and upper == pytest.approx(corners.max(axis=0))
    working = working_image(image + 1.0, 2.0)
    start, end = np.array(bounding_box(working))
    assert (start <= lower + 1e-3).all() and (end >= upper - 1e-3).all()
    assert ((end - start) - (upper - lower) < 2.0).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_labels_come_back_from_the_nearest_voxel(seed: int) -> None:
    image = random_geometry(seed)
    working = working_image(image, 1.5)
    shape = working.GetSize()[::-1]
    labels = np.arange(1, np.prod(shape) + 1).reshape(shape) % 60_000
    projection = Projection(working, image)
    nearest = projection.nearest(labels)
    index, size = projection.box
    assert nearest.shape == size[::-1]
    for kji in np.random.default_rng(seed).integers(0, nearest.shape, (20, 3)):
        lps = to_lps(image, kji[::-1] + index)
        voxel = working.TransformPhysicalPointToIndex(lps.tolist())
        distance = np.linalg.norm(working.TransformIndexToPhysicalPoint(voxel) - lps)
        assert nearest[tuple(kji)] == labels[voxel[::-1]] or distance > 0.7  # half way between two
    with pytest.raises(ValueError, match="working grid"):
        projection.nearest(labels[1:])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_ball_comes_back_to_where_it_is(seed: int) -> None:
    image = random_geometry(seed)
    working = working_image(image, 1.5)
    centre = to_lps(image, np.array(image.GetSize()) * [0.4, 0.55, 0.6])
    radius = 9.0
    distance = np.linalg.norm(all_lps(working) - centre, axis=-1)
    inside = (1 / (1 + np.exp((distance - radius) / 0.5))).astype(np.float32)
    p = np.stack([1 - inside, inside])
    projection = Projection(working, image)
    maps = projection.maps(p)
    labels, entropy = maps.labels, maps.entropy
    truth = np.linalg.norm(all_lps(image) - centre, axis=-1)
    assert labels.shape == entropy.shape == image.GetSize()[::-1]
    assert (labels[truth < radius - 1] == 1).all() and (labels[truth > radius + 1] == 0).all()
    assert entropy[np.abs(truth - radius) < 0.2].min() > 0.9  # undecided on the surface
    assert entropy[np.abs(truth - radius) > 6].max() < 0.01
    np.testing.assert_array_equal(projection.labels(p), labels[block(projection)])


def block(projection: Projection) -> tuple[slice, slice, slice]:
    index, size = projection.box
    return tuple(slice(a, a + n) for a, n in zip(index[::-1], size[::-1], strict=True))


def interpolated(p: np.ndarray, zyx: np.ndarray) -> np.ndarray:
    """Trilinear interpolation of p [C, z, y, x] at one point; beyond the outermost centres the edge goes on."""
    zyx = np.clip(zyx, 0, np.array(p.shape[1:]) - 1)
    low = np.minimum(np.floor(zyx).astype(int), np.array(p.shape[1:]) - 2)
    share = zyx - low
    value = np.zeros(len(p))
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(corner, share, 1 - share))
        value += weight * p[:, low[0] + corner[0], low[1] + corner[1], low[2] + corner[2]]
    return value


@pytest.mark.parametrize("seed", SEEDS)
def test_probabilities_are_interpolated_and_the_rest_is_background(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grids, "BLOCK_VALUES", 2000)  # several blocks
    rng = np.random.default_rng(seed)
    image = random_geometry(seed)
    centre = to_lps(image, np.array(image.GetSize()) / 2)
    working = working_image(image, 4.0, box=(tuple(centre - 15), tuple(centre + 18)))
    p = rng.random((4, *working.GetSize()[::-1])).astype(np.float32)
    p /= p.sum(axis=0)
    projection = Projection(working, image)
    maps = projection.maps(p, ())
    labels, entropy, quantised = maps.labels, maps.entropy, maps.quantised
    index, size = projection.box
    assert np.prod(size) < np.prod(image.GetSize())  # so that something lies outside the box
    outside = ambiguous = 0
    for _ in range(400):
        ijk = rng.integers(0, image.GetSize())
        kji = tuple(int(n) for n in ijk[::-1])
        zyx = to_ijk(working, to_lps(image, ijk))[::-1]
        if (zyx < -0.5).any() or (zyx > np.array(p.shape[1:]) - 0.5).any():
            assert labels[kji] == 0 and entropy[kji] == 0
            if inside_box(image, projection)[kji]:
                assert quantised[(slice(None), *(ijk - index)[::-1])].tolist() == [255, 0, 0, 0]
            outside += 1
            continue
        q = interpolated(p, zyx)
        assert entropy[kji] == pytest.approx(-(q * np.log2(q)).sum(), abs=1e-4)
        rounding = quantised[(slice(None), *(ijk - index)[::-1])] - q * 255
        rounding[q.argmax()] = min(rounding[q.argmax()], 0.5)  # it may gain one over an equal
        assert np.abs(rounding).max() <= 0.51
        if np.diff(np.sort(q))[-1] > 1e-5:
            assert labels[kji] == q.argmax()
        else:
            ambiguous += 1
    assert 20 < outside < 380 and ambiguous < 5
    assert not labels.any(where=~inside_box(image, projection)) and not entropy.any(
        where=~inside_box(image, projection)
    )


def inside_box(image: sitk.Image, projection: Projection) -> np.ndarray:
    inside = np.zeros(image.GetSize()[::-1], bool)
    inside[block(projection)] = True
    return inside


@pytest.mark.parametrize("seed", SEEDS)
def test_the_box_holds_every_voxel_of_the_working_grid_and_no_layer_more(seed: int) -> None:
    image = random_geometry(seed)
    centre = to_lps(image, np.array(image.GetSize()) / 2)
    working = working_image(image, 2.0, box=(tuple(centre - 9), tuple(centre + 11)))
    projection = Projection(working, image)
    zyx = to_ijk(working, all_lps(image))[..., ::-1]
    within = ((zyx >= -0.5) & (zyx <= np.array(working.GetSize()[::-1]) - 0.5)).all(axis=-1)
    assert within.any() and not (within & ~inside_box(image, projection)).any()
    # No axis may be wider than the working cube's diagonal allows.
    width = np.array(projection.box[1]) * image.GetSpacing()
    assert (width <= np.linalg.norm([20, 20, 20]) + image.GetSpacing()).all()


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    image = random_geometry(3)
    working = working_image(image, 3.0)
    p = np.random.default_rng(3).dirichlet(np.ones(5), working.GetSize()[::-1]).astype(np.float32)
    p = np.moveaxis(p, -1, 0)
    whole = Projection(working, image).maps(p)
    monkeypatch.setattr(grids, "BLOCK_VALUES", 500)
    blocks = Projection(working, image).maps(p)
    assert (whole.labels != blocks.labels).sum() <= 2  # ties, decided by rounding
    np.testing.assert_allclose(whole.entropy, blocks.entropy, atol=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_kept_maps_are_those_of_a_new_projection(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit; blocks of unchanged probabilities are not computed again."""
    monkeypatch.setattr(grids, "BLOCK_VALUES", 2000)
    image = random_geometry(seed)
    working = working_image(image, 3.0)
    p = np.random.default_rng(seed).dirichlet(np.ones(5), working.GetSize()[::-1]).astype(np.float32)
    p = np.ascontiguousarray(np.moveaxis(p, -1, 0))
    kept: dict[str, grids.InputMaps] = {}
    first = Projection(working, image).maps(p, (0.05,), kept)
    middle = tuple(n // 2 for n in p.shape[1:])
    done, original = [], Projection._interpolated

    def counted(self: Projection, images: list[sitk.Image], block: grids.Block) -> np.ndarray:
        done.append(block)
        return original(self, images, block)

    monkeypatch.setattr(Projection, "_interpolated", counted)
    assert Projection(working, image).maps(p, (0.05,), kept) is first and not done
    p[:, *middle] = (0, 0, 1, 0, 0)
    again = Projection(working, image).maps(p, (0.05,), kept)
    assert again is first and done
    new = Projection(working, image).maps(p, (0.05,))
    for name in ("labels", "entropy", "quantised", "sums"):
        assert getattr(again, name).tobytes() == getattr(new, name).tobytes(), name
    other = Projection(working_image(image, 3.0, outside=0.0), image).maps(p, (0.2,), kept)
    assert other.quantised.tobytes() == Projection(working, image).maps(p, (0.2,)).quantised.tobytes()


def test_a_working_grid_elsewhere_is_refused() -> None:
    image = random_geometry(0)
    working = working_image(image, 2.0, box=((1000, 1000, 1000), (1010, 1010, 1010)))
    with pytest.raises(GeometryError, match="outside the volume"):
        Projection(working, image)


def test_outside_the_image_is_its_minimum() -> None:
    image = sitk.Image(10, 10, 10, sitk.sitkFloat32) - 300.0
    image[5, 5, 5] = 100.0
    working = sitk.GetArrayFromImage(working_image(image, 1.0, box=((-5.5, -5.5, -5.5), (14.5, 14.5, 14.5))))
    assert working[0, 0, 0] == -300 and working[10, 10, 10] == 100


def stripes(spacing: float) -> sitk.Image:
    """Slices along x that alternate between -1 and 1: nothing that a coarser grid could show."""
    x = np.arange(round(64 / spacing)) % 2 * 2.0 - 1
    image = sitk.GetImageFromArray(np.broadcast_to(x, (8, 8, x.size)).astype(np.float32))
    image.SetSpacing((spacing, 8, 8))
    return image


def test_shrinking_does_not_alias() -> None:
    # The working voxels lie on every fourth input voxel: without a blur all of them would be -1.
    shrunk = sitk.GetArrayFromImage(working_image(stripes(0.5), 2.0, box=((7, -4, -4), (55, 60, 60))))
    assert np.abs(shrunk).max() < 0.05


def test_axes_that_are_not_finer_are_not_blurred() -> None:
    image = stripes(2.0)
    same = working_image(image, 2.0, box=((-1, -1, -1), (63, 1, 1)))
    np.testing.assert_allclose(sitk.GetArrayFromImage(same)[0, 0], sitk.GetArrayFromImage(image)[0, 0], atol=1e-5)


def test_blur_turns_one_voxel_width_into_the_other() -> None:
    """A voxel taken as a Gaussian of FWHM 1 mm becomes one of FWHM 3 mm: their variances differ by the blur's."""
    image = sitk.Image(61, 5, 5, sitk.sitkFloat32)
    image.SetSpacing((1, 10, 10))
    image[30, 2, 2] = 1.0
    line = sitk.GetArrayFromImage(grids._antialiased(image, 3.0))[2, 2]
    x = np.arange(61) - 30
    assert line.sum() == pytest.approx(1, abs=0.01)
    assert (line * x**2).sum() / line.sum() == pytest.approx((3**2 - 1**2) / (8 * math.log(2)), rel=0.05)


def test_the_quantised_probabilities_have_the_consensus_for_their_best():
    """Also where rounding to 255ths makes two classes equal, of which the lower would be taken."""
    working = sitk.Image([9, 8, 7], sitk.sitkFloat32)
    working.SetSpacing([2.0, 2.0, 2.0])
    p = np.full((3, 7, 8, 9), 0.2, np.float32)
    p[1], p[2] = 0.3995, 0.4005
    projection = Projection(working, working)
    assert (np.rint(255 * p[1]) == np.rint(255 * p[2])).all()
    maps = projection.maps(p, ())
    assert (maps.labels == 2).all() and (maps.quantised.argmax(0) == 2).all()
