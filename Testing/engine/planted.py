"""Predictions and networks with a known result, for tests of the study's questions and verdicts."""

import numpy as np
import torch

from diffusion_segmentation.diffusion.process import alpha_sigma, one_hot_state
from diffusion_segmentation.evaluation.known_answer.samplers import Prediction, independent_pixels, votes
from diffusion_segmentation.networks import space_to_depth
from diffusion_segmentation.study.architectures.interface import Architecture
from diffusion_segmentation.study.context import Context
from diffusion_segmentation.study.scores import score_cases
from diffusion_segmentation.study.tasks import Sizes, prepare

SAMPLES = 16
TASK = "boundary:16x16"


def context(folder, *texts, cases=12, seeds=2):
    tasks = {task.name: task for task in (prepare(text, folder, Sizes(8, 8, cases), further=True) for text in texts)}
    return Context(tasks, tuple(range(seeds)), 1.0, SAMPLES, folder, "cpu", "cpu")


def exact(truth, seed):
    """Samples of a perfect sampler."""
    masks = truth.case.sample(np.random.default_rng([seed, 77]), SAMPLES)
    return Prediction(truth.case.marginals.astype(np.float32), masks)


def pixels(truth, seed):
    """Exact probabilities, and pixels drawn independently."""
    p = truth.case.marginals
    return Prediction(p.astype(np.float32), independent_pixels(p, SAMPLES, np.random.default_rng([seed, 78])))


def sharpened(truth, seed):
    """Probabilities pushed to 0 and 1, as a Dice loss does, and masks of these."""
    p = truth.case.marginals**4
    p = p / p.sum(0)
    return Prediction(p.astype(np.float32), independent_pixels(p, SAMPLES, np.random.default_rng([seed, 79])))


def single(truth, seed):
    """One mask, repeated."""
    mask = truth.case.sample(np.random.default_rng([seed, 80]), 1)
    return Prediction(votes(mask, truth.case.classes), np.repeat(mask, SAMPLES, 0))


def records(context, task, seed, rows):
    """Records of all test cases; `rows` are the functions above by the row's name."""

    def predict(truth, index):
        return {name: row(truth, 1000 * seed + index) for name, row in rows.items()}

    return score_cases(context.tasks[task], predict)


def results(context, rows, **more):
    """Results of a question on TASK, by task and seed: records of `rows` and the entries of `more`."""
    return {(TASK, s): {"records": records(context, TASK, s, rows), **more} for s in context.seeds}


class Oracle(Architecture):
    """The exact posterior denoiser of a phantom's cases: Bayes over the masks that can be, given image and state.

    With `ignore_image` its masks are those of all cases. With `ignore_state` it does not use the noisy mask.
    """

    name = "oracle"

    def __init__(self, cases, ignore_image=False, ignore_state=False):
        super().__init__(cases[0].classes, cases[0].image.ndim, 8)
        self.cases, self.ignore_image, self.ignore_state = cases, ignore_image, ignore_state
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def encode(self, image):
        match = [k for k, case in enumerate(self.cases) if np.array_equal(case.image, image[0, 0].numpy())]
        return (torch.tensor([match[0] if match else -1]),)

    def denoise(self, x, log_snr, condition):
        chosen = self.cases if self.ignore_image else [self.cases[int(condition[0][0])]]
        masks = np.concatenate([case.support()[0] for case in chosen])
        weights = np.concatenate([case.support()[1] for case in chosen]) / len(chosen)
        x0 = one_hot_state(space_to_depth(torch.from_numpy(masks)[:, None]).long(), self.classes).flatten(1)
        evidence = torch.from_numpy(np.log(weights)).float().expand(len(x), -1)
        if not self.ignore_state:
            alpha, sigma = alpha_sigma(log_snr[:1])
            # -|x - alpha x0|^2 / 2 sigma^2 up to what all masks share.
            evidence = evidence + (alpha / sigma**2) * (x.flatten(1).float() @ x0.T)
        p = (evidence.softmax(1) @ ((x0 + 1) / 2)).clamp_min(1e-9)
        return p.log().view(x.shape)
