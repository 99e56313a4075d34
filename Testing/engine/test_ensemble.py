"""Running statistics against the same computed at once."""

import numpy as np
import pytest

from diffusion_segmentation.ensemble import KEPT_MASKS, Ensemble, Settled

DIRECT = np.moveaxis(np.random.default_rng(99).dirichlet([1.0, 1.0, 1.0], (4, 5, 6)), -1, 0).astype(np.float32)


def random_ensemble(count: int, spread: float = 1.0) -> tuple[Ensemble, np.ndarray]:
    rng = np.random.default_rng(count)
    p = rng.dirichlet([1.0, 2.0, 3.0], size=(1, 4, 5, 6)) + spread * rng.random((count, 4, 5, 6, 3))
    p = np.moveaxis(p / p.sum(-1, keepdims=True), -1, 1).astype(np.float32)
    ensemble = Ensemble(DIRECT, 0.0, voxel_ml=0.5)
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
    np.testing.assert_allclose(ensemble.shares, [(masks == c).mean(0) for c in range(3)], atol=1e-6)


def test_shares_are_how_often_each_class_was_chosen_and_few_masks_are_stored():
    ensemble, p = random_ensemble(KEPT_MASKS + 3)
    np.testing.assert_allclose(ensemble.shares, [(p.argmax(1) == c).mean(0) for c in range(3)], atol=1e-6)
    assert len(ensemble.masks) == KEPT_MASKS and len(ensemble.volumes) == len(ensemble) == KEPT_MASKS + 3


def test_settled_when_samples_agree_and_not_while_they_differ():
    same, p = random_ensemble(1)
    for _ in range(7):
        same.add(p[0], p[0].argmax(0).astype(np.uint8))
    settled = Settled()
    assert not settled.ask(same)
    assert settled.ask(same)

    moving, _ = random_ensemble(8, spread=3.0)
    settled = Settled()
    settled.ask(moving)
    more, p = random_ensemble(12, spread=3.0)
    for sample in p[:4]:
        moving.add(sample, sample.argmax(0).astype(np.uint8))
    assert not settled.ask(moving)
