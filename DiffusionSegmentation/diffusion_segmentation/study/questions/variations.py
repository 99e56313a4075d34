"""Questions that change one thing of the diffusion model: A2, A5, A6, A8, and the architectures."""

from __future__ import annotations

from ..architectures.catalogue import ARCHITECTURES
from ..variants import Arm
from .rows import Row, Rows

STATES = {
    "mask": "noisy mask",
    "noise": "pure noise in its place",
    "shuffled": "another case's noisy mask",
    "nothing": "image only",
}
NAMES = {
    "pair": "encode once, denoise light (ours)",
    "concatenated": "concatenated, as EnsDiff",
    "summed": "summed encoder, as SegDiff",
    "filtered": "filtered and attended, as MedSegDiff",
    "injected": "injected at every level, as Diff-UNet",
}
TARGETS = {"ce": "x0, cross-entropy", "mse": "x0, squared error", "v": "v", "eps": "noise"}


class Architectures(Rows):
    """Five ways in which image and noisy mask meet, each trained as diffusion and directly."""

    key = "architectures"
    title = "Architectures for diffusion, trained directly too"
    why = (
        "Öttl et al. ask whether the architectures proposed for diffusion segmentation are better segmentation "
        "networks or better diffusion models. Five ways in which image and noisy mask meet, on common blocks and at "
        "about the same floating-point operations a pass, are each trained as diffusion and directly, without a mask."
    )

    def rows(self, task: str, seed: int) -> dict[str, Row]:
        return {
            f"{form}: {NAMES[name]}": Row(Arm(task, seed, form=form, architecture=name))
            for form in ("diffusion", "direct")
            for name in ARCHITECTURES
        }

    def pairs(self) -> list[tuple[str, str]]:
        forms = [(f"diffusion: {NAMES[name]}", f"direct: {NAMES[name]}") for name in ARCHITECTURES]
        ours = [
            (f"{form}: {NAMES['pair']}", f"{form}: {NAMES[name]}")
            for form in ("diffusion", "direct")
            for name in ARCHITECTURES
            if name != "pair"
        ]
        return forms + ours


class NoisyMask(Rows):
    """The network trained and sampled with its noisy mask, with noise or another mask in its place, and without."""

    key = "A2"
    title = "Does the noisy mask matter"
    why = (
        "A network that ignores its noisy mask is a direct network that runs many times. Trained and sampled with pure "
        "noise, another case's noisy mask or nothing in its place, it must lose what the noisy mask is for: the joint "
        "law of the samples."
    )

    def rows(self, task: str, seed: int) -> dict[str, Row]:
        return {title: Row(Arm(task, seed, state=state)) for state, title in STATES.items()}

    def pairs(self) -> list[tuple[str, str]]:
        return [(STATES["mask"], title) for state, title in STATES.items() if state != "mask"]


class Targets(Rows):
    """What the network predicts: class probabilities, x0, v, or the noise."""

    key = "A5"
    title = "What to predict"
    why = (
        "Segmentation took over the prediction of the noise from image generation. The same network is trained to give "
        "class probabilities of x0, x0 itself, v and the noise."
    )

    def rows(self, task: str, seed: int) -> dict[str, Row]:
        return {title: Row(Arm(task, seed, loss=loss)) for loss, title in TARGETS.items()}

    def pairs(self) -> list[tuple[str, str]]:
        return [(TARGETS["ce"], title) for loss, title in TARGETS.items() if loss != "ce"]


class StepsAndSampler(Rows):
    """The same weights with 1 to 100 adapted steps of three samplers."""

    key = "A6"
    title = "How many steps, of which sampler"
    why = (
        "One step is a direct network's answer and no sample; how many make one, and does the sampler matter? The same "
        "weights with 1 to 100 adapted steps."
    )
    cases = 30
    steps = (1, 2, 3, 5, 10, 25, 100)
    samplers = ("second order", "DDIM", "ancestral")

    def rows(self, task: str, seed: int) -> dict[str, Row]:
        return {_steps(k, sampler): Row(Arm(task, seed), k, sampler) for sampler in self.samplers for k in self.steps}

    def pairs(self) -> list[tuple[str, str]]:
        of = "second order"
        few = [(_steps(k, of), _steps(1, of)) for k in (5, 10)]
        many = [(_steps(10, of), _steps(100, of)), (_steps(5, of), _steps(100, of))]
        return few + many + [(_steps(10, of), _steps(10, other)) for other in self.samplers[1:]]


class Losses(Rows):
    """Cross-entropy against cross-entropy and Dice, as diffusion and directly."""

    key = "A8"
    title = "Dice in the loss"
    why = (
        "The optimum of the cross-entropy is the true probability, that of a Dice term is not. The same network is "
        "trained with and without a Dice term, as diffusion and directly."
    )

    def rows(self, task: str, seed: int) -> dict[str, Row]:
        return {
            f"{form}, {title}": Row(Arm(task, seed, form=form, loss=loss))
            for form in ("diffusion", "direct")
            for loss, title in (("ce", "CE"), ("dice", "Dice + CE"))
        }

    def pairs(self) -> list[tuple[str, str]]:
        return [(f"{form}, CE", f"{form}, Dice + CE") for form in ("diffusion", "direct")]


def _steps(count: int, sampler: str) -> str:
    return f"{count} step{'s' * (count > 1)}, {sampler}"
