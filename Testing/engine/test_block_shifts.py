"""Shifts of whole blocks, estimated from the noisy state."""

import math

import pytest
import torch

from diffusion_segmentation.diffusion.process import alpha_sigma, diffuse
from diffusion_segmentation.images.label_file import IGNORED
from diffusion_segmentation.networks import Denoiser, Encoder, block_shifts, class_softmax
from diffusion_segmentation.networks.block_shifts import BlockShifts, openness
from diffusion_segmentation.networks.blocks import space_to_depth
from diffusion_segmentation.networks.pooled_evidence import PooledEvidence
from diffusion_segmentation.training.loss import losses


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


def labels_of(logits, classes=2):
    """Masks x0 drawn voxel by voxel from `logits` [N, classes * cell, ...]."""
    p = class_softmax(logits).unflatten(1, (classes, -1))
    chosen = torch.rand_like(p[:, :1]) > p.cumsum(1)
    hot = torch.nn.functional.one_hot(chosen.sum(1).clamp(max=classes - 1), classes).movedim(-1, 1)
    return (2.0 * hot - 1).flatten(1, 2)


def shifted(size, variances, count):
    """Logits [1, ...] of an object of uncertain border, and Gaussian shifts [count, 1, ...] over blocks by edge."""
    cell = 2 ** len(size)
    rows = torch.linspace(-4, 4, size[0]).view(1, 1, -1, *[1] * (len(size) - 1)).expand(1, cell, *size)
    shift = torch.zeros(count, 1, *size)
    for edge, variance in variances.items():
        field = math.sqrt(variance) * torch.randn(count, 1, *(-(-n // (edge or n)) for n in size))
        for axis, n in enumerate(size):
            field = field.repeat_interleave(edge or n, 2 + axis).narrow(2 + axis, 0, n)
        shift += field
    return torch.cat([-rows / 2, rows / 2], 1), shift


def moved(logits, direct, classes=2):
    """Volumes of the structures beyond those of `direct`, [N, classes - 1]."""
    change = class_softmax(logits) - class_softmax(direct)
    return change.unflatten(1, (classes, -1)).flatten(2).sum(2)[:, 1:]


def estimate(blocks, x, log_snr, direct):
    with torch.no_grad():
        repeated, shifts = direct.expand(x.shape).clone(), shifts_of(blocks, x, log_snr, direct)
        return blocks.add(repeated, shifts, torch.zeros(len(x), 16))


@pytest.mark.parametrize("size", [(16, 16, 16), (32, 42)])
def test_variances_of_nested_blocks_are_measured(size):
    torch.manual_seed(7)
    variances = {0: 0.1, 8: 0.0, 4: 0.15}
    direct, shift = shifted(size, variances, 300)
    cell = 2 ** len(size)
    logits = direct + torch.cat([-shift / 2, shift / 2], 1).repeat_interleave(cell, 1)
    blocks = BlockShifts(2, 8, (4, 8, 0), 16, len(size))
    untrained = torch.zeros_like(direct)
    for _ in range(50):  # uncertain everywhere, which must soon be forgotten
        blocks.observe(untrained, labels_of(direct))
    for part in 4 * logits.split(2):
        blocks.observe(direct.expand_as(part), labels_of(part))
    assert blocks.edges == (0, 8, 4)
    assert blocks.variances.T == pytest.approx(torch.tensor([list(variances.values())] * 2), abs=0.05)
    absent = torch.full_like(direct, -8.0)
    absent[:, :cell] = 0
    for _ in range(50):  # windows without the object
        blocks.observe(absent, labels_of(absent - 20 * (absent < 0)))
    for buffer in blocks.buffers():
        assert buffer.half().isfinite().all()  # as in a model's file
    assert blocks.variances.T == pytest.approx(torch.tensor([list(variances.values())] * 2), abs=0.05)
    before = blocks.variances.clone()
    blocks.observe(direct * math.nan, labels_of(direct))
    assert torch.equal(blocks.variances, before) and blocks.moments.isfinite().all()

    unknown = labels_of(logits)
    unknown[..., ::2] = 0  # voxels that nobody labelled
    other = BlockShifts(2, 8, (4, 8, 0), 16, len(size))
    other.observe(direct.expand_as(unknown), unknown)
    assert other.variances.T == pytest.approx(torch.tensor([list(variances.values())] * 2), abs=0.06)


@pytest.mark.parametrize(
    ("size", "level"), [((16, 16, 16), -9), ((16, 16, 16), -5), ((16, 16, 16), -1), ((32, 42), -5), ((32, 42), -1)]
)
def test_a_new_module_gives_the_posterior_mean_of_the_block_contents(size, level):
    """The true volumes, regressed on its expected ones, have slope 1: before any training."""
    torch.manual_seed(8)
    count, variances, log_snr = 400, {0: 0.5, 4: 0.5}, torch.tensor([float(level)])
    cell = 2 ** len(size)
    direct, shift = shifted(size, variances, count)
    truth = direct + torch.cat([-shift / 2, shift / 2], 1).repeat_interleave(cell, 1)
    blocks = BlockShifts(2, 8, (0, 4), 16, len(size))
    blocks.variances.copy_(torch.tensor([[v, v] for v in variances.values()]))
    x0 = labels_of(truth)
    x = diffuse(x0, torch.randn_like(x0), log_snr.expand(count))
    found = estimate(blocks, x, log_snr, direct)
    estimated, true = moved(found, direct), moved(truth, direct)
    assert 0.9 < (estimated * true).sum() / estimated.square().sum() < 1.1
    torch.testing.assert_close(estimate(blocks, x[:1], log_snr, direct), found[:1])


@pytest.mark.parametrize(("size", "level"), [((16, 16, 16), -4), ((32, 42), -1)])
def test_shifts_far_from_0_are_estimated(size, level):
    """One step of scoring at 0 has an error of 0.22 to 0.26 standard deviations of the volumes; all have 0.10 to 0.13.

    The rest is that voxels that are certain in the image stay so.
    """
    torch.manual_seed(8)
    count, variance, log_snr = 300, 4.0, torch.tensor([float(level)])
    direct, shift = shifted(size, {0: variance}, count)
    truth = direct + torch.cat([-shift / 2, shift / 2], 1).repeat_interleave(2 ** len(size), 1)
    blocks = BlockShifts(2, 8, (0, 4), 16, len(size))
    blocks.variances.copy_(torch.tensor([[variance] * 2, [0.0] * 2]))
    x0 = labels_of(truth)
    x = diffuse(x0, torch.randn_like(x0), log_snr.expand(count))
    estimated, true = moved(estimate(blocks, x, log_snr, direct), direct), moved(truth, direct)
    assert (estimated - true).square().mean() < 0.16**2 * true.square().mean()
    assert 0.9 < (estimated * true).sum() / estimated.square().sum() < 1.13


@pytest.mark.parametrize(("size", "level", "error"), [((12, 12, 12), -2, 0.16), ((32, 32), -4, 0.45)])
@pytest.mark.parametrize("steps", [3, 4])
def test_a_single_uncertain_voxel_in_each_cell_is_not_overestimated(monkeypatch, size, level, error, steps):
    """With the mean of w instead of w in the information, scoring oscillates: errors of 2.3 and 4.0 in 3-D."""
    monkeypatch.setattr(block_shifts, "STEPS", steps)
    torch.manual_seed(1)
    count, log_snr, voxels = 60, torch.tensor([float(level)]), 2 ** len(size)
    logits = torch.full((1, voxels, *size), -12.0)
    logits[:, 0] = 0
    direct = torch.cat([-logits / 2, logits / 2], 1)
    blocks = BlockShifts(2, 8, (0,), 16, len(size))
    within = openness(blocks.expected(direct)[:, 1:2]).repeat_interleave(voxels, 1)
    shift = within * torch.randn(count, 1, *[1] * len(size))
    truth = direct + torch.cat([-shift / 2, shift / 2], 1)
    x = diffuse(x0 := labels_of(truth), torch.randn_like(x0), log_snr.expand(count))
    estimated, true = moved(estimate(blocks, x, log_snr, direct), direct), moved(truth, direct)
    assert (estimated - true).square().mean() < error**2 * true.square().mean()
    assert 0.95 < (estimated * true).sum() / estimated.square().sum() < 1.05


@pytest.mark.parametrize(("level", "error"), [(-1.0, 0.28), (2.0, 0.18)])
def test_cells_that_a_sharp_border_crosses_are_not_overestimated(level, error):
    """Within each cell of the border voxels differ by 4 logits; one step has errors of 0.31 and 0.20."""
    torch.manual_seed(1)
    count, variance, log_snr = 150, 4.0, torch.tensor([level])
    rows = 4 * (torch.arange(48) - 22.5).clamp(-3, 3).view(1, 1, 48, 1).expand(1, 1, 48, 48)
    direct = torch.cat([-space_to_depth(rows) / 2, space_to_depth(rows) / 2], 1).contiguous()
    blocks = BlockShifts(2, 8, (0,), 16, 2)
    blocks.variances.fill_(variance)
    within = openness(blocks.expected(direct)[:, 1:2]).repeat_interleave(4, 1)
    shift = within * math.sqrt(variance) * torch.randn(count, 1, 1, 1)
    truth = direct + torch.cat([-shift / 2, shift / 2], 1)
    x = diffuse(x0 := labels_of(truth), torch.randn_like(x0), log_snr.expand(count))
    estimated, true = moved(estimate(blocks, x, log_snr, direct), direct), moved(truth, direct)
    assert (estimated - true).square().mean() < error**2 * true.square().mean()
    assert 0.9 < (estimated * true).sum() / estimated.square().sum() < 1.1


@pytest.mark.parametrize(("deviation", "level", "error"), [(0.7, -6.0, 0.9), (0.7, -3.0, 0.4), (1.5, -3.0, 0.25)])
def test_a_structure_that_is_shifted_against_the_background_takes_the_shift(deviation, level, error):
    """Three structures with borders of their own: the background, which borders them all, hardly moves as a whole."""
    torch.manual_seed(9)
    classes, count, size, log_snr = 4, 300, (36, 40), torch.tensor([level])
    columns = torch.linspace(-4, 4, size[1]).expand(1, 4, *size)
    direct = torch.full((1, 4 * classes, *size), -9.0)
    direct[:, :4] = 0
    for k in range(1, classes):
        direct[:, 4 * k : 4 * k + 4, 12 * k - 12 : 12 * k] = columns[..., :12, :]
    shift = deviation * torch.randn(count, classes - 1)
    truth = direct.repeat(count, 1, 1, 1)
    truth[:, 4:] += shift.repeat_interleave(4, 1)[..., None, None]
    x0 = labels_of(truth, classes)
    blocks = BlockShifts(classes, 8, (0,), 16, 2)
    for part in 3 * x0.split(2):
        blocks.observe(direct.expand_as(part), part)
    x = diffuse(x0, torch.randn_like(x0), log_snr.expand(count))
    estimated, true = moved(estimate(blocks, x, log_snr, direct), direct, classes), moved(truth, direct, classes)
    assert 0.85 < (estimated * true).sum() / estimated.square().sum() < 1.15
    assert (estimated - true).square().mean() < error**2 * true.square().mean()


def test_states_of_voxels_that_nobody_labelled_show_classes_drawn_from_the_direct_head():
    encoder, denoiser = Encoder(2, (8, 8), (1, 1)), Denoiser(2, 8, (8, 16), 1, pools=(0, 2), pool_variances=True)
    seen = []
    denoiser.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    labels = torch.zeros(1, 1, 8, 8, 8, dtype=torch.uint8)
    labels[..., 4:] = IGNORED
    image, log_snr = torch.randn(1, 1, 8, 8, 8), torch.tensor([[8.0, 8.0]])
    losses(encoder, denoiser, image, labels, 2, log_snr)[2].backward()
    x, _, _, direct = seen[0]
    p = class_softmax(direct)[..., 2:].unflatten(1, (2, -1))
    shown = x[..., 2:].unflatten(1, (2, -1))
    assert shown.abs().mean() > 0.95 and shown.sum(1).abs().mean() < 0.05  # one class at each voxel
    assert (shown.mean((0, 2, 3, 4, 5)) - (2 * p - 1).mean((0, 2, 3, 4, 5))).abs().max() < 0.2
    assert denoiser.pooled.moments.isfinite().all()

    before = denoiser.pooled.moments.clone()
    with torch.no_grad():  # as for the loss curve
        losses(encoder, denoiser, image, labels, 2, log_snr)
    denoiser.requires_grad_(False)  # as where only facts are learnt
    losses(encoder, denoiser, image, labels, 2, log_snr)
    assert torch.equal(denoiser.pooled.moments, before)
