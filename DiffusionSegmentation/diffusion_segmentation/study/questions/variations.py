"""Questions that vary one setting of the model: A2, A5, A6, A8 and the architectures."""

from __future__ import annotations

from ..variants import Variant
from .comparison import SOLVERS, Row, VariantComparison

FORMS = ("diffusion", "direct")
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


class Architectures(VariantComparison):
    """Five ways to combine image and noisy mask, each trained as diffusion and directly."""

    key = "architectures"
    title = "Architectures for diffusion, also trained directly"
    why = (
        "Öttl et al. ask whether the architectures proposed for diffusion segmentation are better segmentation "
        "networks or better diffusion models. Five ways to combine image and noisy mask, built from the same blocks "
        "with about the same floating-point operations per pass, are trained as diffusion and directly, without a mask."
    )

    def rows(self, name: str, seed: int) -> dict[str, Row]:
        return {
            f"{form}: {title}": Row(Variant(name, seed, form=form, architecture=architecture))
            for form in FORMS
            for architecture, title in NAMES.items()
        }

    def compared(self) -> list[tuple[str, str]]:
        ours, *others = NAMES.values()
        forms = [(f"diffusion: {title}", f"direct: {title}") for title in NAMES.values()]
        return forms + [(f"{form}: {ours}", f"{form}: {title}") for form in FORMS for title in others]


class NoisyMask(VariantComparison):
    """The network trained and sampled with its noisy mask, with a replacement, and without."""

    key = "A2"
    title = "Does the noisy mask matter?"
    why = (
        "A network that ignores its noisy mask is a direct network that runs many times. Trained and sampled with pure "
        "noise, another case's noisy mask or nothing in its place, it must lose the joint distribution of the samples."
    )

    def rows(self, name: str, seed: int) -> dict[str, Row]:
        return {title: Row(Variant(name, seed, state=state)) for state, title in STATES.items()}

    def compared(self) -> list[tuple[str, str]]:
        return [(STATES["mask"], title) for state, title in STATES.items() if state != "mask"]


class Targets(VariantComparison):
    """Prediction targets: class probabilities, x0, v or the noise."""

    key = "A5"
    title = "Prediction target"
    why = (
        "Diffusion segmentation inherited the prediction of the noise from image generation. The same network is "
        "trained to predict class probabilities of x0, x0 itself, v and the noise."
    )

    def rows(self, name: str, seed: int) -> dict[str, Row]:
        return {title: Row(Variant(name, seed, loss=loss)) for loss, title in TARGETS.items()}

    def compared(self) -> list[tuple[str, str]]:
        return [(TARGETS["ce"], title) for loss, title in TARGETS.items() if loss != "ce"]


class StepsAndSampler(VariantComparison):
    """The same weights with 1 to 100 adapted steps of three solvers."""

    key = "A6"
    title = "Number of steps and solver"
    why = (
        "One step returns the direct network's probabilities, not a sample. The same weights are sampled with 1 to 100 "
        "adapted steps of three solvers."
    )
    cases = 30
    steps = (1, 2, 3, 5, 10, 25, 100)

    def rows(self, name: str, seed: int) -> dict[str, Row]:
        return {_steps(k, solver): Row(Variant(name, seed), k, solver) for solver in SOLVERS for k in self.steps}

    def compared(self) -> list[tuple[str, str]]:
        ours, *others = SOLVERS
        steps = [(k, reference) for reference in (1, 100) for k in (5, 10)]
        pairs = [(_steps(k, ours), _steps(reference, ours)) for k, reference in steps]
        return pairs + [(_steps(10, ours), _steps(10, other)) for other in others]


class Losses(VariantComparison):
    """Cross-entropy with and without a Dice term, as diffusion and directly."""

    key = "A8"
    title = "Dice in the loss"
    why = (
        "Cross-entropy is optimal at the true probability, a Dice term is not. The same network is trained with and "
        "without a Dice term, as diffusion and directly."
    )

    def rows(self, name: str, seed: int) -> dict[str, Row]:
        return {
            f"{form}, {title}": Row(Variant(name, seed, form=form, loss=loss))
            for form in FORMS
            for loss, title in (("ce", "CE"), ("dice", "Dice + CE"))
        }

    def compared(self) -> list[tuple[str, str]]:
        return [(f"{form}, CE", f"{form}, Dice + CE") for form in FORMS]


def _steps(count: int, solver: str) -> str:
    return f"{count} step{'s' * (count > 1)}, {solver}"
