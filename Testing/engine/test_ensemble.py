"""Running statistics compared with statistics of all samples at once."""

import numpy as np
import pytest

from diffusion_segmentation.segmentation.ensemble import MAX_MASKS, Convergence, Ensemble

DIRECT = np.moveaxis(np.random.default_rng(99).dirichlet([1.0, 1.0, 1.0], (4, 5, 6)), -1, 0).astype(np.float32)


def random_ensemble(count: int, spread: float = 1.0) -> tuple[Ensemble, np.ndarray]:
    rng = np.random.default_rng(count)
    p = rng.dirichlet([1.0, 2.0, 3.0], size=(1, 4, 5, 6)) + spread * rng.random((count, 4, 5, 6, 3))
    p = np.moveaxis(p / p.sum(-1, keepdims=True), -1, 1).astype(np.float32)
    ensemble = Ensemble(DIRECT, 0.0, voxel_size=0.5)
    for sample in p:
        ensemble.add(sample, sample.argmax(0).astype(np.uint8))
    return ensemble, p


def test_running_mean_and_volumes_are_those_of_all_samples_at_once():
    ensemble, p = random_ensemble(7)
    np.testing.assert_allclose(ensemble.mean, p.mean(0), atol=1e-6)
    counts = [[(mask == c).sum() * 0.5 for c in range(3)] for mask in p.argmax(1)]
    np.testing.assert_allclose(ensemble.volumes, counts)


def test_mean_of_nothing_is_refused():
    with pytest.raises(ValueError):
        _ = Ensemble(DIRECT, 0.0, 1.0).mean


def test_the_map_counts_the_direct_head_as_k_samples():
    ensemble, p = random_ensemble(6)
    ensemble.prior = 4.0
    np.testing.assert_allclose(ensemble.map, (6 * p.mean(0) + 4 * DIRECT) / 10, atol=1e-6)
    assert ensemble.map_source == "both"
    ensemble.prior = np.inf
    assert ensemble.map is DIRECT and ensemble.map_source == "direct"
    ensemble.prior = 0.0
    assert ensemble.map is ensemble.mean and ensemble.map_source == "samples"


def test_without_a_sample_the_map_is_the_direct_head():
    assert Ensemble(DIRECT, 0.0, 1.0).map is DIRECT


def test_masks_of_the_copula_have_the_direct_head_as_their_exact_mean():
    ensemble = Ensemble(DIRECT, 0.0, 1.0, exact=True)
    masks = np.random.default_rng(1).integers(0, 3, (5, 4, 5, 6)).astype(np.uint8)
    for mask in masks:
        ensemble.add(mask, mask)
    assert ensemble.mean is DIRECT and ensemble.map is DIRECT and ensemble.map_source == "exact"
    np.testing.assert_allclose(ensemble.vote_shares, [(masks == c).mean(0) for c in range(3)], atol=1e-6)


def test_shares_are_how_often_each_class_was_chosen_and_few_masks_are_stored():
    ensemble, p = random_ensemble(MAX_MASKS + 3)
    np.testing.assert_allclose(ensemble.vote_shares, [(p.argmax(1) == c).mean(0) for c in range(3)], atol=1e-6)
    assert len(ensemble.masks) == MAX_MASKS and len(ensemble.volumes) == len(ensemble) == MAX_MASKS + 3


def test_settled_when_samples_agree_and_not_while_they_differ():
    same, p = random_ensemble(1)
    for _ in range(7):
        same.add(p[0], p[0].argmax(0).astype(np.uint8))
    convergence = Convergence()
    assert not convergence.reached(same)
    assert convergence.reached(same)

    moving, _ = random_ensemble(8, spread=3.0)
    convergence = Convergence()
    convergence.reached(moving)
    more, p = random_ensemble(12, spread=3.0)
    for sample in p[:4]:
        moving.add(sample, sample.argmax(0).astype(np.uint8))
    assert not convergence.reached(moving)


def box_ensemble(start: int, edge: int = 40, size: int = 60) -> Ensemble:
    """Eight equal samples of a box that begins at `start` along the first axis."""
    mask = np.zeros((size, size, size), np.uint8)
    mask[start : start + edge, 5 : 5 + edge, 5 : 5 + edge] = 1
    p = np.stack([mask == 0, mask == 1]).astype(np.float32) * 0.8 + 0.1
    ensemble = Ensemble(p, 0.0, 1.0)
    for _ in range(8):
        ensemble.add(p, mask)
    return ensemble


def changed_voxels(ensemble: Ensemble, count: int) -> Ensemble:
    """The same with so many voxels of the box moved out of it, and as many moved in."""
    flat = ensemble.mean.reshape(2, -1).copy()
    inside, out = np.flatnonzero(flat[1] > 0.5)[:count], np.flatnonzero(flat[1] < 0.5)[-count:]
    flat[:, inside], flat[:, out] = flat[:, out].copy(), flat[:, inside].copy()
    p = flat.reshape(ensemble.mean.shape)
    moved = Ensemble(p, 0.0, 1.0)
    for _ in range(8):
        moved.add(p, p.argmax(0).astype(np.uint8))
    return moved


@pytest.mark.parametrize(("share", "is_settled"), [(0.001, True), (0.004, True), (0.006, False), (0.02, False)])
def test_settled_asks_for_a_dice_above_0_995(share, is_settled):
    """Entropy and volumes are the same: the overlap alone decides."""
    convergence, first = Convergence(), box_ensemble(5)
    convergence.reached(first)
    assert convergence.reached(changed_voxels(first, round(share * 40**3))) == is_settled


def test_settled_asks_for_entropy_and_intervals_too():
    first = box_ensemble(5)
    vague = Ensemble(first.direct, 0.0, 1.0)
    wide = Ensemble(first.direct, 0.0, 1.0)
    for index in range(8):
        vague.add(first.mean * 0.9 + 0.05, first.masks[0].whole())
        wide.add(first.mean, first.masks[0].whole() if index else np.zeros((60, 60, 60), np.uint8))
    for other in (vague, wide):
        convergence = Convergence()
        convergence.reached(first)
        assert not convergence.reached(other)
