"""Anatomy of synthetic heads: thickness of the cortex, sulci, folia, layers, and sizes of ventricles."""

import atlases
import numpy as np
import pytest
from scipy import ndimage

from diffusion_segmentation.training.synthetic_heads import (
    cerebellum,
    cortex,
    meninges,
    neck,
    scalp_and_skull,
    ventricles,
)
from diffusion_segmentation.training.synthetic_heads import generator as synthesis
from diffusion_segmentation.training.synthetic_heads import random_fields as fields
from diffusion_segmentation.training.synthetic_heads.cortical_folding import FoldGrid
from diffusion_segmentation.training.synthetic_heads.neck import DEPTH
from diffusion_segmentation.training.synthetic_heads.priors import DIVIDED, Atlas, draw_tissues

NAMES = ("air", "soft tissue", "soft tissue, fat", "muscle", "skull, air", "spinal fluid", "brainstem")


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    return Atlas.load(atlases.brain(tmp_path_factory.mktemp("atlas") / "priors.npz"))


@pytest.fixture(scope="module")
def anatomies(atlas):
    """Tissue maps as the priors give them, and the same with a cortex."""
    pairs = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        before = draw_tissues(atlas, rng, deeper=2.0, thinner=0.3)
        after = before.copy()
        cortex.refine_cortex(after, atlas, rng)
        pairs.append((before, after))
    return pairs


def distances(tissue, atlas):
    """Distance in mm to white matter of the cortex's voxels that touch fluid, all heads together."""
    number = atlas.numbers
    grey = np.isin(tissue, [number["cerebral cortex"], number["narrow sulcus"]])
    outer = grey & ndimage.binary_dilation(tissue == number["csf"])
    return ndimage.distance_transform_edt(tissue != number["cerebral white matter"])[outer]


def test_squared_distance_is_exact_to_its_reach():
    mask = np.random.default_rng(0).random((20, 21, 22)) < 0.004
    exact = np.rint(ndimage.distance_transform_edt(~mask) ** 2)
    np.testing.assert_array_equal(fields.squared_distance(mask, 5), np.minimum(exact, 26))
    with pytest.raises(ValueError):
        fields.squared_distance(mask, fields.MAX_REACH + 1)


def test_divided_tissues_have_the_class_of_the_whole(atlas):
    for part, whole in DIVIDED.items():
        assert atlas.classes[atlas.numbers[part]] == atlas.classes[atlas.numbers[whole]]


def test_folds_go_on_in_depth_and_wind_on_the_surface():
    """Folds extend in depth: points above each other are more alike than points beside each other."""
    grid = FoldGrid.around(np.zeros((120, 150, 120), np.uint8))
    depth, beside, values = [], [], []
    for seed in range(4):
        field = grid.draw((120, 150, 120), np.random.default_rng(seed))
        part = field[90:112, 40:110, 20:40]  # above the core of one hemisphere the rays go upwards
        depth.append(np.corrcoef(part[:-6].ravel(), part[6:].ravel())[0, 1])
        beside.append(np.corrcoef(part[:, :-6].ravel(), part[:, 6:].ravel())[0, 1])
        values.append(field.ravel()[::50])
    assert np.mean(depth) > 0.5 > 0.15 > np.mean(beside)
    values = np.concatenate(values)
    assert abs(values.mean()) < 0.02 and abs(values.std() - 1) < 0.02


def test_a_cortex_is_1_5_to_4_5_mm_thick(anatomies, atlas):
    """The thresholded priors are the negative control: their cortex is as thick as the prior is wide."""
    before, after = (np.concatenate([distances(pair[n], atlas) for pair in anatomies]) for n in (0, 1))
    low, high = cortex.THICKNESS_MM
    within = [np.mean((thicknesses >= low - 0.5) & (thicknesses <= high + 0.5)) for thicknesses in (before, after)]
    assert within[1] > 0.97
    assert within[0] < 0.9
    assert 2.0 < np.median(after) < 3.6


def test_no_white_matter_lies_against_fluid_of_the_surface(anatomies, atlas):
    number = atlas.numbers
    shares = []
    for pair in anatomies:
        bare = []
        for tissue in pair:
            inner = tissue[atlas.stages.box]
            white = (inner == number["cerebral white matter"]) & atlas.stages.cortex
            bare.append((white & ndimage.binary_dilation(inner == number["csf"])).sum() / max(white.sum(), 1))
        shares.append(bare)
    before, after = np.mean(shares, axis=0)
    assert after < 0.005 and after < 0.5 * before


def test_two_banks_that_meet_leave_a_narrow_sulcus(atlas):
    """Slabs of white matter 5 voxels apart: between them cortex, in its middle a sheet that is partly fluid."""
    number = atlas.numbers
    opened = 0
    for seed in range(8):
        tissue = np.full(atlas.priors.shape[1:], number["air"], np.uint8)
        inner = tissue[atlas.stages.box]
        inner[:] = number["cerebral cortex"]
        middle = inner.shape[2] // 2
        inner[..., middle - 8 : middle - 2] = inner[..., middle + 3 : middle + 9] = number["cerebral white matter"]
        cortex.refine_cortex(tissue, atlas, np.random.default_rng(seed))
        sulcus = (inner == number["narrow sulcus"]) & atlas.stages.cortex
        across = np.flatnonzero(sulcus[..., middle - 2 : middle + 3].any((0, 1)))
        assert set(across) <= {1, 2, 3}
        opened += 2 in across
    assert opened >= 6


def test_folia_divide_the_cerebellum_and_nothing_else(anatomies, atlas):
    number = atlas.numbers
    before = anatomies[0][1]
    after = before.copy()
    cerebellum.add_folia(after, atlas, np.random.default_rng(0))
    changed = after != before
    assert changed.any() and (before[changed] == number["cerebellar cortex"]).all()
    fissure = after == number["cerebellar fissure"]
    assert 0.02 < fissure.sum() / (before == number["cerebellar cortex"]).sum() < 0.6
    # Sheets run from left to right: neighbours in x are alike, neighbours in z are not.
    grey = before == number["cerebellar cortex"]
    alike = [
        (np.moveaxis(fissure, axis, 0)[1:] & np.moveaxis(fissure, axis, 0)[:-1]).sum()
        / (np.moveaxis(fissure, axis, 0)[1:] & np.moveaxis(grey, axis, 0)[:-1]).sum()
        for axis in (0, 2)
    ]
    assert alike[1] > alike[0]
    assert (atlas.classes[after] == atlas.classes[before]).all()


def test_dura_and_blood_take_the_place_of_fluid_only(anatomies, atlas):
    number = atlas.numbers
    shares = []
    for seed, (_, before) in enumerate(anatomies):
        after = before.copy()
        meninges.add_meninges(after, atlas, np.random.default_rng(seed))
        changed = after != before
        assert (before[changed] == number["csf"]).all()
        assert set(np.unique(after[changed])) <= {number["dura"], number["blood"]}
        shares.append([(after == number[name]).sum() / (before == number["csf"]).sum() for name in ("dura", "blood")])
    shares = np.array(shares)
    assert (shares.max(0) > [0.05, 0.005]).all() and shares.sum(1).max() < 0.7


def test_skin_lies_outside_fat_and_marrow_inside_bone(anatomies, atlas):
    number = atlas.numbers
    tissue = anatomies[0][1].copy()
    bone = tissue == number["skull"]
    scalp_and_skull.layer_scalp_and_skull(tissue, atlas, np.random.default_rng(3))
    depth = ndimage.distance_transform_edt(tissue != number["air"])
    assert depth[tissue == number["soft tissue, skin"]].max() < 3 < depth[tissue == number["soft tissue, fat"]].max()
    within = ndimage.distance_transform_edt(bone)
    marrow, compact = within[tissue == number["skull, marrow"]], within[tissue == number["skull"]]
    assert marrow.min() > 1 and marrow.mean() > compact.mean() + 0.5


@pytest.mark.slow
def test_ventricles_are_those_of_every_age(atlas):
    """Slits and balloons about the atlas's size, where without the wall's shift all have nearly one size."""
    wall = ventricles.VentricleWall.of(atlas)
    rng = np.random.default_rng(0)
    tissue = synthesis.add_neck(draw_tissues(atlas, rng), atlas, rng)
    sizes = []
    for some in (None, wall):
        shares = []
        for _ in range(80):
            counts = np.bincount(
                atlas.classes[synthesis.deform(tissue, (80,) * 3, rng, 2.0, some)].ravel(), minlength=8
            )
            if counts[4] * 8 > 30_000:  # most of the head is in the window
                shares.append(counts[2] / counts[2:6].sum())
        sizes.append(np.quantile(shares, (0.1, 0.9)))
    (least, most), (young, old) = sizes
    assert young < 0.6 * least and old > 0.95 * most


def test_tissue_moves_with_the_wall_of_the_ventricles(atlas):
    """The space around a smaller ventricle is filled with the caudate."""
    wall = ventricles.VentricleWall.of(atlas)
    z, y, x = np.meshgrid(*(np.arange(n) for n in atlas.priors.shape[1:]), indexing="ij")
    points = np.stack([z, y, x]).astype(np.float32)

    class Smaller:
        def random(self):
            return 1.0

        def uniform(self, low, high):
            return 3.0

    where = points + wall.shift(points, Smaller())
    named = np.argmax(atlas.priors, 0)
    moved = ndimage.map_coordinates(named, where, order=0, mode="nearest")
    number = atlas.numbers
    before, after = (named == number["ventricles"]), (moved == number["ventricles"])
    assert after.sum() < 0.6 * before.sum()
    freed = (moved[before & ~after])[np.nonzero(before & ~after)[0] > 54]  # below lies the brainstem
    assert np.mean(freed == number["caudate and accumbens"]) > 0.9
    assert np.array_equal(moved[:10], named[:10])


def test_the_brainstem_ends_at_planes_that_differ(atlas):
    rng = np.random.default_rng(0)
    tissue = draw_tissues(atlas, rng)
    ends = []
    for _ in range(12):
        whole = synthesis.add_neck(tissue, atlas, rng)
        stem = whole == atlas.numbers["brainstem"]
        ends.append(np.flatnonzero(stem.sum((1, 2)) > 20)[0])
        assert atlas.classes[atlas.numbers["spinal cord"]] == 0
    assert np.ptp(ends) >= 6


def test_a_tongue_is_a_mass_of_muscle_in_soft_tissue_alone():
    numbers = {name: number for number, name in enumerate(NAMES)}
    block = np.full((DEPTH + 60, 160, 100), numbers["soft tissue"], np.uint8)
    block[:, :, 50:60] = numbers["brainstem"]
    for seed in range(6):
        tissue = block.copy()
        neck.add_tongue(tissue, (130.0, 50.0), numbers, np.random.default_rng(seed))
        assert np.array_equal(tissue == numbers["brainstem"], block == numbers["brainstem"])
        muscle = np.argwhere(tissue == numbers["muscle"])
        assert len(muscle) > 5000 and muscle[:, 1].max() < 130 - 15  # ahead of the spine
        assert np.ptp(muscle[:, 0]) < 60 and np.ptp(muscle[:, 1]) < 75
        sheets = (tissue == numbers["soft tissue, fat"])[muscle[:, 0].min() : muscle[:, 0].max() + 1]
        assert sheets.any()


def test_an_anatomy_repeats_with_its_seed_and_no_other(atlas):
    one, again, other = (synthesis.draw_anatomy(atlas, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert one.dtype == np.uint8 and len(one) == synthesis.DEPTH + atlas.priors.shape[1]
    assert np.array_equal(one, again) and not np.array_equal(one, other)
