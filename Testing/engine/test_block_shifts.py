"""Shifts of whole blocks, estimated from the noisy state."""

import math

import pytest
import torch

from diffusion_segmentation.diffusion.process import alpha_sigma, diffuse
from diffusion_segmentation.networks import class_softmax
from diffusion_segmentation.networks.block_shifts import BlockShifts
from diffusion_segmentation.networks.pooled_evidence import PooledEvidence


def shifts_of(pooled, x, log_snr, direct):
    alpha, sigma = (a.view(-1, *(1,) * (x.ndim - 1)) for a in alpha_sigma(log_snr))
    posterior = class_softmax(direct + 2 * alpha / sigma**2 * x)
    return pooled.shifts(x, log_snr, pooled.expected(direct), posterior, direct)


@pytest.mark.parametrize("size", [(12, 8, 10), (24, 20)])
def test_a_shift_of_the_logits_is_estimated_from_the_state_of_a_block(size):
    """Labels of shifted logits, noised to a level where one voxel says nothing: the shift comes out, block by block."""
    torch.manual_seed(6)
    dims, shift, log_snr = len(size), 0.4, torch.tensor([-2.0])
    cell = 2**dims
    direct = torch.zeros(1, 2 * cell, *size)
    direct[:, cell:] = 0.5  # of two classes; the second is more probable
    half = torch.zeros_like(direct)
    half[(slice(None), slice(cell, None), slice(None, size[0] // 2))] = shift  # and more so in one half of the image
    states = []
    for _ in range(200):
        second = class_softmax(direct + half)[:, cell:]
        sampled = (torch.rand_like(second) < second).float()
        x0 = torch.cat([1 - 2 * sampled, 2 * sampled - 1], 1)
        states.append(diffuse(x0, torch.randn_like(x0), log_snr))
    pooled = PooledEvidence(2, 8, (2, size[0] // 2, 0), 16, dims)
    shifts = shifts_of(pooled, torch.cat(states), log_snr.expand(200), direct).mean(0).unflatten(0, (3, 2))
    here, there = shifts[:, 1, 1].flatten(1).mean(1), shifts[:, 1, -2].flatten(1).mean(1)
    assert 0.34 < here[1] < 0.42 and abs(there[1]) < 0.05
    assert abs(here[0]) < here[1]  # the shift of few voxels has a smaller weight
    assert (
        torch.allclose(shifts[2, 1], shifts[2, 1].mean().expand_as(shifts[2, 1])) and 0.16 < shifts[2, 1].mean() < 0.22
    )
    assert (shifts[:, 0] + shifts[:, 1]).abs().mean() < 0.05  # one class gains as much as the other loses

    silent = shifts_of(pooled, torch.randn(8, *direct.shape[1:]), torch.full((8,), -12.0), direct)
    assert silent.abs().mean() < 0.05


def test_blocks_larger_than_the_window_are_the_window():
    pooled = PooledEvidence(2, 8, (2, 64, 0), 16, 3)
    x, direct = torch.randn(2, 16, 5, 4, 6), torch.randn(1, 16, 5, 4, 6)
    shifts = shifts_of(pooled, x, torch.tensor([-1.0, 0.0]), direct)
    assert shifts.shape == (2, 6, 5, 4, 6) and shifts.isfinite().all()


def test_a_block_that_extends_beyond_the_window_is_weighted_by_its_voxels(monkeypatch):
    """Labels without a shift: an incomplete block of one cell must not give a larger shift than a whole one."""
    monkeypatch.setattr(torch.nn.functional, "interpolate", lambda blocks, **_: blocks)
    torch.manual_seed(8)
    log_snr, count = torch.tensor([-6.0]), 200
    direct = torch.zeros(1, 16, 9, 9, 9)
    direct[:, 8:] = 2.0  # rare
    second = class_softmax(direct)[:, 8:]
    sampled = (torch.rand(count, *second.shape[1:]) < second).float()
    x = diffuse(x0 := torch.cat([1 - 2 * sampled, 2 * sampled - 1], 1), torch.randn_like(x0), log_snr.expand(count))
    pooled = PooledEvidence(2, 8, (8,), 16, 3)
    rms = shifts_of(pooled, x, log_snr.expand(count), direct).square().mean((0, 1)).sqrt()
    assert rms.shape == (2, 2, 2) and rms.max() == rms[0, 0, 0]


def labels_of(logits):
    """Masks x0 of two classes, drawn voxel by voxel from `logits` [N, 2 * cell, ...]."""
    second = class_softmax(logits).chunk(2, 1)[1]
    sampled = (torch.rand_like(second) < second).float()
    return torch.cat([1 - 2 * sampled, 2 * sampled - 1], 1)


def shifted(size, variances, count):
    """Logits [1, ...] of an object of uncertain border, and Gaussian shifts [count, 1, ...] over blocks by edge."""
    cell = 2 ** len(size)
    rows = torch.linspace(-4, 4, size[0]).view(1, 1, -1, *[1] * (len(size) - 1)).expand(1, cell, *size)
    shift = torch.zeros(count, 1, *size)
    for edge, variance in variances.items():
        field = math.sqrt(variance) * torch.randn(count, 1, *(-(-n // (edge or n)) for n in size))
        for axis, n in enumerate(size):
            field = field.repeat_interleave(edge or n, 2 + axis)
        shift += field
    return torch.cat([-rows / 2, rows / 2], 1), shift


@pytest.mark.parametrize("size", [(16, 16, 16), (32, 48)])
def test_variances_of_nested_blocks_are_measured(size):
    torch.manual_seed(7)
    variances = {0: 0.2, 8: 0.0, 4: 0.3}
    direct, shift = shifted(size, variances, 300)
    cell = 2 ** len(size)
    logits = direct + torch.cat([-shift / 2, shift / 2], 1).repeat_interleave(cell, 1)
    blocks = BlockShifts(2, 8, (4, 8, 0), 16, len(size))
    for part in logits.split(100):
        blocks.observe(direct.expand_as(part), labels_of(part))
    assert blocks.edges == (0, 8, 4)
    assert blocks.variances.T == pytest.approx(torch.tensor([list(variances.values())] * 2), abs=0.06)

    unknown = labels_of(logits)
    unknown[..., ::2] = 0  # voxels that nobody labelled
    other = BlockShifts(2, 8, (4, 8, 0), 16, len(size))
    other.observe(direct.expand_as(unknown), unknown)
    assert other.variances.T == pytest.approx(torch.tensor([list(variances.values())] * 2), abs=0.12)


@pytest.mark.parametrize("level", [-9.0, -6.0, -3.0])
@pytest.mark.parametrize("size", [(16, 16, 16), (32, 48)])
def test_a_new_module_gives_the_posterior_mean_of_the_block_contents(size, level):
    """Its expected volumes, regressed on the true ones, have slope 1: before any training."""
    torch.manual_seed(8)
    count, variances, log_snr = 400, {0: 0.5, 4: 0.5}, torch.tensor([level])
    cell = 2 ** len(size)
    direct, shift = shifted(size, variances, count)
    truth = direct + torch.cat([-shift / 2, shift / 2], 1).repeat_interleave(cell, 1)
    blocks = BlockShifts(2, 8, (0, 4), 16, len(size))
    blocks.variances.copy_(torch.tensor([[v, v] for v in variances.values()]))
    x0 = labels_of(truth)
    x = diffuse(x0, torch.randn_like(x0), log_snr.expand(count))
    with torch.no_grad():
        repeated, shifts = direct.expand(count, -1, *size).clone(), shifts_of(blocks, x, log_snr, direct)
        found = blocks.add(repeated, shifts, torch.zeros(count, 16))
    moved = [(class_softmax(logits) - class_softmax(direct)).chunk(2, 1)[1] for logits in (found, truth)]
    estimated, true = (volume.flatten(1).sum(1) for volume in moved)
    assert 0.87 < (estimated @ true) / (estimated @ estimated) < 1.13
