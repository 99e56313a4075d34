"""Samples given facts: exact laws, the copula, the networks, and the random facts of training."""

import numpy as np
import pytest
import torch
from scipy import fft

from diffusion_segmentation.diffusion.conditional_copula import REACH, ConditionalCopula
from diffusion_segmentation.diffusion.copula import STEPS_PER_SD, Copula, Covariance, LatentFields
from diffusion_segmentation.errors import InputError
from diffusion_segmentation.model.building import build
from diffusion_segmentation.model.folder import Model
from diffusion_segmentation.networks import UNKNOWN, class_softmax, space_to_depth
from diffusion_segmentation.phantoms import phantom
from diffusion_segmentation.segmentation.sampler import EncodedVolume, draw
from diffusion_segmentation.training.known_voxels import RandomFacts, random_voxels
from diffusion_segmentation.training.loss import losses
from diffusion_segmentation.training.settings import Optimisation
from diffusion_segmentation.training.task import Segmenter

NETWORK = {
    "encoder": {"channels": [8, 8], "blocks": [1, 1]},
    "denoiser": {"channels": [8, 8], "blocks": 1, "gain": 4, "strata": 2},
}


@pytest.mark.parametrize("task", ["boundary:16x16", "lesions:24x24", "template:16x16"])
def test_a_case_given_facts_is_the_part_of_its_law_that_agrees(task):
    rng = np.random.default_rng(0)
    case = phantom(task).draw(rng)
    known, mask = random_voxels(case.shape, rng), case.sample(rng, 1)[0]
    given = case.given(known, mask)
    draws = case.sample(rng, 4000)
    agreeing = draws[(draws[:, known] == mask[known]).all(1)]
    assert len(agreeing) > 20
    drawn = given.sample(rng, 200)
    assert (drawn[:, known] == mask[known]).all()
    error = (agreeing == 1).mean(0) - given.marginals[1]
    assert np.abs(error).max() < 4 * np.sqrt(0.25 / len(agreeing)) + 1e-9
    with pytest.raises(ValueError, match="No label map"):
        case.given(known, mask + np.uint8(5))


@pytest.mark.slow
def test_the_copula_given_facts_is_the_copula_where_it_agrees():
    covariance = Covariance((1.5, 5.0), np.array([[0.4, 0.6], [0.3, 0.7], [0.5, 0.5]]), np.zeros(3))
    p = np.moveaxis(np.random.default_rng(0).dirichlet([2, 2, 2], (8, 8)), -1, 0).astype(np.float32)
    known = np.zeros((8, 8), bool)
    known[3, 3:5] = known[6, 6] = True
    labels, copula = np.full((8, 8), UNKNOWN, np.uint8), Copula(covariance, p, 1.0)
    labels[known] = 1
    masks = np.stack([copula.draw(seed) for seed in range(4000)])
    agreeing = masks[(masks[:, known] == 1).all(1)]
    pairs = list(ConditionalCopula(copula, p, known, labels).draw(range(500)))
    given, before = (np.stack(part) for part in zip(*pairs, strict=True))
    np.testing.assert_array_equal(before, masks[:500])
    assert (given[:, known] == 1).all() and len(agreeing) > 250
    for label in range(3):
        error = (given == label).mean(0) - (agreeing == label).mean(0)
        assert np.sqrt((error**2).mean()) < 0.035
        assert np.sqrt((((masks == label).mean(0) - (agreeing == label).mean(0)) ** 2).mean()) > 0.1
    spread = [(part == 1).sum((1, 2)).var() for part in (given, agreeing)]
    assert spread[0] == pytest.approx(spread[1], rel=0.25)


def test_facts_do_not_move_what_lies_beyond_the_correlation():
    covariance = Covariance((1.0,), np.array([[0.5], [0.5]]), np.full(2, 0.5))
    p, known = np.full((2, 40, 6), 0.5, np.float32), np.zeros((40, 6), bool)
    known[:3] = True
    pairs = ConditionalCopula(Copula(covariance, p, 1.0), p, known, known.astype(np.uint8)).draw(range(40))
    changed = np.mean([given != before for given, before in pairs], 0)
    assert changed[:3].mean() > 0.3 and changed[3].mean() > 0.1 and not changed[12:].any()


def a_conditional_case() -> tuple[Covariance, np.ndarray, np.ndarray, np.ndarray]:
    """Covariance, probabilities, known voxels and their labels; one of them was certain to be of another class."""
    covariance = Covariance((1.0, 2.0), np.array([[0.4, 0.5], [0.3, 0.7], [0.5, 0.5]]), np.array([0.1, 0.0, 0.0]))
    p = np.moveaxis(np.random.default_rng(0).dirichlet([2, 2, 2], (40, 12)), -1, 0).astype(np.float32)
    p[:, 4, 4] = (1, 0, 0)
    known, labels = np.zeros((40, 12), bool), np.full((40, 12), UNKNOWN, np.uint8)
    known[2:6, 3:6], labels[2:6, 3:6] = True, 1
    return covariance, p, known, labels


def test_kept_noise_changes_no_sample_and_is_bounded(monkeypatch):
    covariance, p, known, labels = a_conditional_case()
    seeds, drawn, original = range(6), [], LatentFields.draw
    monkeypatch.setattr(LatentFields, "draw", lambda self, *of: drawn.append(of) or original(self, *of))
    without = list(ConditionalCopula(Copula(covariance, p, 1.0), p, known, labels).draw(seeds))
    size = Copula(covariance, p, 1.0).drawn(0).nbytes
    copula = Copula(covariance, p, 1.0, kept_bytes=4 * size)
    masks = [copula.draw(seed) for seed in seeds]
    drawn.clear()
    pairs = list(ConditionalCopula(copula, p, known, labels).draw(seeds))
    # Two seeds are not kept, and of all seeds the fields of two classes are needed at the voxel that was certain.
    assert len(drawn) == 2 * 3 + 6 * 2 and sum(draw.nbytes for draw in copula._kept.values()) == 4 * size
    for number, ((given, before), other) in enumerate(zip(pairs, without, strict=True)):
        np.testing.assert_array_equal(before, masks[number])
        np.testing.assert_array_equal(given, other[0])
        assert (given[known] == 1).all()
        np.testing.assert_array_equal(given[6 + int(2 * REACH) :], before[6 + int(2 * REACH) :])
    assert any((given != before)[~known].any() for given, before in pairs)


def test_the_fields_move_as_by_the_correlation_of_the_whole_grid():
    covariance, p, known, labels = a_conditional_case()
    conditional = ConditionalCopula(Copula(covariance, p, 1.0), p, known, labels)
    fields, near = conditional._copula.fields, conditional._copula.uncertain[conditional._near]
    gaps = np.random.default_rng(1).standard_normal((3, len(conditional._points), 2)).astype(np.float32)
    rows = [np.searchsorted(near, conditional._copula.uncertain[at]) for _, at, _ in conditional._copula.classes]
    rows = [row[(row < len(near)) & np.isin(np.arange(len(row)), conditional._near)] for row in rows]
    moves = conditional._moves(gaps, rows)
    for label, move in enumerate(moves):
        lags = tuple(
            (place[:, None] - axis) % n
            for place, axis, n in zip(np.unravel_index(near, p.shape[1:]), conditional._at, fields.period, strict=True)
        )
        expected = fft.irfftn(fields.power(label), fields.period)[lags] @ gaps[label] * STEPS_PER_SD
        assert np.abs(move - expected).max() < 0.51 and np.abs(move).max() > 100


def networks(facts: bool, dims: int = 2):
    torch.manual_seed(0)
    network = {**NETWORK, "dims": dims, "denoiser": {**NETWORK["denoiser"], "facts": facts}}
    encoder, denoiser = build(network, 3)
    return encoder.eval(), denoiser.eval()


def test_the_option_adds_tensors_and_renames_none():
    plain, given = (set(networks(facts)[1].state_dict()) for facts in (False, True))
    assert plain < given and {name.partition(".")[0] for name in given - plain} == {"facts"}
    with pytest.raises(ValueError, match="not made"):
        networks(False)[1].prepare_given(torch.zeros(1, 8, 4, 4), torch.zeros(1, 12, 4, 4), torch.zeros(1, 4, 4, 4))


def test_an_untrained_network_keeps_the_direct_head_and_puts_the_facts_in_place():
    encoder, denoiser = networks(True)
    features, direct = encoder(torch.rand(2, 1, 8, 8))
    facts = torch.full((2, 4, 4, 4), UNKNOWN, dtype=torch.uint8)
    facts[0, 1, 2, 2] = 2
    prepared, logits = denoiser.prepare_given(features, direct, facts)
    torch.testing.assert_close(prepared, denoiser.prepare(features, direct))
    p = class_softmax(logits).unflatten(1, (3, 4))
    assert p[0, :, 1, 2, 2].tolist() == pytest.approx([0, 0, 1], abs=1e-6)
    torch.testing.assert_close(logits[1], direct[1])
    torch.testing.assert_close(logits[0, :, :2], direct[0, :, :2])


def a_model(dims: int) -> Model:
    encoder, denoiser = networks(True, dims)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    section = {
        "labels": [{"label": 1}, {"label": 2}],
        "window": [8] * dims,
        "network": {**NETWORK, "dims": dims},
        "working_spacing_mm": 1.0,
    }
    return Model({"diffusion_segmentation": section}, encoder, denoiser)


@pytest.mark.parametrize("shape", [(8, 12), (8, 12, 10)])
def test_samples_keep_the_facts_also_across_windows(shape):
    model = a_model(len(shape))
    image, facts = np.random.default_rng(0).random(shape, np.float32), np.full(shape, UNKNOWN, np.uint8)
    facts[1:3, 5:11], facts[-1, -1] = 2, 0
    known, grid = facts != UNKNOWN, np.array([-12.0, -2.0, 2.0])
    encoded = EncodedVolume(model, image, torch.device("cpu"))
    given = encoded.given(facts, [1, 2])
    for p in (*given.sample([1, 2], grid), given.direct()):
        np.testing.assert_array_equal(p.argmax(0)[known], facts[known])
        assert p.max(0)[known].min() == 1
    without = encoded.sample([1], grid)
    np.testing.assert_array_equal(without, EncodedVolume(model, image, torch.device("cpu")).sample([1], grid))
    assert (without[0].argmax(0)[known] != facts[known]).any()


def test_small_cases_are_drawn_given_the_same_facts():
    model, shape = a_model(2), (8, 8)
    facts = np.full(shape, UNKNOWN, np.uint8)
    facts[2:5, 3:6] = 1
    drawn = draw(model, np.zeros(shape, np.float32), 4, np.array([-12.0, 0.0]), 0, facts)
    assert (drawn.masks[:, 2:5, 3:6] == 1).all() and drawn.direct[1, 2:5, 3:6].min() == 1


@pytest.mark.parametrize("shape", [(20, 24), (12, 10, 14)])
def test_random_facts_are_parts_of_the_grid_of_all_sizes(shape):
    rng = np.random.default_rng(0)
    shares = np.array([random_voxels(shape, rng).mean() for _ in range(200)])
    assert (shares < 0.05).mean() > 0.1 and (shares > 0.3).mean() > 0.1


def test_chosen_facts_are_labels_of_the_target_and_their_weights_those_of_all_candidates(monkeypatch):
    shape = (2, 4, 4, 4)
    target = torch.randint(0, 3, shape)
    target[0, 0] = 255
    drawn = iter(np.eye(64, dtype=bool)[[9, 9, 9, 20, 9, 9, 9, 20]].reshape(-1, 8, 8))
    monkeypatch.setattr("diffusion_segmentation.training.known_voxels.random_voxels", lambda *_: next(drawn))
    direct = torch.zeros(2, 12, 4, 4)
    surprising = space_to_depth(torch.from_numpy(np.eye(64, dtype=bool)[20].reshape(1, 1, 8, 8)))[0].bool()
    wrong = (target[1][surprising] + 1) % 3
    direct[1].view(3, 4, 4, 4)[int(wrong), surprising] = 20
    facts, weights = RandomFacts(np.random.default_rng(3)).choose(target, direct, 3)
    known = facts != UNKNOWN
    assert (facts[known].long() == target[known]).all() and not known[0, 0].any() and known[1].sum() == 1
    # ln 3 nats for three candidates, about 14 for the surprising one: 0.2 + 2 s / (s + 5)
    nats = np.array([np.log(3)] * 3 + [-np.log(1e-6)])
    assert float(weights[1]) == pytest.approx((0.2 + 2 * nats / (nats + 5)).mean(), rel=1e-4)


def test_half_of_the_draws_is_trained_with_facts():
    encoder, denoiser = networks(True)
    image, labels = torch.rand(2, 1, 16, 16), torch.randint(0, 3, (2, 4, 16, 16), dtype=torch.uint8)
    levels = torch.full((2, 4), -1.0)
    torch.manual_seed(1)
    _, denoised, loss = losses(encoder, denoiser, image, labels, 3, levels, facts=RandomFacts(np.random.default_rng(0)))
    loss.backward()
    assert int(denoised.isnan().sum()) == 4
    assert float(denoiser.facts.head.weight.grad.abs().sum()) > 0
    torch.manual_seed(1)
    _, plain, _ = losses(encoder, denoiser, image, labels, 3, levels)
    known = denoised.isnan()
    torch.testing.assert_close(denoised[~known], plain[~known])


def test_a_trained_model_can_learn_facts_and_keep_everything_else():
    optimisation = Optimisation(learns="facts", draws=2)
    task = Segmenter(*networks(True), 3, optimisation, 0.5, lambda: 0.0)
    before = {name: value.clone() for name, value in task.state_dict().items()}
    optimiser = task.configure_optimizers()
    task.training_step((torch.rand(1, 1, 16, 16), torch.randint(0, 3, (1, 1, 16, 16), dtype=torch.uint8)), 0).backward()
    optimiser.step()
    changed = {name for name, value in task.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("denoiser.facts.") for name in changed)
    assert not len(task.step_losses["denoised"])  # the curve of the losses is that of draws without facts
    with pytest.raises(InputError, match='"facts": true'):
        Segmenter(*networks(False), 3, optimisation, 0.5, lambda: 0.0)
