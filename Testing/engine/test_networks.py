"""The networks' arithmetic: space to depth, softmax over classes, and the denoiser before training."""

import math

import pytest
import torch

from diffusion_segmentation.diffusion.process import diffuse, one_hot_state
from diffusion_segmentation.networks import (
    Denoiser,
    Encoder,
    class_softmax,
    class_softmax_,
    depth_to_space,
    space_to_depth,
)
from diffusion_segmentation.networks.soft_regions import SoftRegionPooling


@pytest.mark.parametrize("shape", [(4, 6, 8), (6, 8)])
def test_space_to_depth_loses_nothing(shape):
    x = torch.randn(2, 3, *shape)
    assert space_to_depth(x).shape == (2, 3 * 2 ** len(shape), *(n // 2 for n in shape))
    assert torch.equal(depth_to_space(space_to_depth(x)), x)


@pytest.mark.parametrize("shape", [(4, 6, 2), (4, 6)])
@pytest.mark.parametrize("softmax", [class_softmax, class_softmax_])
def test_class_softmax_is_softmax_over_the_classes_of_each_voxel(softmax, shape):
    logits = 30 * torch.randn(2, 4, *shape)
    torch.testing.assert_close(depth_to_space(softmax(space_to_depth(logits))), logits.softmax(1))


@pytest.mark.parametrize("softmax", [class_softmax, class_softmax_])
def test_class_softmax_is_finite_for_the_largest_logits(softmax):
    logits = torch.tensor([6000.0, -6000.0]).view(1, 2, 1, 1, 1).expand(1, 2, 2, 2, 2)
    p = softmax(space_to_depth(logits))
    assert torch.isfinite(p).all() and p[:, :8].eq(1).all()


def test_denoiser_answers_the_same_with_and_without_gradients():
    torch.manual_seed(2)
    denoiser = Denoiser(3, 8, (8, 16), 1)
    torch.nn.init.normal_(denoiser.head.weight)
    x, direct = (torch.randn(1, 24, 4, 4, 4).contiguous(memory_format=torch.channels_last_3d) for _ in range(2))
    arguments = x, torch.tensor([-1.0]), torch.randn(1, 8, 4, 4, 4), direct
    with_gradients = denoiser(*arguments)
    with torch.no_grad():
        torch.testing.assert_close(denoiser(*arguments), with_gradients.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(4, 4, 4), (6, 8)])
def test_untrained_denoiser_is_bayes_rule_for_independent_voxels(size):
    torch.manual_seed(0)
    classes, prior, cell = 3, torch.tensor([0.7, 0.2, 0.1]), 2 ** len(size)
    denoiser = Denoiser(classes, 8, (8, 8), 1, len(size))
    labels = torch.multinomial(prior, cell * math.prod(size), replacement=True).view(1, cell, *size)
    log_snr = torch.tensor([-1.0])
    x = diffuse(one_hot_state(labels, classes), torch.randn(1, classes * cell, *size), log_snr)
    direct = prior.log().repeat_interleave(cell).view(1, -1, *(1,) * len(size)).expand(x.shape)
    features = denoiser.prepare(torch.zeros(1, 8, *size), direct)
    p = class_softmax(denoiser(x, log_snr, features, direct)).unflatten(1, (classes, cell))

    alpha, sigma = torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()
    means = alpha * (2 * torch.eye(classes) - 1)  # [class k, channel]
    states = x.unflatten(1, (classes, cell)).movedim(1, -1)[..., None, :]
    distances = ((states - means) ** 2).sum(-1)  # [1, cell, ..., k]
    expected = (prior.log() - distances / (2 * sigma**2)).softmax(-1).movedim(-1, 1)
    torch.testing.assert_close(p, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strata", [0, 5])
def test_samples_of_a_batch_do_not_see_each_other(strata):
    torch.manual_seed(1)
    denoiser = Denoiser(2, 8, (8, 16), 1, strata=strata)
    torch.nn.init.normal_(denoiser.head.weight)
    if strata:
        torch.nn.init.normal_(denoiser.strata.tell.weight)
    x, direct = torch.randn(3, 16, 4, 4, 4), torch.randn(1, 16, 4, 4, 4)
    prepared = denoiser.prepare(torch.randn(1, 8, 4, 4, 4), direct)
    together = denoiser(x, torch.full((3,), -2.0), prepared, direct)
    alone = denoiser(x[1:2], torch.tensor([-2.0]), prepared, direct)
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-4)


def test_encoder_answers_at_the_resolution_of_the_image():
    encoder = Encoder(4, (8, 16, 24), (1, 1, 1))
    features, logits = encoder(torch.rand(1, 1, 16, 24, 32))
    assert features.shape == (1, 8, 8, 12, 16)
    assert depth_to_space(logits).shape == (1, 4, 16, 24, 32)


@pytest.mark.parametrize("size", [(4, 4, 8), (4, 8)])
def test_strata_pool_only_over_voxels_with_similar_probabilities(size):
    """Two halves of an image with different features: a change reaches its own half only, at any distance."""
    torch.manual_seed(3)
    pooling = SoftRegionPooling(4, 8, 2, 16, len(size))
    torch.nn.init.normal_(pooling.tell.weight)
    torch.nn.init.zeros_(pooling.assign.bias)
    pooling.assign.weight.data.zero_()
    pooling.assign.weight.data[0, 0], pooling.assign.weight.data[1, 0] = 50, -50
    features = torch.ones(1, 4, *size)
    features[..., size[-1] // 2 :] = -1
    shares = pooling.assignment(features)
    # Each stratum is weighted by itself here: the output is its own vote.
    pooling.norm = pooling.enter = pooling.middle = torch.nn.Identity()
    pooling.film = torch.nn.Linear(16, 2 * 16)
    torch.nn.init.zeros_(pooling.film.weight)
    torch.nn.init.zeros_(pooling.film.bias)
    pooling.leave = torch.nn.Identity()
    h, embedded = torch.randn(1, 8, *size), torch.randn(1, 16)
    changed = h.clone()
    changed[(0, slice(None), *(0,) * len(size))] += 1
    moved = (pooling(changed, shares, embedded) - pooling(h, shares, embedded)).abs().amax(1)[0]
    same_part, other = moved[..., : size[-1] // 2], moved[..., size[-1] // 2 :]
    assert same_part.min() > 1e-4 and other.max() < 1e-6


def test_strata_start_as_the_identity():
    pooling = SoftRegionPooling(4, 8, 3, 16, 2)
    h = torch.randn(2, 8, 4, 6)
    assert torch.equal(pooling(h, pooling.assignment(torch.randn(1, 4, 4, 6)), torch.randn(2, 16)), h)


def test_with_a_gain_nothing_is_added_at_pure_noise():
    """At log-SNR -12 the head's answer is the right one already; without a gain the network may still move it."""
    torch.manual_seed(4)
    moved = {}
    for gain in (0.0, 8.0):
        denoiser = Denoiser(2, 8, (8, 16), 1, gain=gain)
        torch.nn.init.normal_(denoiser.head.weight)
        x, direct = torch.randn(2, 16, 4, 4, 4), torch.randn(1, 16, 4, 4, 4)
        prepared = denoiser.prepare(torch.randn(1, 8, 4, 4, 4), direct)
        moved[gain] = [
            float((denoiser(x, torch.full((2,), log_snr), prepared, direct) - direct).detach().abs().mean())
            for log_snr in (-12.0, -4.0)
        ]
    assert moved[8.0][0] < 0.1 < 1 < moved[0.0][0]
    assert moved[8.0][1] > 1


def test_with_a_gain_one_sample_and_several_get_the_same_answer():
    """One sample has the gain in the weights, several have it multiplied."""
    torch.manual_seed(0)
    denoiser = Denoiser(2, 8, (8, 16), 1, gain=8.0).eval()
    torch.nn.init.normal_(denoiser.head.weight)
    torch.nn.init.normal_(denoiser.head.bias)
    x, features, direct = torch.randn(2, 16, 4, 4, 4), torch.randn(1, 8, 4, 4, 4), torch.randn(1, 16, 4, 4, 4)
    log_snr = torch.tensor([-3.0, 1.0])
    with torch.no_grad():
        prepared = denoiser.prepare(features, direct)
        both = denoiser(x, log_snr, prepared, direct)
        each = [denoiser(x[n : n + 1], log_snr[n : n + 1], prepared, direct) for n in range(2)]
    torch.testing.assert_close(both, torch.cat(each), rtol=1e-4, atol=1e-4)
