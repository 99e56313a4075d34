"""Tasks, losses and trainings of a study."""

import json
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from ball_dataset import write_ball_dataset
from safetensors.torch import load_file

from diffusion_segmentation.diffusion.process import LOG_SNR_MAX, LOG_SNR_MIN, diffuse, linear_log_snr, one_hot_state
from diffusion_segmentation.errors import InputError
from diffusion_segmentation.networks import space_to_depth
from diffusion_segmentation.study import fit, objectives
from diffusion_segmentation.study.questions.adaptation import GRIDS, step_grid
from diffusion_segmentation.study.questions.comparison import SOLVERS
from diffusion_segmentation.study.sampling import VariantSampler
from diffusion_segmentation.study.stochastic import Stochastic
from diffusion_segmentation.study.tasks import FURTHER, MASKS, TRAIN, VALIDATION, Sizes, prepare
from diffusion_segmentation.study.variants import ENSEMBLE_SIZE, Variant, ensemble
from diffusion_segmentation.training.loss import cross_entropy

TASK = "boundary:16x16"
SIZES = Sizes(train=32, validation=16, test=6)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return prepare(TASK, tmp_path_factory.mktemp("cache"), SIZES, further=True)


def test_a_task_is_cached_and_its_parts_differ(task):
    images, masks = task.arrays(TRAIN)
    assert images.shape == (32, 1, 16, 16) and masks.shape == (32, MASKS, 16, 16) and masks.max() == 1
    assert not np.array_equal(images[:6], task.arrays(VALIDATION)[0][:6])
    written = (task.folder / "train-images.npy").stat().st_mtime_ns
    assert prepare(TASK, task.folder.parents[1], SIZES) == task
    assert (task.folder / "train-images.npy").stat().st_mtime_ns == written
    assert prepare(TASK, task.folder.parents[1], Sizes(33, 16, 6)).content != task.content
    assert np.array_equal(task.case(2).image, task.case(2).image)


def test_unknown_tasks_are_refused_in_one_sentence(tmp_path):
    with pytest.raises(InputError, match="neither a folder of labelled images nor a task"):
        prepare("nothing", tmp_path, SIZES)


def test_a_folder_becomes_windows_around_its_structures(tmp_path):
    data = write_ball_dataset(tmp_path / "data", [(5, 6)] * 6)
    of = prepare(str(data), tmp_path / "cache", Sizes(train=16, validation=16, test=6))
    images, masks = of.arrays(TRAIN)
    assert images.shape == (16, 1, 32, 32, 32) and masks.shape[1] == MASKS and not of.exact and len(of.cases)
    truth = of.truth(0)
    # Two raters, each as likely: what both marked is certain, what one marked is half.
    assert set(np.unique(truth.case.marginals[1])) == {0.0, 0.5, 1.0}
    assert truth.anywhere[truth.case.marginals[1] > 0].all() and not truth.anywhere.all()


def test_a_folder_of_too_few_cases_is_refused(tmp_path):
    with pytest.raises(InputError, match="5 labelled cases or more"):
        prepare(str(write_ball_dataset(tmp_path / "data", [(5,)] * 3)), tmp_path / "cache", SIZES)


@pytest.mark.parametrize("loss", ["ce", "mse", "v", "eps"])
@pytest.mark.parametrize("log_snr", [-6.0, 0.0, 4.0])
def test_a_perfect_answer_is_scored_as_the_truth_for_any_prediction(loss, log_snr):
    labels = torch.randint(0, 3, (2, 4, 4, 4))
    x0 = one_hot_state(labels, 3)
    noise, level = torch.randn(x0.shape), torch.full((2,), log_snr)
    x = diffuse(x0, noise, level)
    alpha, sigma = torch.sigmoid(level[:1]).sqrt(), torch.sigmoid(-level[:1]).sqrt()
    answer = {"ce": 50 * x0, "mse": x0, "v": alpha * noise - sigma * x0, "eps": noise}[loss]
    p = objectives.probabilities(answer, loss, x, level)
    torch.testing.assert_close(2 * p - 1, x0, atol=1e-3, rtol=0)
    if loss == "ce":
        assert cross_entropy(answer, labels, 3).max() < 1e-6
    else:
        torch.testing.assert_close(objectives._target(loss, x0, noise, level), answer)


def test_substitutes_for_the_noisy_mask():
    x, other, level = torch.randn(2, 8, 4, 4), torch.ones(2, 8, 4, 4), torch.full((2,), 6.0)
    assert objectives.network_input("mask", x, other, level)[0] is x
    assert not torch.allclose(objectives.network_input("noise", x, other, level)[0], x)
    shuffled = objectives.network_input("shuffled", x, other, level)[0]
    torch.testing.assert_close(shuffled, other, atol=0.5, rtol=0)
    nothing, at = objectives.network_input("nothing", x, other, level)
    assert not nothing.any() and (at == LOG_SNR_MIN).all()


def test_shuffled_masks_are_those_of_other_cases(task):
    torch.manual_seed(0)
    variant, seen = Variant(TASK, state="shuffled"), []
    network = fit.build(variant, task)
    original = network.denoise
    network.denoise = lambda x, level, condition: (seen.append(x), original(x, level, condition))[1]
    images, masks = (torch.from_numpy(np.array(a[:2])) for a in task.arrays(TRAIN))
    masks = torch.stack([torch.zeros_like(masks[0, :1]), torch.ones_like(masks[0, :1])])
    objectives.denoising_loss(network, variant, images, masks, torch.full((2, 2), LOG_SNR_MAX))
    of_class_1 = seen[0].reshape(4, 2, -1)[:, 1].mean(1)
    assert (of_class_1[:2] > 0.5).all() and (of_class_1[2:] < -0.5).all()


def test_a_variant_on_top_learns_from_cases_that_the_frozen_network_has_not_seen(task):
    seen, unseen = ({image.tobytes() for image in task.arrays(part)[0]} for part in (TRAIN, FURTHER))
    assert len(seen) == len(unseen) == SIZES.train and seen.isdisjoint(unseen)
    frozen = fit.build(Variant(TASK, form="direct"), task)
    for variant, network in ((Variant(TASK, on="ce"), fit.OnTop(frozen, 1.0)), (Variant(TASK), frozen)):
        training = fit.VariantTraining(network, variant, task, lambda: 0.0)
        images = {image.numpy().tobytes() for batch, _ in islice(training.train_dataloader(), 3) for image in batch}
        assert images <= (unseen if variant.on else seen)


def test_linear_schedule_is_that_of_image_generation():
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha_bar = torch.cumprod(1 - beta, 0)
    expected = torch.log(alpha_bar / (1 - alpha_bar))
    log_snr = linear_log_snr((torch.arange(1000) + 1) / 1000, 1.0).double()
    middle = slice(50, 950)
    torch.testing.assert_close(log_snr[middle], expected[middle], atol=0.06, rtol=0)


def test_grids_and_solvers_agree_on_the_exact_denoiser():
    curve = np.linspace(-12, 8, 24), np.linspace(1, 0, 24)
    for kind in GRIDS:
        grid = step_grid(kind, 7, curve)
        assert len(grid) == 7 and grid[0] == LOG_SNR_MIN and (np.diff(grid) > 0).all()
    # One Gaussian voxel state: x0 is +1 or -1 alike; the exact answer is a logistic function.
    torch.manual_seed(0)
    x = torch.randn(4000, 1)
    for name, solver in SOLVERS.items():
        p = solver(
            lambda x, node: torch.sigmoid(2 * x * np.sqrt(1 / (1 + np.exp(-node))) * (1 + np.exp(node))),
            x,
            torch.full_like(x, 0.5),
            np.linspace(-12, 7, 40),
        )
        assert abs(float(p.mean()) - 0.5) < 0.03 and float(((p > 0.99) | (p < 0.01)).float().mean()) > 0.97, name


@pytest.mark.slow
def test_stochastic_network_learns_that_pixels_go_together():
    torch.manual_seed(0)
    network = Stochastic(2, 2, 8)
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    image = torch.zeros(4, 1, 16, 16)
    coins = torch.randint(0, 2, (4, 8, 1, 1), dtype=torch.uint8)
    masks = coins.expand(4, 8, 16, 16)
    target = space_to_depth(masks.flatten(0, 1)[:, None]).long().unflatten(0, (4, 8))
    first = float(network.loss(image, target))
    for _ in range(120):
        optimiser.zero_grad()
        network.loss(image, target).backward()
        optimiser.step()
    with torch.no_grad():
        means = network.draw(image[:1], 64)[0].unflatten(1, (2, -1)).argmax(1).float().flatten(1).mean(1)
    assert float(network.loss(image, target)) < 0.5 * first
    assert means.var() > 0.1  # whole masks of one class or the other: independent pixels have 0.001


@pytest.mark.slow
def test_training_of_a_variant_stops_and_resumes(task, tmp_path, monkeypatch):
    variant = Variant(TASK, form="direct")
    path = tmp_path / "network.safetensors"
    step, steps, batches = fit.VariantTraining.training_step, [], []

    def watched(self, *batch):
        steps.append(self.global_step)
        batches.append(batch[0][0].numpy().tobytes())
        if steps == [0, 1, 2, 3]:
            raise KeyboardInterrupt
        return step(self, *batch)

    monkeypatch.setattr(fit.VariantTraining, "training_step", watched)
    with pytest.raises(KeyboardInterrupt):
        fit.trained(variant, task, 0.05, path, "cpu")
    assert path.with_suffix(".ckpt").exists() and not path.exists()
    network = fit.trained(variant, task, 0.05, path, "cpu")
    assert set(batches[1:4]).isdisjoint(batches[4:]), "the same batches were drawn again"
    assert steps[4] == 3 and json.loads(path.with_suffix(".json").read_text())["iterations"] == steps[-1] + 1
    assert not path.with_suffix(".ckpt").exists()
    again = fit.trained(variant, task, 0.05, path, "cpu")
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), again.state_dict().values(), strict=True)
    )


@pytest.mark.slow
def test_a_damaged_checkpoint_restarts_the_training(task, tmp_path):
    variant = Variant(TASK, form="direct")
    path = tmp_path / "network.safetensors"
    path.with_suffix(".ckpt").write_bytes(b"not a checkpoint")
    fit.trained(variant, task, 0.01, path, "cpu")
    assert load_file(path) and not path.with_suffix(".ckpt").exists()


def test_steps_whose_gradient_is_not_finite_are_skipped_and_counted(task, tmp_path, monkeypatch):
    variant, weights = Variant(TASK, form="direct"), []

    def spoilt(network, *batch):
        weights.append([weight.detach().clone() for weight in network.parameters()])
        return loss(network, *batch) * (float("nan") if len(weights) in (2, 3) else 1)

    loss = fit.direct_loss
    monkeypatch.setattr(fit, "direct_loss", spoilt)
    fit.trained(variant, task, 0.01, tmp_path / "network.safetensors", "cpu")
    facts = json.loads((tmp_path / "network.json").read_text())
    assert (facts["iterations"], facts["skipped"]) == (len(weights), 2)
    unchanged = [all(map(torch.equal, *pair)) for pair in pairwise(weights)]
    assert unchanged == [False, True, True] + [False] * (len(unchanged) - 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant",
    [
        Variant(TASK, loss="eps"),
        Variant(TASK, loss="v", schedule="linear"),
        Variant(TASK, loss="mse", state="noise"),
        Variant(TASK, loss="dice", architecture="filtered"),
        Variant(TASK, form="stochastic"),
        Variant(TASK, form="mask"),
        Variant(TASK, form="image"),
        Variant(TASK, form="direct", dropout=1.0),
        Variant(TASK, halved=True, crops="labels"),
    ],
)
def test_every_kind_of_variant_trains(variant, task, tmp_path):
    network = fit.trained(variant, task, 0.01, tmp_path / "network.safetensors", "cpu")
    before = fit.build(variant, task).state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())


def test_variants_have_different_keys():
    variants = [Variant(TASK), Variant(TASK, 1), Variant(TASK, loss="eps"), *ensemble(TASK, 0)]
    assert len({variant.key("content", 1.0, "cpu") for variant in variants}) == len(variants) == 3 + ENSEMBLE_SIZE
    assert Variant(TASK).key("content", 1.0, "cpu") != Variant(TASK).key("content", 2.0, "cpu")
    assert sum(variant.share for variant in ensemble(TASK, 0)) == pytest.approx(1)
    assert len({variant.random_seed for variant in variants}) == len(variants) - 1  # the loss does not change the seed


def test_samples_depend_on_their_seed_alone(task):
    sampler = VariantSampler(fit.build(Variant(TASK), task).eval(), Variant(TASK), task)
    image, grid = task.case(0).image, np.linspace(-12, 6, 4)
    first, again, other = (sampler.sample(image, 4, grid, seed).softmax for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    np.testing.assert_allclose(first.sum(1), 1, atol=1e-5)
