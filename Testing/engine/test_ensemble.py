"""Running statistics against the same computed at once."""

import numpy as np
import pytest

from diffusion_segmentation.ensemble import Ensemble, Settled


def random_ensemble(count: int, spread: float = 1.0) -> tuple[Ensemble, np.ndarray]:
    rng = np.random.default_rng(count)
    p = rng.dirichlet([1.0, 2.0, 3.0], size=(1, 4, 5, 6)) + spread * rng.random((count, 4, 5, 6, 3))
    p = np.moveaxis(p / p.sum(-1, keepdims=True), -1, 1).astype(np.float32)
    ensemble = Ensemble(3, voxel_ml=0.5)
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
        _ = Ensemble(3, 1.0).mean


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
