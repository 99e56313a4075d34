"""The phantom `template`: Bayes' rule over a list of discs, compared with an explicit sum and the hidden disc."""

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

from diffusion_segmentation.phantoms.template import BACKGROUND, Template


def entropy(weights):
    weights = weights[weights > 0]
    return -(weights * np.log2(weights)).sum()


@pytest.mark.parametrize("shape", [(16, 16), (16, 16, 16)])
def test_posterior_is_bayes_rule_written_out(shape):
    task = Template(shape, etas=(0.1, 0.3))
    case = task.draw(np.random.default_rng(8))
    masks, weights = case.support()
    some = np.argsort(weights)[[-1, -2, -5, -20, 0]]
    contrasts = np.array([0, *task.contrasts]) * np.sqrt(1024 / np.prod(shape))
    logs = np.array(
        [
            logsumexp([norm.logpdf(case.image, BACKGROUND + contrasts[masks[s]], eta).sum() for eta in task.etas])
            for s in some
        ]
    )
    np.testing.assert_allclose(np.log(weights[some] / weights[some[0]]), logs - logs[0], rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize(("shape", "discs"), [((32, 32), 225), ((24, 24, 24), 243)])
def test_list_holds_every_disc_once_a_class(shape, discs):
    masks = Template(shape).masks
    assert len(masks) == 2 * discs == len({mask.tobytes() for mask in masks})
    assert {int(mask.max()) for mask in masks} == {1, 2}


def test_posterior_comes_from_the_image_alone():
    task = Template()
    case = task.draw(np.random.default_rng(0))
    np.testing.assert_array_equal(task.posterior(case.image).weights, case.weights)


def test_posterior_weights_are_the_frequencies_of_the_hidden_disc():
    """If p is the posterior, the hidden disc's mean weight is the mean of sum p^2; an overconfident p is not."""
    task, rng = Template((16, 16)), np.random.default_rng(3)
    gaps, sharper = [], []
    for _ in range(800):
        hidden = rng.integers(len(task.masks))
        contrasts = np.array([0, *task.contrasts]) * 2
        noise = rng.choice(task.etas) * rng.normal(size=task.shape)
        weights = task.posterior(BACKGROUND + contrasts[task.masks[hidden]] + noise).weights
        gaps.append(weights[hidden] - weights @ weights)
        wrong = weights**2 / (weights @ weights)
        sharper.append(wrong[hidden] - wrong @ wrong)
    error = np.std(gaps) / np.sqrt(len(gaps))
    assert abs(np.mean(gaps)) < 4 * error
    assert np.mean(sharper) < -4 * error, "the test is blind"


@pytest.mark.parametrize("shape", [(32, 32), (16, 16, 16)])
def test_more_noise_leaves_more_open(shape):
    rng = np.random.default_rng(0)
    bits = []
    for eta in (0.02, 0.15, 0.3, 0.6):
        task = Template(shape, etas=(eta,))
        bits.append(np.mean([entropy(task.draw(rng).weights) for _ in range(8)]))
    assert np.diff(bits).min() > 0.5 and bits[0] < 0.1 and bits[-1] > 4


def test_noise_of_a_level_that_it_was_not_made_for_changes_the_answer():
    """Domain shift: the same image with another assumed noise."""
    image = Template(etas=(0.4,)).draw(np.random.default_rng(1)).image
    right, wrong = Template(etas=(0.4,)).posterior(image), Template(etas=(0.1,)).posterior(image)
    assert entropy(right.weights) > entropy(wrong.weights) + 1
