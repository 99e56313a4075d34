"""The architectures: the interface `Architecture`, special properties of each, and equal cost."""

import math

import pytest
import torch
from torch.nn import functional

from diffusion_segmentation.diffusion.process import LOG_SNR_MIN, diffuse, one_hot_state
from diffusion_segmentation.networks import class_softmax, space_to_depth
from diffusion_segmentation.study.architectures.catalogue import ARCHITECTURES, flops, scaled
from diffusion_segmentation.study.architectures.filtered import FrequencyFilter
from diffusion_segmentation.study.architectures.unet import UNet

CLASSES, WIDTH = 3, 16
SHAPES = {2: (16, 24), 3: (16, 8, 8)}

every_name = pytest.mark.parametrize("name", list(ARCHITECTURES))
every_dims = pytest.mark.parametrize("dims", [2, 3])
with_and_without_closed_form = pytest.mark.parametrize("closed_form", [True, False])


def randomised(module):
    """The module with random values in place of parameters that are initialised to zero and hide other layers."""
    for parameter in module.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return module


def network(name, dims, closed_form=True):
    torch.manual_seed(0)
    return randomised(ARCHITECTURES[name](CLASSES, dims, WIDTH, closed_form))


def image_and_state(dims, images=2, states=2):
    cells = tuple(n // 2 for n in SHAPES[dims])
    return torch.randn(images, 1, *SHAPES[dims]), torch.randn(states, 2**dims * CLASSES, *cells)


def parts(condition, n):
    return tuple(entry[n : n + 1] for entry in condition)


def test_names_are_in_the_order_of_the_study_and_lead_to_their_own_classes():
    assert list(ARCHITECTURES) == ["pair", "concatenated", "summed", "filtered", "injected"]
    assert all(kind.name == name for name, kind in ARCHITECTURES.items())


@every_name
@every_dims
@with_and_without_closed_form
def test_answers_have_the_form_of_the_state_in_float32(name, dims, closed_form):
    net = network(name, dims, closed_form)
    image, x = image_and_state(dims)
    with torch.no_grad():
        condition = net.encode(image)
        answers = [net.denoise(x, torch.tensor([-3.0, 2.0]), condition), net.direct(image)]
        if (head := net.head(condition)) is not None:
            answers.append(head)
    assert all(len(entry) == len(image) for entry in condition)
    for answer in answers:
        assert answer.shape == x.shape and answer.dtype == torch.float32 and answer.isfinite().all()


@every_name
@every_dims
def test_answers_are_float32_under_autocast(name, dims):
    net = network(name, dims)
    image, x = image_and_state(dims)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        answers = net.denoise(x, torch.tensor([-3.0, 2.0]), net.encode(image)), net.direct(image)
    assert all(answer.dtype == torch.float32 and answer.isfinite().all() for answer in answers)


@every_name
@every_dims
def test_one_condition_serves_many_states_as_if_it_were_repeated(name, dims):
    net = network(name, dims)
    image, x = image_and_state(dims, images=1, states=3)
    log_snr = torch.tensor([-6.0, -1.0, 2.0])
    with torch.no_grad():
        condition = net.encode(image)
        together = net.denoise(x, log_snr, condition)
        repeated = net.denoise(x, log_snr, tuple(entry.repeat_interleave(3, 0) for entry in condition))
        alone = torch.cat([net.denoise(x[n : n + 1], log_snr[n : n + 1], condition) for n in range(3)])
    torch.testing.assert_close(together, repeated, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


@every_name
@every_dims
def test_images_of_a_batch_do_not_see_each_other(name, dims):
    net = network(name, dims)
    image, x = image_and_state(dims)
    log_snr = torch.tensor([-3.0, 1.0])
    with torch.no_grad():
        condition = net.encode(image)
        together, direct = net.denoise(x, log_snr, condition), net.direct(image)
        for n in range(2):
            alone = net.denoise(x[n : n + 1], log_snr[n : n + 1], net.encode(image[n : n + 1]))
            torch.testing.assert_close(together[n : n + 1], alone, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(direct[n : n + 1], net.direct(image[n : n + 1]), rtol=1e-4, atol=1e-4)


@every_name
@every_dims
@with_and_without_closed_form
def test_gradients_reach_every_parameter(name, dims, closed_form):
    net = network(name, dims, closed_form)
    image, noise = image_and_state(dims)
    labels = space_to_depth((image > 0).float() + (image > 1).float()).long()
    x0, log_snr = one_hot_state(labels, CLASSES), torch.tensor([-2.0, 0.0])
    condition = net.encode(image)
    loss = functional.mse_loss(net.denoise(diffuse(x0, noise, log_snr), log_snr, condition), x0)
    if (head := net.head(condition)) is not None:
        loss = loss + functional.mse_loss(head, x0)
    loss.backward()
    without = [n for n, p in net.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-6]
    assert without == []


@every_name
@with_and_without_closed_form
def test_answer_depends_on_the_image_the_state_and_the_log_snr(name, closed_form):
    net = network(name, 2, closed_form)
    (image, x), (other_image, other_x) = image_and_state(2, 1, 1), image_and_state(2, 1, 1)
    log_snr = torch.tensor([-4.0])
    with torch.no_grad():
        condition = net.encode(image)
        answer = net.denoise(x, log_snr, condition)
        others = {
            "image": net.denoise(x, log_snr, net.encode(other_image)),
            "state": net.denoise(other_x, log_snr, condition),
            "log-SNR": net.denoise(x, log_snr + 4, condition),
        }
    assert {what for what, other in others.items() if (other - answer).abs().mean() < 1e-3} == set()


@every_name
@every_dims
def test_every_part_of_the_condition_is_used(name, dims):
    net = network(name, dims, closed_form=False)
    (image, x), (other_image, _) = image_and_state(dims, 1, 1), image_and_state(dims, 1, 1)
    log_snr = torch.tensor([-4.0])
    with torch.no_grad():
        condition, other = net.encode(image), net.encode(other_image)
        answer = net.denoise(x, log_snr, condition)
        for n in range(len(condition)):
            exchanged = (*condition[:n], other[n], *condition[n + 1 :])
            assert (net.denoise(x, log_snr, exchanged) - answer).abs().mean() > 1e-4, n


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "pair"])
def test_the_direct_prediction_is_the_denoiser_at_pure_noise(name):
    net = network(name, 2)
    image, x = image_and_state(2)
    with torch.no_grad():
        expected = net.denoise(torch.zeros_like(x), torch.full((2,), LOG_SNR_MIN), net.encode(image))
        assert torch.equal(net.direct(image), expected)


def test_direct_of_the_pair_is_its_head():
    net = network("pair", 2)
    image, _ = image_and_state(2)
    with torch.no_grad():
        assert torch.equal(net.direct(image), net.head(net.encode(image)))


@every_name
@pytest.mark.parametrize("size", [(8, 8), (24, 40), (8, 16, 24)])
def test_grids_of_any_multiple_are_accepted(name, size):
    """Down to the smallest, whose coarsest level is a single cell."""
    net = network(name, len(size))
    assert all(n % net.multiple == 0 for n in size)
    image = torch.randn(1, 1, *size)
    with torch.no_grad():
        assert net.direct(image).shape == (1, 2 ** len(size) * CLASSES, *(n // 2 for n in size))


@pytest.mark.slow
@every_name
def test_direct_training_on_a_trivial_task_works(name):
    """The mask is where the image is positive: every architecture must learn single pixels quickly."""
    torch.manual_seed(0)
    net = ARCHITECTURES[name](2, 2, 8)
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-2)
    losses = []
    for _ in range(60):
        image = torch.randn(4, 1, 16, 16)
        target = space_to_depth(torch.cat([image <= 0, image > 0], 1).float())
        loss = -2 * (class_softmax(net.direct(image)).clamp_min(1e-6).log() * target).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 0.65
    assert sum(losses[-5:]) / 5 < 0.4 * losses[0]


@every_dims
def test_unet_alone_starts_at_zero_and_meets_conditions_at_its_three_levels(dims):
    torch.manual_seed(0)
    unet, x = UNet(5, 7, WIDTH, dims), torch.randn(2, 5, *(8,) * dims)
    log_snr, met = torch.tensor([-1.0, 1.0]), {}

    def at(level, h):
        met[level] = tuple(h.shape)
        return h + 1

    with torch.no_grad():
        assert torch.equal(unet(x, log_snr), torch.zeros(2, 7, *(8,) * dims))
        randomised(unet)
        assert not torch.allclose(unet(x, log_snr, at), unet(x, log_snr))
    expected = {level: (2, c, *(8 // 2**level,) * dims) for level, c in enumerate((WIDTH, 2 * WIDTH, 2 * WIDTH))}
    assert met == expected and list(met) == [0, 1, 2]


@every_dims
def test_unet_carries_each_finer_level_past_the_coarser_ones(dims):
    """Without features of the coarsest level both finer levels still affect the output."""
    torch.manual_seed(0)
    unet, x = randomised(UNet(5, 7, WIDTH, dims)), torch.randn(1, 5, *(8,) * dims)
    log_snr = torch.zeros(1)
    with torch.no_grad():
        for level in (1, 0):
            unet.grow[level].weight.zero_()
            unet.grow[level].bias.zero_()
            mirrored = unet(x, log_snr, lambda at, h, level=level: h.flip(-1) if at == level else h)
            assert (mirrored - unet(x, log_snr)).abs().mean() > 1e-3


@pytest.mark.parametrize("size", [(8, 12), (7, 5), (1, 1), (6, 4, 8), (3, 5, 1)])
def test_new_frequency_filter_is_the_identity(size):
    h = torch.randn(2, 16, *size)
    torch.testing.assert_close(FrequencyFilter(16, len(size))(h), h, rtol=1e-4, atol=1e-5)


def test_frequency_filter_transforms_in_float32_under_autocast():
    """No Fourier transform of bfloat16 exists on a CPU; of float16 on a GPU, only for powers of two."""
    h = torch.randn(2, 16, 6, 10).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        filtered = FrequencyFilter(16, 2)(h)
    assert filtered.dtype == torch.bfloat16
    torch.testing.assert_close(filtered, h, rtol=1e-2, atol=1e-2)


@every_dims
@pytest.mark.parametrize("cells", [4, 8, 12, 20])
def test_frequency_filter_means_the_same_frequencies_on_every_grid(dims, cells):
    """A low pass that falls to zero at the Nyquist frequency halves a wave of half of it, along each axis."""
    low_pass = FrequencyFilter(8, dims)
    bands = low_pass.weight.shape[2:]
    falling = [1 - torch.linspace(-1, 1, n).abs() for n in bands[:-1]] + [torch.linspace(1, 0, bands[-1])]
    for axis, values in enumerate(falling):
        shape = [1] * dims
        shape[axis] = -1
        with torch.no_grad():
            low_pass.weight.copy_(values.view(shape).expand(bands))
            wave = torch.cos(math.pi / 2 * torch.arange(cells) + 0.3).view(shape).expand(1, 8, *(cells,) * dims)
            torch.testing.assert_close(low_pass(wave), wave / 2, rtol=1e-4, atol=1e-5)


def test_flops_count_multiplications_and_additions_of_layers():
    """Four times the cells cost four times the convolutions; the linear layers run once for the whole image."""
    net = ARCHITECTURES["concatenated"](CLASSES, 2, WIDTH)
    linear = sum(2 * m.in_features * m.out_features for m in net.modules() if isinstance(m, torch.nn.Linear))
    assert 4 * flops(net, (32, 32)) - flops(net, (64, 64)) == 3 * linear
    entrance = 2 * 16 * 16 * 9 * WIDTH * 4 * (CLASSES + 1)
    assert entrance < flops(net, (32, 32)) < 100 * entrance


@pytest.mark.slow
@every_name
@pytest.mark.parametrize(("shape", "target"), [((32, 32), 36e6), ((24, 24, 24), 1.2e9)])
def test_scaled_networks_have_the_requested_cost(name, shape, target):
    dims = len(shape)
    net = scaled(name, 2, dims, shape, target, closed_form=False)
    assert (net.name, net.dims, net.classes, net.width % 8, net.closed_form) == (name, dims, 2, 0, False)
    assert all(p.device.type == "cpu" for p in net.parameters())
    assert abs(math.log(flops(net, shape) / target)) < math.log(1.35)
    away = {}
    for width in range(max(8, net.width - 8), net.width + 9, 8):
        away[width] = abs(math.log(flops(ARCHITECTURES[name](2, dims, width), shape) / target))
    assert min(away, key=away.get) == net.width


def test_scaled_draws_weights_once_and_on_the_cpu():
    """Trying widths draws no random numbers: a seed gives one network."""
    torch.manual_seed(3)
    net = scaled("summed", 2, 2, (32, 32), 36e6, closed_form=False)
    assert not net.closed_form and all(p.device.type == "cpu" for p in net.parameters())
    torch.manual_seed(3)
    plain = ARCHITECTURES["summed"](2, 2, net.width).state_dict()
    assert all(torch.equal(value, plain[key]) for key, value in net.state_dict().items())


def test_scaled_refuses_an_unknown_name():
    with pytest.raises(ValueError, match="concatenated"):
        scaled("stacked", 2, 2, (32, 32), 36e6)
