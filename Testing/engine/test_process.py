"""The forward process compared with its definition, and the step grid with curves of known result."""

import numpy as np
import pytest
import torch

from diffusion_segmentation.diffusion import process


def test_amplitudes_preserve_variance_and_give_back_the_log_snr():
    log_snr = torch.linspace(process.LOG_SNR_MIN, process.LOG_SNR_MAX, 41)
    alpha, sigma = process.alpha_sigma(log_snr)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(41))
    torch.testing.assert_close(torch.log(alpha**2 / sigma**2), log_snr, rtol=1e-4, atol=1e-4)


def test_state_is_plus_one_for_the_label_in_its_own_cell_and_minus_one_elsewhere():
    labels = torch.randint(0, 5, (2, 8, 3, 4, 2))
    x0 = process.one_hot_state(labels, 5)
    assert x0.shape == (2, 40, 3, 4, 2)
    by_class = x0.unflatten(1, (5, 8))
    assert torch.equal(by_class.argmax(1), labels)
    assert torch.equal(by_class.sum(1), torch.full((2, 8, 3, 4, 2), -3.0))


def test_the_state_of_an_unknown_label_carries_no_information():
    labels = torch.randint(0, 3, (2, 8, 3, 4, 2))
    some = labels.clone()
    some[:, ::2] = 255
    x0, whole = (
        process.one_hot_state(some, 3).unflatten(1, (3, 8)),
        process.one_hot_state(labels, 3).unflatten(1, (3, 8)),
    )
    assert (x0[:, :, ::2] == 0).all() and torch.equal(x0[:, :, 1::2], whole[:, :, 1::2])


def test_ddim_with_the_true_mask_follows_the_forward_process():
    torch.manual_seed(0)
    x0, noise = torch.sign(torch.randn(2, 16, 2, 3, 4)), torch.randn(2, 16, 2, 3, 4)
    x = process.diffuse(x0, noise, torch.tensor([-4.0, -4.0]))
    moved = process.ddim_step(x, (x0 + 1) / 2, -4.0, 1.5)
    torch.testing.assert_close(moved, process.diffuse(x0, noise, torch.tensor([1.5, 1.5])), rtol=1e-4, atol=1e-4)


def test_input_scale_shifts_the_schedule_by_twice_its_logarithm():
    uniform = torch.linspace(0.2, 0.8, 7)
    shift = process.sample_log_snr(uniform, 0.5) - process.sample_log_snr(uniform, 1.0)
    torch.testing.assert_close(shift, torch.full((7,), 2 * float(np.log(0.5))), rtol=1e-4, atol=1e-4)


def test_grid_begins_where_the_loss_falls_ends_where_none_is_left_and_is_dense_between():
    log_snr = np.linspace(-12, 8, 201)
    loss = 1 / (1 + np.exp(2 * (log_snr + 3)))  # falls around -3
    for steps in (3, 5, 10):
        grid = process.adapted_grid(log_snr, loss, steps)
        assert len(grid) == steps and grid[0] == process.LOG_SNR_MIN and (np.diff(grid) > 0).all()
        np.testing.assert_allclose(np.interp(grid[[1, -1]], log_snr, loss), [0.97, 0.01], atol=2e-3)
    stride = np.diff(grid[1:])
    assert grid[1:][stride.argmin()] == pytest.approx(-3, abs=0.5) and stride.max() > 2 * stride.min()


def test_grid_of_few_steps():
    log_snr = np.linspace(-12, 8, 201)
    loss = 1 / (1 + np.exp(2 * (log_snr + 3)))
    assert process.adapted_grid(log_snr, loss, 1).tolist() == [process.LOG_SNR_MIN]
    np.testing.assert_allclose(process.adapted_grid(log_snr, loss, 2), [process.LOG_SNR_MIN, -3], atol=0.3)


def test_grid_follows_the_task():
    log_snr = np.linspace(-12, 8, 201)
    early, late = (process.adapted_grid(log_snr, 1 / (1 + np.exp(2 * (log_snr - c))), 5) for c in (-5, 2))
    assert (late[1:] - early[1:] > 5).all()


def test_grid_survives_a_noisy_curve_and_refuses_a_broken_one():
    rng = np.random.default_rng(0)
    log_snr = np.linspace(-12, 8, 24)
    noisy = 1 / (1 + np.exp(log_snr)) + 0.1 * rng.standard_normal(24)
    assert (np.diff(process.adapted_grid(log_snr, noisy, 10)) > 0).all()
    for curve, steps in (([np.nan] * 24, 5), (noisy[:1], 5), (noisy, 0)):
        with pytest.raises(ValueError):
            process.adapted_grid(log_snr[: len(curve)], curve, steps)


def test_states_and_noise_levels_are_those_of_their_formulas():
    x0, noise = torch.tensor([[1.0, -1.0]]), torch.tensor([[0.5, 2.0]])
    alpha, sigma = np.sqrt(1 / (1 + np.exp(-0.7))), np.sqrt(1 / (1 + np.exp(0.7)))
    torch.testing.assert_close(
        process.diffuse(x0, noise, torch.tensor([0.7])), float(alpha) * x0 + float(sigma) * noise
    )
    uniform = torch.tensor([0.0, 0.1, 0.5, 0.8, 1.0])
    cosine = -2 * np.log(np.tan(np.pi * np.array([0.1, 0.5, 0.8]) / 2)) + 2 * np.log(0.5)
    log_snr = process.sample_log_snr(uniform, 0.5).numpy()
    np.testing.assert_allclose(log_snr[1:4], cosine, rtol=1e-5)
    assert log_snr[0] == process.LOG_SNR_MAX and log_snr[-1] == process.LOG_SNR_MIN
    t = np.array([0.1, 0.5, 0.8])
    linear = -np.log(np.expm1(0.1 * t + 9.95 * t**2)) + 2 * np.log(0.5)
    np.testing.assert_allclose(process.linear_log_snr(uniform, 0.5).numpy()[1:4], linear, rtol=1e-5)
