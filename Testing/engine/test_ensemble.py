"""Running statistics against the same computed at once; intervals against their promised coverage."""

import numpy as np
import pytest

from diffusion_segmentation.ensemble import Ensemble, Settled, interval_method, predictive_interval


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


@pytest.mark.parametrize("n", [3, 8, 18, 19, 40])
@pytest.mark.parametrize("level", [0.5, 0.9])
def test_intervals_cover_the_next_draw_as_often_as_they_say(n, level):
    rng = np.random.default_rng(n)
    draws = rng.normal(30, 2, (4000, n + 1))
    bounds = np.array([predictive_interval(row[:n], level) for row in draws])
    covered = ((bounds[:, 0] <= draws[:, n]) & (draws[:, n] <= bounds[:, 1])).mean()
    assert covered == pytest.approx(level, abs=0.025)


def test_plain_quantiles_of_eight_samples_do_not_cover():
    """The negative control, and the reason for the above: they hold 72 % where they say 90 %."""
    draws = np.random.default_rng(8).normal(30, 2, (4000, 9))
    low, high = np.quantile(draws[:, :8], [0.05, 0.95], axis=1)
    assert ((low <= draws[:, 8]) & (draws[:, 8] <= high)).mean() < 0.8


def test_interval_needs_two_samples_stays_positive_and_names_its_method():
    assert predictive_interval(np.array([3.0]), 0.9) is None
    assert predictive_interval(np.array([0.0, 0.1, 3.0]), 0.9)[0] == 0.0
    assert (interval_method(8), interval_method(19)) == ("t-predictive", "order-statistics")


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
