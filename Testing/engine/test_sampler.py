"""The sampler against a task whose joint posterior is known, with wrong samplers that must be caught.

The task: a lesion is there as a whole (probability 0.3) or not at all. The exact denoiser is Bayes' rule over the two
masks, so what the samples do is the sampler's doing alone.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from diffusion_segmentation.diffusion import solvers
from diffusion_segmentation.diffusion.process import LOG_SNR_MIN, alpha_sigma, ddim_step
from diffusion_segmentation.diffusion.solvers import dpm_solver_2m
from diffusion_segmentation.model.folder import Model
from diffusion_segmentation.networks import space_to_depth
from diffusion_segmentation.segmentation.sampler import EncodedVolume, sample_seeds

PRESENCE = 0.3
SHAPE = (4, 6, 4)


def lesion(shape) -> torch.Tensor:
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[1:3, 2:5, 1:3] = True
    return mask


class WholeOrNothing(nn.Module):
    """Exact class probabilities of x0 given x: Bayes' rule over the two possible masks."""

    facts = None

    def __init__(self, shape=SHAPE) -> None:
        super().__init__()
        there = lesion(shape)
        masks = torch.stack([torch.stack([~m, m]) for m in (torch.zeros_like(there), there)]).float()
        self.masks = space_to_depth(masks)  # [mask, 2 * 8, z, y, x] in {0, 1}
        self.prior = torch.tensor([1 - PRESENCE, PRESENCE]).log()

    def prepare(self, features, direct):
        return features

    def forward(self, x, log_snr, prepared, direct):
        alpha, sigma = (a.view(-1, 1) for a in alpha_sigma(log_snr))
        fit = torch.einsum("nczyx,mczyx->nm", x, 2 * self.masks - 1)
        posterior = (self.prior + alpha / sigma**2 * fit).softmax(1)
        return torch.einsum("nm,mczyx->nczyx", posterior, self.masks).clamp_min(1e-30).log()


class Pointwise(nn.Module):
    """A voxelwise denoiser, for which windows make no difference."""

    facts = None

    def prepare(self, features, direct):
        return features

    def forward(self, x, log_snr, prepared, direct):
        return x * log_snr.exp().view(-1, 1, 1, 1, 1).clamp_max(3) + 0.2


class Marginals(nn.Module):
    """An encoder whose direct head gives the prior of the lesion for any image."""

    levels = 1

    def forward(self, image):
        p = torch.zeros(image.shape[2:])
        if image.shape[2:] == SHAPE:
            p = PRESENCE * lesion(SHAPE)
        p = torch.stack([1 - p, p])[None].clamp_min(1e-30)
        n, _, z, y, x = image.shape
        return torch.zeros(n, 1, z // 2, y // 2, x // 2), space_to_depth(p.log())


def a_model(denoiser: nn.Module, window=(64, 64, 64)) -> Model:
    section = {
        "labels": [{"label": 1}],
        "window": list(window),
        "network": {"encoder": {"channels": [1]}},
    }
    return Model({"diffusion_segmentation": section}, Marginals(), denoiser)


def draw(model: Model, seeds, grid, shape=SHAPE) -> np.ndarray:
    encoded = EncodedVolume(model, np.zeros(shape, np.float32), torch.device("cpu"))
    return encoded.sample(seeds, grid)


FINE = np.linspace(LOG_SNR_MIN, 4, 40)


def test_samples_are_whole_masks_in_the_right_proportion():
    count = 600
    masks = draw(a_model(WholeOrNothing()), sample_seeds(1, count), FINE).argmax(1).astype(bool)
    present = (masks == lesion(SHAPE).numpy()).all((1, 2, 3))
    absent = ~masks.any((1, 2, 3))
    assert (present | absent).all(), "a sample is neither the lesion nor its absence"
    assert abs(present.mean() - PRESENCE) < 4 * math.sqrt(PRESENCE * (1 - PRESENCE) / count)


def test_mean_of_the_last_softmax_is_the_marginal():
    p = draw(a_model(WholeOrNothing()), sample_seeds(2, 600), FINE).mean(0)
    assert p[1][lesion(SHAPE).numpy()].mean() == pytest.approx(PRESENCE, abs=0.08)
    assert p[1][~lesion(SHAPE).numpy()].max() < 1e-6


def test_one_step_is_not_a_sample():
    """Negative control: one step gives equal masks, with the right marginals."""
    p = draw(a_model(WholeOrNothing()), sample_seeds(3, 100), np.array([LOG_SNR_MIN]))
    assert not p.argmax(1).any()
    assert p[:, 1][:, lesion(SHAPE).numpy()].mean() == pytest.approx(PRESENCE, abs=0.02)


def test_independent_voxels_are_not_a_sample():
    """Negative control: the same marginals drawn voxel by voxel divide the lesion."""
    torch.manual_seed(0)
    masks = torch.rand(100, *SHAPE) < PRESENCE * lesion(SHAPE)
    whole = (masks == lesion(SHAPE)).all(-1).all(-1).all(-1) | ~masks.any(-1).any(-1).any(-1)
    assert whole.float().mean() < 0.2


def test_seed_alone_decides_a_sample():
    model, seeds = a_model(WholeOrNothing()), sample_seeds(4, 4)
    together = draw(model, seeds, FINE)
    alone = np.concatenate([draw(model, [seed], FINE) for seed in seeds])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert not np.allclose(together, draw(model, sample_seeds(5, 4), FINE), atol=1e-4)


def test_seeds_are_stable_under_grouping_and_differ():
    assert sample_seeds(9, 3) + sample_seeds(9, 5, first=3) == sample_seeds(9, 8)
    assert len(set(sample_seeds(9, 64)) | set(sample_seeds(10, 64))) == 128


def test_windows_share_one_noise_field():
    """Windows of a voxelwise denoiser give what one window gives; the negative control has noise of its own."""
    shape, grid, seeds = (8, 20, 8), np.linspace(LOG_SNR_MIN, 2, 6), sample_seeds(6, 2)
    whole = draw(a_model(Pointwise()), seeds, grid, shape)
    tiled = draw(a_model(Pointwise(), window=(8, 8, 8)), seeds, grid, shape)
    np.testing.assert_allclose(tiled, whole, atol=1e-5)

    pieces = [draw(a_model(Pointwise()), [seed], grid, (8, 10, 8)) for seed in sample_seeds(6, 2)]
    stitched = np.concatenate(pieces, axis=3)
    assert np.abs(stitched - whole[:1]).max() > 0.5


def test_step_callback_can_stop_and_counts_up():
    seen = []

    def stop_at_three(step):
        seen.append(step)
        if step == 3:
            raise KeyboardInterrupt

    encoded = EncodedVolume(a_model(WholeOrNothing()), np.zeros(SHAPE, np.float32), torch.device("cpu"))
    with pytest.raises(KeyboardInterrupt):
        encoded.sample([1], FINE, stop_at_three)
    assert seen == [1, 2, 3]


def test_second_order_steps_are_nearer_to_many_steps_than_first_order_ones():
    """Two classes, voxels independent: by Bayes log p(k|x) = log prior + 2 alpha / sigma^2 x_k, exactly."""
    prior = torch.tensor([0.7, 0.3]).log().view(1, 2, 1, 1)

    def denoise(x: torch.Tensor, node: float) -> torch.Tensor:
        alpha, sigma = alpha_sigma(torch.tensor(node))
        return (prior + 2 * alpha / sigma**2 * x).softmax(1)

    def first_order(x: torch.Tensor, grid: np.ndarray) -> torch.Tensor:
        for node, following in pairwise(grid):
            x = ddim_step(x, denoise(x, float(node)), float(node), float(following))
        return denoise(x, float(grid[-1]))

    noise = torch.randn(1, 2, 64, 64, generator=torch.Generator().manual_seed(0))
    exact = first_order(noise, np.linspace(-12, 4, 2000))
    grid = np.linspace(-12, 4, 12)
    errors = [
        float((p - exact).abs().mean())
        for p in (dpm_solver_2m(denoise, noise, denoise(noise, -12.0), grid), first_order(noise, grid))
    ]
    assert errors[0] < 0.6 * errors[1]


@pytest.mark.parametrize("grid", [[-12, -11, -5, -4.5, 0, 4], [-12, -4, -3.9, -3, 2], np.linspace(-12, 4, 7)])
def test_a_prediction_linear_in_log_snr_is_evaluated_at_the_middle_of_each_step(grid, monkeypatch):
    """DPM-Solver++(2M), algorithm 2, whatever the ratio of two steps: p + (p - before) / h_before * h / 2."""
    predictions = []
    monkeypatch.setattr(solvers, "ddim_step", lambda x, p, node, following: (predictions.append(float(p)), x)[1])
    dpm_solver_2m(lambda x, node: torch.tensor([0.5 + node / 40]), torch.zeros(1), None, np.asarray(grid, float))
    middles = [(a + b) / 2 for a, b in pairwise(grid)]
    assert predictions[0] == pytest.approx(0.5 + grid[0] / 40), "the first step knows one answer only"
    np.testing.assert_allclose(predictions[1:], [0.5 + middle / 40 for middle in middles[1:]], atol=1e-6)


def test_a_known_prediction_at_the_first_node_is_not_computed_again():
    nodes = []
    for first in (torch.tensor([0.3]), None):
        nodes.clear()
        dpm_solver_2m(
            lambda x, node: (nodes.append(node), torch.tensor([0.5]))[1], torch.zeros(1), first, np.array([-2.0, 0, 1])
        )
        assert nodes == ([0.0, 1.0] if first is not None else [-2.0, 0.0, 1.0])
