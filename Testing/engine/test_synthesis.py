"""Synthetic heads: marginals are those of the atlas, and all variations stay within bounds."""

import atlases
import numpy as np
import pytest

from diffusion_segmentation.errors import InputError
from diffusion_segmentation.images.intensity import CEILING, body_box, normalise
from diffusion_segmentation.training import sources
from diffusion_segmentation.training.synthetic_heads import generator as synthesis
from diffusion_segmentation.training.synthetic_heads.atlas import TISSUES
from diffusion_segmentation.training.synthetic_heads.priors import draw_tissues
from diffusion_segmentation.training.synthetic_heads.random_fields import smooth_noise


@pytest.fixture(scope="module")
def atlas_file(tmp_path_factory):
    return atlases.shells(tmp_path_factory.mktemp("atlas") / "priors.npz")


@pytest.fixture(scope="module")
def atlas(atlas_file):
    return synthesis.Atlas.load(atlas_file)


def test_smooth_noise_has_unit_variance_and_the_correlation_asked_for():
    rng = np.random.default_rng(0)
    fine, coarse = (smooth_noise((64, 64, 64), s, rng) for s in (2, 16))
    for field in (fine, coarse):
        assert field.shape == (64, 64, 64) and field.dtype == np.float32
    assert 0.7 < fine.std() < 1.2

    def neighbours(field):
        return np.corrcoef(field[:, :, :-4].ravel(), field[:, :, 4:].ravel())[0, 1]

    assert neighbours(fine) < 0.35 < 0.8 < neighbours(coarse)


@pytest.mark.slow
def test_drawn_tissues_have_the_marginals_of_the_atlas(atlas):
    rng = np.random.default_rng(1)
    count = 24
    classes = range(1, 8)
    mean_labels = np.mean(
        [[(atlas.classes[draw_tissues(atlas, rng)] == c).sum() for c in classes] for _ in range(count)],
        axis=0,
    )
    priors = atlas.priors.reshape(len(TISSUES), -1).sum(1) / 255
    expected = [priors[atlas.classes[: len(TISSUES)] == c].sum() for c in classes]
    np.testing.assert_allclose(mean_labels, expected, rtol=0.15)


def test_drawn_tissues_are_sheets_not_salt_and_pepper(atlas):
    """The negative control is a voxelwise draw with the same marginals: far more voxels differ from their neighbour."""
    rng = np.random.default_rng(2)
    tissues = draw_tissues(atlas, rng)
    cumulative = np.cumsum(atlas.priors.astype(int), axis=0)
    independent = (cumulative <= rng.integers(0, 255, tissues.shape)).sum(0)

    def rough(a):
        return (a[:, :, 1:] != a[:, :, :-1])[:, :, 15:25].mean()

    assert rough(tissues) < 0.75 * rough(np.minimum(independent, len(TISSUES) - 1))


def test_an_added_neck_is_background_and_does_not_change_the_head(atlas):
    """Muscles and cord look like brain: the neck below the head must be drawn, without labels."""
    rng = np.random.default_rng(4)
    head = draw_tissues(atlas, rng)
    head[:6, 10:34, 8:32] = atlas.numbers["soft tissue"]
    whole = synthesis.add_neck(head, atlas, rng)
    below, above = whole[: -len(head)], whole[-len(head) :]
    assert len(below) == synthesis.DEPTH
    assert not atlas.classes[below].any()
    assert {atlas.tissues[n] for n in np.unique(below)} >= {"air", "soft tissue", "spinal cord", "spinal fluid"}
    differs = above != head
    assert (head[differs] == atlas.numbers["brainstem"]).all(), "more than brainstem became spinal cord"


def test_some_windows_reach_down_to_the_neck(atlas):
    rng = np.random.default_rng(5)
    marked = np.zeros((synthesis.DEPTH + 40, 44, 40), np.uint8)
    marked[: synthesis.DEPTH] = 1
    shares = np.array([synthesis.deform(marked, (64, 48, 48), rng).mean() for _ in range(60)])
    assert (shares > 0.9).sum() >= 3 and (shares < 0.5).sum() >= 30


def test_item_is_an_image_and_its_labels_on_one_grid_and_repeats_with_its_seed(atlas_file):
    def items():
        stream = iter(synthesis.SyntheticHeads(atlas_file, [(16, 20, 24)], seed=5, bank=2))
        return [next(stream) for _ in range(3)]

    first, again = items(), items()
    for (image, labels), (image2, labels2) in zip(first, again, strict=True):
        assert image.shape == (1, 16, 20, 24) and labels.shape == (1, 16, 20, 24)
        assert 0 <= float(image.min()) and float(image.max()) <= CEILING
        assert int(labels.max()) <= 7
        assert np.array_equal(image, image2) and np.array_equal(labels, labels2)
    assert not np.array_equal(first[0][0], first[1][0]), "two faces of one head are the same"


@pytest.mark.slow
def test_training_and_unseen_heads_have_the_spacing_of_the_model(atlas_file):
    """On a finer grid neighbours are more often of one structure."""

    def rough(spacing):
        stream = iter(synthesis.SyntheticHeads(atlas_file, [(24, 24, 24)], seed=0, bank=1, spacing_mm=spacing))
        windows = [next(stream)[1][0].numpy() for _ in range(12)]
        unseen = [labels for _, labels in synthesis.unseen_heads(atlas_file, (24, 24, 24), 12, 0, spacing_mm=spacing)]
        borders = [[(a[1:] != a[:-1]).sum(), ((a[1:] > 0) | (a[:-1] > 0)).sum()] for a in (*windows, *unseen)]
        return [np.divide(*np.sum(part, axis=0)) for part in (borders[:12], borders[12:])]

    for coarse, fine in zip(rough(3.0), rough(0.75), strict=True):
        assert fine < 0.7 * coarse


def test_scans_are_whole_heads_that_no_other_stream_draws(atlas_file, monkeypatch):
    monkeypatch.setattr(sources, "WHOLE_MM", ((48, 40, 32), (64, 40, 32)))
    heads = sources.Heads(atlas_file, window=(24, 20, 16))
    scans = list(heads.scans(3, 0))
    assert [scan.shape for scan in scans] == [(24, 20, 16), (32, 20, 16), (24, 20, 16)]
    others = [image for image, _ in heads.labelled(3, 0)] + [heads.evaluated(n, 0)[0] for n in range(3)]
    assert not any(np.array_equal(scan, other) for scan in scans for other in others)
    assert not np.array_equal(scans[0], scans[2])
    assert all(np.array_equal(*pair) for pair in zip(scans, heads.scans(3, 0), strict=True))


def test_normalise_does_not_depend_on_scale_and_offset_and_refuses_a_constant():
    image = np.random.default_rng(0).gamma(2, 100, (20, 20, 20)).astype(np.float32)
    np.testing.assert_allclose(normalise(7 * image + 300), normalise(image), atol=1e-4)
    with pytest.raises(InputError):
        normalise(np.full((4, 4, 4), 3.0))


def test_normalise_goes_from_the_half_percent_quantile_to_99_percent_of_what_is_bright():
    image = np.random.default_rng(0).permutation(np.arange(40_000, dtype=np.float32)).reshape(40, 25, 40)
    low, high = 0.005 * 40_000, 20_000 + 0.99 * 20_000
    np.testing.assert_allclose(normalise(image), ((image - low) / (high - low)).clip(0, CEILING), atol=1e-3)


def test_a_window_of_ct_goes_from_0_to_1_and_is_cut():
    image = np.array([-1000.0, -200.0, 50.0, 300.0, 3000.0], np.float32)
    normalised = normalise(image, {"window": [-200.0, 300.0]})
    np.testing.assert_allclose(normalised, [0, 0, 0.5, 1, CEILING], atol=1e-6)


def test_body_box_holds_the_head_and_leaves_a_speck_out():
    image = np.random.default_rng(0).random((40, 50, 60)).astype(np.float32)
    image[10:30, 12:40, 20:45] += 100
    image[2:4, 2:4, 2:4] += 100
    box = body_box(image, margin=2)
    np.testing.assert_allclose([(s.start, s.stop) for s in box], [(8, 32), (10, 42), (18, 47)], atol=2)
