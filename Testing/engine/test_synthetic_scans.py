"""Synthetic scans: contrast, voxels, artefacts, masking, and rules of labelling."""

from dataclasses import replace

import atlases
import numpy as np
import pytest

from diffusion_segmentation.training.synthetic_heads import artefacts, contrast, masking, scanner
from diffusion_segmentation.training.synthetic_heads import generator as synthesis
from diffusion_segmentation.training.synthetic_heads.labelling_protocol import LabellingProtocol
from diffusion_segmentation.training.synthetic_heads.priors import Atlas
from diffusion_segmentation.training.synthetic_heads.scan_probabilities import CLEAN_T1_SCANS, TRAINING_SCANS

STEP_MM = 1.0


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    return Atlas.load(atlases.brain(tmp_path_factory.mktemp("atlas") / "priors.npz"))


@pytest.fixture(scope="module")
def heads(atlas):
    """Tissue maps of heads with all their parts, 1 mm, without the neck."""
    return [synthesis.draw_anatomy(atlas, np.random.default_rng(seed))[synthesis.DEPTH :] for seed in range(3)]


def test_every_tissue_has_an_intensity(atlas):
    assert set(atlas.tissues) == set(contrast.T1)


def test_half_of_the_contrasts_are_t1_like_and_half_are_any(atlas):
    rng = np.random.default_rng(0)
    number = [atlas.numbers[n] for n in ("csf", "cerebral cortex", "cerebral white matter")]
    intensities = np.array([contrast.draw_intensities(atlas, rng)[number] for _ in range(400)])
    assert (intensities >= 0).all()
    rising = np.mean((intensities[:, 0] < intensities[:, 1]) & (intensities[:, 1] < intensities[:, 2]))
    # T1-like ones rise; so does one in six of those whose order is left to chance.
    assert 0.5 < rising < 0.68
    inverted = np.mean(intensities[:, 2] < intensities[:, 1])
    assert 0.15 < inverted < 0.35
    alike = np.array([contrast.draw_intensities(atlas, rng, any_contrast=0)[number] for _ in range(100)])
    assert np.mean(alike[:, 2] > alike[:, 1]) > 0.95


def test_voxels_shared_with_fluid_lie_between_fluid_and_cortex(atlas):
    rng = np.random.default_rng(1)
    for _ in range(30):
        means = contrast.draw_intensities(atlas, rng)
        for part, solid in contrast.PARTLY_FLUID.items():
            ends = sorted([means[atlas.numbers["csf"]], means[atlas.numbers[solid]]])
            assert ends[0] <= means[atlas.numbers[part]] <= ends[1]


def test_tissues_are_not_equally_bright_everywhere(atlas, heads):
    """Over 20 mm the cortex's mean changes in some heads by more than texture alone explains."""
    rng = np.random.default_rng(0)
    white = heads[0] == atlas.numbers["cerebral white matter"]
    left, right = white.copy(), white.copy()
    left[..., 48:] = False
    right[..., :48] = False
    means = contrast.draw_intensities(atlas, rng, any_contrast=0)
    differences = []
    for _ in range(20):
        image = contrast.paint(heads[0], means, rng)
        differences.append(abs(image[left].mean() - image[right].mean()))
    assert max(differences) > 0.01 and min(differences) < 0.005


def test_voxels_of_scans_are_0_7_to_3_mm_and_two_of_five_have_slices():
    rng = np.random.default_rng(0)
    voxels = np.sort([scanner.draw_voxel_size(rng) for _ in range(600)], axis=1)
    low, high = scanner.IN_PLANE_MM
    assert low <= voxels.min() and voxels[:, 1].max() <= high
    assert voxels[:, 0].max() > 2.5
    sliced = voxels[:, 2] > voxels[:, 1] + 1e-6
    assert 0.28 < sliced.mean() < 0.42 and 5 < voxels[:, 2].max() <= scanner.THICKNESS_MM[1]
    assert scanner.scan_grid((120, 120, 120), 1.0, (6.0, 1.0, 0.7)) == (20, 120, 120)


def test_thick_slices_average_along_their_axis_only():
    image = np.random.default_rng(0).random((60, 60, 60), dtype=np.float32)
    rng = np.random.default_rng(1)
    taken = scanner.simulate_scan(image, (10, 60, 60), (30, 30, 30), None, rng, CLEAN_T1_SCANS)
    assert taken.shape == (30, 30, 30)
    along, across = (np.abs(np.diff(taken, axis=a)).mean() for a in (0, 2))
    assert along < 0.6 * across


@pytest.mark.parametrize("artefact", ["moved", "ghosted", "spiked"])
def test_an_artefact_changes_the_image_and_leaves_its_brightness(heads, atlas, artefact):
    rng = np.random.default_rng(0)
    image = contrast.paint(heads[0], contrast.draw_intensities(atlas, rng, 0), rng)[::2, ::2, ::2]
    distorted = {
        "moved": lambda: artefacts.with_motion(image, 1, rng),
        "ghosted": lambda: artefacts.with_ghosts(image, 1, 3, 0.1),
        "spiked": lambda: artefacts.with_spike(image, rng),
    }[artefact]()
    assert distorted.shape == image.shape
    changed = np.abs(distorted - image).mean() / image.mean()
    assert 0.003 < changed < 0.5
    assert distorted.mean() == pytest.approx(image.mean(), rel=0.25)


def test_ghosts_are_copies_at_a_part_of_the_field_of_view():
    image = np.zeros((24, 60, 24), np.float32)
    image[10:14, 28:32, 10:14] = 1
    ghost = artefacts.with_ghosts(image, 1, 3, 0.3)
    assert ghost[12, 30 - 20, 12] > 0.05 and ghost[12, 30 + 20, 12] > 0.05 and ghost[12, 20, 12] < 0.03


def test_shares_of_artefacts_are_kept():
    image = np.random.default_rng(0).random((16, 16, 16), dtype=np.float32)
    rng = np.random.default_rng(1)
    assert all(np.array_equal(artefacts.add_artefacts(image, rng, CLEAN_T1_SCANS), image) for _ in range(20))
    changed = [not np.array_equal(artefacts.add_artefacts(image, rng), image) for _ in range(200)]
    clean = np.prod(
        [
            1 - share
            for share in (TRAINING_SCANS.motion, TRAINING_SCANS.ghosts, TRAINING_SCANS.ringing, TRAINING_SCANS.spikes)
        ]
    )
    assert np.mean(changed) == pytest.approx(1 - clean, abs=0.1)


def test_zeroed_voxels_have_no_label(atlas, heads):
    """Fluid about a stripped brain was labelled though the image was zero there: 94 to 143 ml of it."""
    stripped = replace(CLEAN_T1_SCANS, stripped=1.0, cut=0.5)
    for seed in range(12):
        rng = np.random.default_rng(seed)
        image, labels = synthesis.render_scan(heads[seed % 3], atlas, rng, STEP_MM, stripped)
        zeroed = image == 0
        assert zeroed.mean() > 0.3
        assert (labels[zeroed] > 0).sum() < 0.02 * (labels > 0).sum()


def test_masks_reach_beyond_the_brain_by_margins_that_differ(atlas, heads):
    number = atlas.numbers
    solid = atlas.inside.copy()
    solid[[number[n] for n in ("csf", "dura", "blood")]] = False
    brain = solid[heads[0]]
    masks = [masking.brain_mask(heads[0], atlas, STEP_MM, np.random.default_rng(seed)) for seed in range(48)]
    assert all((mask & brain).sum() > 0.75 * brain.sum() for mask in masks)
    fluid = [(mask & (heads[0] == number["csf"])).sum() for mask in masks]
    whole = (heads[0] == number["csf"]).sum()
    assert min(fluid) < 0.1 * whole and max(fluid) > 0.9 * whole
    between = [f for f in fluid if 0.1 * whole < f < 0.9 * whole]
    assert len(between) >= 5


def test_a_plane_cuts_a_part_and_most_heads_are_whole(atlas, heads):
    rng = np.random.default_rng(0)
    assert all(masking.draw_mask(heads[0], atlas, STEP_MM, rng, CLEAN_T1_SCANS) is None for _ in range(10))
    shares_left = [
        masking.draw_mask(heads[0], atlas, STEP_MM, rng, replace(CLEAN_T1_SCANS, cut=1.0)).mean() for _ in range(30)
    ]
    assert 0.45 < min(shares_left) < 0.75 and max(shares_left) > 0.9


def test_a_window_without_a_brain_is_not_stripped_to_nothing(atlas):
    """A neck has no brain to leave; an image of zeros has no contrast, and training would end there."""
    neck = np.full((48, 48, 48), atlas.numbers["muscle"], np.uint8)
    neck[:, :10] = atlas.numbers["air"]
    for seed in range(8):
        image, labels = synthesis.render_scan(
            neck, atlas, np.random.default_rng(seed), STEP_MM, replace(TRAINING_SCANS, stripped=1.0)
        )
        assert image.any() and not labels.any()


def test_rules_of_labelling_differ_between_heads(atlas, heads):
    """One head, many rules: volumes differ by some per cent, as those of two protocols do; one rule repeats."""
    volumes = []
    for seed in range(20):
        labels = LabellingProtocol.draw(atlas, np.random.default_rng(seed)).label(heads[0])
        volumes.append(np.bincount(labels.ravel(), minlength=8)[[1, 3, 4]])
    again = LabellingProtocol.draw(atlas, np.random.default_rng(0)).label(heads[0])
    assert np.array_equal(np.bincount(again.ravel(), minlength=8)[[1, 3, 4]], volumes[0])
    spread = np.std(volumes, axis=0) / np.mean(volumes, axis=0)
    assert (spread > 0.02).all() and (spread < 0.5).all()


def test_a_labelling_rule_weights_the_shares_of_a_voxel():
    classes = np.array([0, 1, 2])
    tissue = np.zeros((2, 2, 4), np.uint8)
    tissue[:, :, :2] = 1
    tissue[0, 0, 0] = 2
    tissue[0, :, 2:] = 2
    tissue[1, 0, 2] = 2
    even = LabellingProtocol(classes, np.ones(3, np.float32), 0.0)
    assert even.label(tissue).tolist() == [[[1, 2]]]
    wary = LabellingProtocol(classes, np.array([2.0, 1.0, 1.0], np.float32), 0.0)
    assert wary.label(tissue).tolist() == [[[1, 0]]]
    keep = np.ones(tissue.shape, bool)
    keep[:, :, :2] = False
    assert even.label(tissue, keep).tolist() == [[[0, 2]]]


@pytest.mark.slow
@pytest.mark.parametrize("spacing", [2.0, 1.5])
def test_heads_are_drawn_at_the_spacing_asked_for(atlas, heads, spacing):
    """The volume in ml does not depend on the grid it is drawn on."""
    padded = np.concatenate([np.zeros((synthesis.DEPTH, *heads[0].shape[1:]), np.uint8), heads[0]])
    expected_ml = (atlas.classes[heads[0]] == 4).sum() / 1000
    edge = round(140 / spacing)
    volumes_ml = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        fine = synthesis.deform(padded, (2 * edge,) * 3, rng, spacing / 2)
        volumes_ml.append((atlas.classes[fine] == 4).sum() * (spacing / 2) ** 3 / 1000)
    assert np.median(volumes_ml) == pytest.approx(expected_ml, rel=0.3)
