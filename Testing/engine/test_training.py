"""`train` from start to model folder, on a tiny atlas: learning, time limit and resuming."""

import json

import numpy as np
import pytest
import torch

from diffusion_segmentation.diffusion.copula import Covariance
from diffusion_segmentation.errors import InputError, ModelError
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.model.building import build
from diffusion_segmentation.training import sources, train
from diffusion_segmentation.training.density import Density
from diffusion_segmentation.training.loss import loss_curve, losses
from diffusion_segmentation.training.settings import Optimisation

CONFIG = train.Path(train.__file__).parent / "configs" / "brain-structures.json"


@pytest.fixture
def config(tmp_path):
    settings = json.loads(CONFIG.read_text(encoding="utf-8"))
    settings["diffusion_segmentation"]["network"] = {
        "encoder": {"channels": [8, 16], "blocks": [1, 1]},
        "denoiser": {"channels": [8, 8], "blocks": 1},
    }
    settings["optimisation"].update(iterations=6, shapes=[[8, 8, 8]], precision="float32", warm_up=5, seed=0)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(settings), encoding="utf-8")
    return path


@pytest.fixture
def heads(monkeypatch, tmp_path):
    """An endless stream of one easy picture, in place of drawing heads, and noise in place of whole ones."""

    class OneHead(torch.utils.data.IterableDataset):
        def __init__(self, priors, shapes, seed, bank=24, spacing_mm=2.0):
            super().__init__()
            np.random.default_rng(seed)  # as the real one: refuses a negative seed
            self.shape = shapes[0]

        def __iter__(self):
            while True:
                labels = torch.zeros(self.shape, dtype=torch.uint8)
                labels[2:6, 2:6, 2:6] = 3
                yield labels[None].float() / 3, labels[None]

    def unseen(priors, shape, count, seed, *_):
        rng = np.random.default_rng(seed)
        yield rng.random((16, 16, 16), dtype=np.float32), np.zeros((16, 16, 16), np.uint8)

    monkeypatch.setattr(sources, "SyntheticHeads", OneHead)
    monkeypatch.setattr(sources, "unseen_heads", unseen)
    priors = tmp_path / "priors.npz"
    np.savez(priors)
    return str(priors)


@pytest.fixture
def processor(monkeypatch):
    """Makes the processor one with AMX, or without."""

    def has(amx: bool) -> None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx}, raising=False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    return has


@pytest.mark.slow
@pytest.mark.parametrize("amx", [False, True])
def test_training_makes_a_model_that_loads(config, heads, tmp_path, processor, amx):
    processor(amx)
    settings = json.loads(config.read_text())
    # At the lowest level the input is then four voxels wide: at two, bf16 gradients are wrong where there is no AMX.
    settings["optimisation"].update(precision="auto", shapes=[[16, 16, 16]])
    config.write_text(json.dumps(settings))
    folder = train.main(heads, tmp_path / "model", config)
    model = models.load(folder)
    assert model.classes == 8 and len(model.step_grid(5)) == 5
    assert model.section["training"]["iterations"] == 6
    assert model.section["training"]["optimisation"]["precision"] == ("bf16" if amx else "float32")


def test_bf16_is_refused_on_processors_without_it(config, heads, tmp_path, processor):
    processor(amx=False)
    settings = json.loads(config.read_text())
    settings["optimisation"]["precision"] = "bf16"
    config.write_text(json.dumps(settings))
    with pytest.raises(InputError, match="asks for bf16"):
        train.main(heads, tmp_path / "model", config)
    assert not (tmp_path / "model").exists()


def test_a_gradient_that_is_not_finite_ends_the_training_with_finite_weights(config, heads, tmp_path, monkeypatch):
    def spoilt(self, *batch):
        return step(self, *batch) * (float("nan") if self.global_step == 3 else 1)

    step = train.Segmenter.training_step
    monkeypatch.setattr(train.Segmenter, "training_step", spoilt)
    with pytest.raises(InputError, match="gradient of iteration 4 is not finite"):
        train.main(heads, tmp_path / "model", config)
    checkpoint = torch.load(tmp_path / "model" / "checkpoint.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 3
    assert all(weight.isfinite().all() for weight in checkpoint["state_dict"].values())


@pytest.mark.slow
def test_the_loss_falls_below_that_of_guessing(config, heads, tmp_path):
    settings = json.loads(config.read_text())
    settings["optimisation"].update(iterations=250, learning_rate=1e-2)
    config.write_text(json.dumps(settings))
    folder = train.main(heads, tmp_path / "model", config)
    training = models.load(folder).section["training"]
    guessing = -(0.125 * np.log(0.125) + 0.875 * np.log(0.875))
    assert training["direct_cross_entropy"] < 0.9 * guessing < np.log(8)


@pytest.mark.slow
def test_resume_goes_on_and_without_it_nothing_is_overwritten(config, heads, tmp_path):
    output = tmp_path / "model"
    train.main(heads, output, config)
    before = (output / "checkpoint.ckpt").read_bytes()
    with pytest.raises(InputError, match="--resume"):
        train.main(heads, output, config)
    assert (output / "checkpoint.ckpt").read_bytes() == before
    settings = json.loads(config.read_text())
    settings["optimisation"]["iterations"] = 9
    other = train.merged(settings, {"diffusion_segmentation": {"network": {"denoiser": {"gain": 3.0}}}})
    config.write_text(json.dumps(other))
    with pytest.raises(InputError, match="another 'network'"):
        train.main(heads, output, config, resume=True)
    assert (output / "checkpoint.ckpt").read_bytes() == before
    config.write_text(json.dumps(settings))
    train.main(heads, output, config, resume=True)
    assert models.load(output).section["training"]["iterations"] == 9


@pytest.mark.parametrize(("done", "rate"), [(0.0, 1 / 200), (0.05, 0.5), (0.1, 1.0), (0.5, 1.0)])
def test_the_warm_up_is_over_by_a_tenth_of_the_training(done, rate):
    """For any number of steps within the time limit."""
    network = {"encoder": {"channels": [8, 8], "blocks": [1, 1]}, "denoiser": {"channels": [8, 8], "blocks": 1}}
    task = train.Segmenter(*build(network, 2), 2, Optimisation(learning_rate=1.0), 0.5, lambda: done)
    optimizer = task.configure_optimizers()
    task.on_before_optimizer_step(optimizer)
    falling = 0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * done))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(rate * falling)


@pytest.mark.slow
def test_the_loss_curve_reports_progress(config, heads, tmp_path, monkeypatch):
    messages = []
    monkeypatch.setattr(train, "loss_curve", loss_curve)  # on all unseen cases
    for module in ("train", "input_statistics"):
        monkeypatch.setattr(
            f"diffusion_segmentation.training.{module}.StepCounter",
            lambda line, stage: lambda done, total: messages.append((stage, done, total)),
        )
    train.main(heads, tmp_path / "model", config)
    curve = [(done, total) for stage, done, total in messages if "noise levels" in stage]
    assert curve == [(done, 8 * 24) for done in range(1, 8 * 24 + 1)]
    assert [done for stage, done, _ in messages if "scans" in stage] == list(range(1, 65))


@pytest.mark.slow
def test_the_time_limit_ends_the_training(config, heads, tmp_path):
    settings = json.loads(config.read_text())
    settings["optimisation"]["iterations"] = 10**9
    config.write_text(json.dumps(settings))
    folder = train.main(heads, tmp_path / "model", config, minutes=0.01)
    assert models.load(folder).section["training"]["iterations"] < 10**6


@pytest.mark.slow
def test_start_takes_the_weights_that_fit_and_says_whose(config, heads, tmp_path):
    first = train.main(heads, tmp_path / "first", config)
    settings = json.loads(config.read_text())
    settings["diffusion_segmentation"]["network"]["denoiser"]["channels"] = [16, 8]
    settings["optimisation"].update(iterations=1, learning_rate=1e-12)
    config.write_text(json.dumps(settings))
    second = models.load(train.main(heads, tmp_path / "second", config, start=str(first)))
    first = models.load(first)
    for name, weight in first.encoder.state_dict().items():
        assert torch.equal(second.encoder.state_dict()[name], weight), name
    assert second.section["training"]["started_from"]["sha256"] == first.section["sha256"]


@pytest.mark.slow
def test_blocks_that_the_start_does_not_have_add_nothing_at_first(config, heads, tmp_path):
    first = train.main(heads, tmp_path / "first", config)
    settings = json.loads(config.read_text())
    settings["diffusion_segmentation"]["network"]["denoiser"]["pools"] = [2, 0]
    settings["optimisation"].update(iterations=1, learning_rate=1e-12)
    config.write_text(json.dumps(settings))
    second = models.load(train.main(heads, tmp_path / "second", config, start=str(first)))
    assert max(weight.abs().max() for weight in second.denoiser.pooled.parameters()) < 1e-9
    assert torch.equal(second.denoiser.enter.weight, models.load(first).denoiser.enter.weight)

    settings["diffusion_segmentation"]["network"]["denoiser"]["pool_variances"] = True  # other blocks than `second` has
    config.write_text(json.dumps(settings))
    third = models.load(train.main(heads, tmp_path / "third", config, start=str(tmp_path / "second")))
    blocks = third.denoiser.pooled
    assert blocks.enter.weight.abs().max() < 1e-9 and (blocks.weigh.bias - 1).abs().max() < 1e-6
    assert 0 < blocks.moments.max() < 1e3  # measured in the one iteration


@pytest.mark.slow
def test_start_from_a_model_of_which_little_fits_is_refused(config, heads, tmp_path):
    first = train.main(heads, tmp_path / "first", config)
    settings = json.loads(config.read_text())
    settings["diffusion_segmentation"]["network"] = {
        "encoder": {"channels": [24, 32], "blocks": [1, 1]},
        "denoiser": {"channels": [24, 32], "blocks": 1},
    }
    config.write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="fit"):
        train.main(heads, tmp_path / "second", config, start=str(first))
    assert not (tmp_path / "second" / "model.safetensors").exists()


@pytest.mark.slow
def test_the_denoiser_alone_learns_on_an_encoder_that_stays_as_it_is(config, heads, tmp_path):
    first = train.main(heads, tmp_path / "first", config)
    settings = json.loads(config.read_text())
    settings["optimisation"].update(learns="denoiser", lowest_log_snr=-3.0, iterations=3)
    settings["diffusion_segmentation"]["network"]["denoiser"]["pools"] = [2, 0]
    config.write_text(json.dumps(settings))
    with pytest.raises(InputError, match="--start"):
        train.main(heads, tmp_path / "second", config)
    with pytest.raises(ModelError, match="calibrate that model first"):
        train.main(heads, tmp_path / "second", config, start=str(first))
    before = models.load(first)
    covariance = Covariance((4.0,), np.full((8, 1), 0.9), np.full(8, 0.1))
    metadata = before.with_start(models.Start(covariance, None)).metadata
    models.save(first, metadata, before.encoder, before.denoiser)
    train.main(heads, tmp_path / "second", config, start=str(first))
    settings["optimisation"]["iterations"] = 6
    config.write_text(json.dumps(settings))
    second = train.main(heads, tmp_path / "second", config, resume=True)
    after = models.load(second)
    assert after.lowest_log_snr == after.start.log_snr == -3
    np.testing.assert_allclose(after.start.covariance.shared, 0.1)
    assert min(after.section["process"]["loss_curve"]["log_snr"]) > -3
    assert all(map(torch.equal, before.encoder.state_dict().values(), after.encoder.state_dict().values()))
    learnt = after.denoiser.state_dict()
    assert not torch.equal(before.denoiser.state_dict()["head.weight"], learnt["head.weight"])
    assert learnt["pooled.weigh.weight"].abs().max() > 0
    rows = json.loads((second / "training.json").read_text())["record"]
    assert all(level is None for row in rows for level in row["denoised"][:10])  # none below -3.67

    settings["diffusion_segmentation"]["network"]["encoder"]["blocks"] = [2, 1]
    config.write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="encoder of the same size"):
        train.main(heads, tmp_path / "third", config, start=str(first))


def test_missing_files_are_named(config, heads, tmp_path):
    with pytest.raises(InputError, match="configuration"):
        train.main(heads, tmp_path / "model", tmp_path / "none.json")
    with pytest.raises(InputError, match="atlas"):
        train.main(str(tmp_path / "none.npz"), tmp_path / "model", config)


def test_before_training_the_denoiser_loss_is_that_of_independent_voxels():
    """At low log-SNR the direct head's loss, at high log-SNR 0, as the closed form gives."""
    torch.manual_seed(0)
    encoder, denoiser = build(
        {"encoder": {"channels": [8, 8], "blocks": [1, 1]}, "denoiser": {"channels": [8, 8], "blocks": 1}}, 4
    )
    labels = torch.randint(0, 4, (1, 1, 8, 8, 8))
    levels = torch.tensor([[-12.0, 8.0]])
    direct, denoised, _ = losses(encoder, denoiser, torch.rand(1, 1, 8, 8, 8), labels, 4, levels)
    assert denoised[0, 0].item() == pytest.approx(direct.item(), abs=0.02)
    assert denoised[0, 1].item() < 1e-4


def test_denoiser_loss_does_not_move_the_direct_head():
    torch.manual_seed(0)
    encoder, denoiser = build(
        {"encoder": {"channels": [8, 8], "blocks": [1, 1]}, "denoiser": {"channels": [8, 8], "blocks": 1}}, 4
    )
    _, denoised, _ = losses(
        encoder, denoiser, torch.rand(1, 1, 8, 8, 8), torch.randint(0, 4, (1, 1, 8, 8, 8)), 4, torch.tensor([[-1.0]])
    )
    denoised.mean().backward()
    assert encoder.head.weight.grad is None
    assert denoiser.head.weight.grad.abs().sum() > 0


def test_loss_curve_falls_from_the_direct_head_to_nothing():
    torch.manual_seed(0)
    network = {"encoder": {"channels": [8, 8], "blocks": [1, 1]}, "denoiser": {"channels": [8, 8], "blocks": 1}}
    encoder, denoiser = build(network, 4)
    heads = [(torch.rand(1, 1, 8, 8, 8), torch.randint(0, 4, (1, 1, 8, 8, 8))) for _ in range(2)]
    curve = loss_curve(encoder, denoiser, heads, 4, torch.device("cpu"))
    direct = np.mean([losses(encoder, denoiser, a, b, 4, torch.tensor([[0.0]]))[0].item() for a, b in heads])
    values = np.array(curve["cross_entropy"])
    assert len(values) == 24 and curve["log_snr"] == sorted(curve["log_snr"])
    assert values[0] == pytest.approx(direct, rel=0.02) and values[-1] < 1e-4
    assert (np.diff(values) < 0.02).all()


@pytest.mark.parametrize("adapted", [False, True])
def test_training_noise_levels_cover_the_whole_range(adapted):
    samples = taught(adapted).draw(500, 4, np.random.default_rng(0)).numpy()
    counts = np.histogram(samples, bins=10, range=(-12, 8))[0]
    assert counts.min() > 20 and counts.sum() == 2000


def test_adapted_noise_levels_gather_where_the_loss_falls():
    """The labels of this task are decided between -5 and -2; the fixed schedule must not gather there."""
    shares = {
        adapted: ((samples > -5) & (samples < -2)).float().mean().item()
        for adapted in (False, True)
        for samples in [taught(adapted).draw(500, 4, np.random.default_rng(0))]
    }
    assert shares[True] > 0.6 and shares[False] < 0.4


def test_noise_levels_follow_the_schedule_until_the_loss_is_known():
    samples = [Density(0.5, adapted).draw(50, 4, np.random.default_rng(0)) for adapted in (False, True)]
    assert torch.equal(*samples)


def test_noise_levels_adapt_within_a_hundred_steps_of_two_volumes():
    density, rng = Density(0.5, True), np.random.default_rng(0)
    for _ in range(100):
        log_snr = density.draw(2, 8, rng).flatten().numpy()
        density.record(log_snr, np.interp(log_snr, [-5, -2], [0.3, 0]))
    samples = density.draw(500, 4, rng)
    assert ((samples > -5) & (samples < -2)).float().mean() > 0.6


@pytest.mark.parametrize("adapted", [False, True])
def test_no_noise_level_is_drawn_below_the_lowest(adapted):
    samples = taught(adapted, lowest=-3.0).draw(500, 4, np.random.default_rng(0)).numpy()
    assert samples.min() >= -3
    assert np.histogram(samples, bins=11, range=(-3, 8))[0].min() > 20
    assert not adapted or (samples < -1.5).mean() > 0.6  # what is left of the loss falls there


def taught(adapted, lowest=-12.0):
    """A density after updates with a loss that falls from 0.3 to 0 between log-SNR -5 and -2."""
    density, rng = Density(0.5, adapted, lowest), np.random.default_rng(1)
    for _ in range(100):
        log_snr = rng.uniform(lowest, 8, 64)
        density.record(log_snr, np.interp(log_snr, [-5, -2], [0.3, 0]) + rng.normal(0, 0.02, 64))
    return density
