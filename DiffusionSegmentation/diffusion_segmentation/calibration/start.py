"""Compares starts of the sampler: white noise, copula masks denoised from a log-SNR, and copula masks as they are.

Each start comes with the best prior k of the map (n mean + k direct) / (n + k) of n samples and the direct head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..diffusion.copula import Covariance
from ..diffusion.process import LOG_SNR_MIN
from ..images.label_file import IGNORED
from ..metrics.joint import JointScores, joint_record
from ..model.folder import Model, Start
from ..runtime.floating_point import flush_denormals
from ..segmentation.encoded_folds import Encoded, encode, is_stack
from ..segmentation.folded_image import FoldedImage, SamplerImage
from ..segmentation.sampler import draw, sample_seeds
from .covariance import LabelledCase

DENOISED = (-5.0, -3.0, -1.0)
"""Log-SNR from which a copula mask is denoised. Levels for which the denoiser was not trained are skipped; the copula
alone and white noise are compared too."""
NOISE, COPULA = "white noise", "copula"
SOUND_Z = (0.8, 1.25)  # range of `relative_z` in which the samples' spread counts as right
SIGNIFICANCE = 2.0  # standard errors by which an energy score must be larger to count as worse
PRIORS = (0, 1, 2, 4, 8, 12, 16, 24, 32)
"""Candidate values of k; choosing the last means that the samples add nothing to the map."""
SMALL_PIXELS = 2**16
"""Largest picture whose samples are drawn together."""
MIN_PROBABILITY = 1e-4  # lower bound in a log score, because a class that no sample chose is still possible

Sampled = tuple[np.ndarray, np.ndarray]  # masks uint8 [n, *shape] and mean probabilities [C, *shape]


@dataclass(frozen=True)
class Candidate:
    """A start and the scores of its samples: `energy` of each case [N], the others over all cases."""

    name: str
    start: Start | None
    energy: np.ndarray
    z_rms: float
    coverage: float
    prior: int
    log_score: float
    samples: int

    @property
    def relative_z(self) -> float:
        """Rms z over that of a perfect sampler: with a spread from n samples, z follows t with n - 1 degrees."""
        n = self.samples
        return self.z_rms / np.sqrt((n - 1) / (n - 3)) if n > 3 else self.z_rms

    @property
    def sound(self) -> bool:
        """Whether the spread is right, and the samples' mean adds information to the direct head."""
        exact = self.start is not None and self.start.log_snr is None
        return bool(SOUND_Z[0] <= self.relative_z <= SOUND_Z[1] and (exact or self.prior < PRIORS[-1]))

    def as_json(self) -> dict[str, Any]:
        """A row of calibration.json."""
        return {
            "start": self.name,
            "energy_score": round(float(np.nanmean(self.energy)), 5),
            "z_rms": round(self.relative_z, 3),
            "sound": self.sound,
            "coverage_90": round(self.coverage, 3),
            "map_prior": self.prior,
            "log_score": round(self.log_score, 5),
        }


def compare_starts(
    model: Model,
    covariance: Covariance,
    cases: Sequence[LabelledCase],
    count: int,
    seed: int,
    on_case: Callable[[int, int], None],
) -> list[Candidate]:
    """Score every start on the same cases, with `count` samples each from the same seeds.

    `on_case(done, of)` is called after each case of a start.
    """
    starts: dict[str, Start | None] = {COPULA: Start(covariance, None)}
    lowest = model.lowest_log_snr
    for log_snr in DENOISED:
        if log_snr >= lowest:
            starts[f"{COPULA}, denoised from {log_snr:g}"] = Start(covariance, log_snr)
    if lowest == LOG_SNR_MIN:
        starts[NOISE] = None
    candidates = []
    for number, (name, start) in enumerate(starts.items()):
        sampled = []
        for index, case in enumerate(cases):
            sampled.append(samples(model.with_start(start), case, count, sample_seeds(seed, 1, index)[0]))
            on_case(number * len(cases) + index + 1, len(starts) * len(cases))
        candidates.append(scored(name, start, cases, sampled, model.spacing))
    return candidates


def scored(
    name: str, start: Start | None, cases: Sequence[LabelledCase], sampled: Sequence[Sampled], spacing_mm: float
) -> Candidate:
    """Scores of the samples of each case."""
    records, scores = [], []
    for case, (masks, mean) in zip(cases, sampled, strict=True):
        consensus = mean.argmax(0).astype(np.uint8)
        records.append(joint_record(case.labels, masks, case.p, consensus, (spacing_mm,) * case.labels.ndim))
        scores.append(log_scores(mean, case.p, case.labels, len(masks), near=case.p[0] < 0.98))
    joint = JointScores(records)
    overall, energy = joint.scores(), joint.case_scores()["energy_score"]
    prior, log_score, _ = choose_prior(scores)
    z_rms, coverage = overall["z_rms"].value, overall["coverage_90"].value
    return Candidate(name, start, energy, z_rms, coverage, prior, float(log_score.min()), joint.n)


def log_scores(mean: np.ndarray, direct: np.ndarray, labels: np.ndarray, samples: int, near: np.ndarray) -> np.ndarray:
    """Mean -log p of the labels in nats per voxel of `near` (bool [*shape]) for each of PRIORS; NaN without voxels.

    mean float [C, *shape] of `samples` samples; direct float [C, *shape]; labels uint8 [*shape].
    """
    if not near.any():
        return np.full(len(PRIORS), np.nan)
    index = labels[None].astype(np.int64)
    label_mean, label_direct = (np.take_along_axis(p, index, 0)[0][near] for p in (mean, direct))
    mixed = ((samples * label_mean + k * label_direct) / (samples + k) for k in PRIORS)
    return np.array([-np.log(np.maximum(p, MIN_PROBABILITY)).mean() for p in mixed])


def choose_prior(scores: Sequence[np.ndarray]) -> tuple[int, np.ndarray, np.ndarray]:
    """Smallest k whose mean log score is within one standard error of the best; `scores` [N cases, len(PRIORS)].

    Returns k, the mean scores, and the standard errors of their differences to the best.
    """
    table = np.asarray(scores)
    table = table[np.isfinite(table).all(1)]
    if not len(table):
        return 0, np.full(len(PRIORS), np.nan), np.full(len(PRIORS), np.nan)
    mean = table.mean(0)
    differences = table - table[:, [int(mean.argmin())]]
    error = differences.std(0, ddof=1) / np.sqrt(len(table)) if len(table) > 1 else np.zeros(len(PRIORS))
    within = np.flatnonzero(differences.mean(0) <= error)
    return PRIORS[int(within[0])], mean, error


def samples(model: Model, case: LabelledCase, count: int, seed: int) -> Sampled:
    """Masks uint8 [count, *shape] with the model's start, and the samples' mean probabilities [C, *shape]."""
    device = next(model.encoder.parameters()).device
    grid = np.empty(0) if model.is_copula_only else model.step_grid(model.default_steps(device))
    with flush_denormals():
        if not isinstance(case.image, FoldedImage) and _is_small(model, case.image):
            drawn = draw(model, case.image, count, grid, seed)
            masks, mean = drawn.masks, drawn.mean
        else:
            encoded, seeds = _encoded(model, case.image), sample_seeds(seed, count)
            if model.is_copula_only:
                masks = np.stack([encoded.start_mask(one, number) for number, one in enumerate(seeds)])
                mean = encoded.direct() if isinstance(case.image, FoldedImage) else case.p
            else:
                drawn_p = [encoded.sample([one], grid, first=number) for number, one in enumerate(seeds)]
                p = np.concatenate(drawn_p)
                masks, mean = p.argmax(1).astype(np.uint8), p.mean(0)
    if case.ignored is not None:
        masks = np.where(case.ignored, np.uint8(0), masks)
        mean = mean if mean is case.p else np.where(case.ignored, case.p, mean)
    return masks, mean


def _encoded(model: Model, image: SamplerImage) -> Encoded:
    """Encoder output; of a model of pictures an image [channels, z, y, x] is a stack of them."""
    return encode(model, image, next(model.encoder.parameters()).device)


def _is_small(model: Model, image: np.ndarray) -> bool:
    """Whether all samples of an image can pass the denoiser together, without windows."""
    shape = image.shape[-model.dims :]
    flat = model.dims == 2 and not is_stack(model, image)
    return flat and math.prod(shape) <= SMALL_PIXELS and not any(n % model.multiple for n in shape)


def choose(candidates: Sequence[Candidate]) -> Candidate:
    """Of the starts whose energy score is not significantly worse than the best, the one with rms z nearest to 1.

    Only sound starts are compared, if there are any. Ties go to the first, which `compare_starts` orders by cost.
    """
    sound = [one for one in candidates if one.sound] or list(candidates)
    best = min(sound, key=lambda one: np.nanmean(one.energy))

    def worse(one: Candidate) -> bool:
        difference = one.energy - best.energy
        difference = difference[np.isfinite(difference)]  # cases without any structure have no score
        n = len(difference)
        return n > 1 and difference.mean() > SIGNIFICANCE * difference.std(ddof=1) / np.sqrt(n)

    comparable = [one for one in sound if one is best or not worse(one)]
    return min(comparable, key=lambda one: round(abs(np.log(max(one.relative_z, 1e-3))), 1))


def labelled(model: Model, image: SamplerImage, labels: np.ndarray) -> LabelledCase:
    """A case with the direct head's probabilities; `labels` may contain IGNORED."""
    with flush_denormals(), torch.inference_mode():
        if not isinstance(image, FoldedImage) and _is_small(model, image):
            white = model.with_start(None)
            p = draw(white, image, 1, white.step_grid(1), 0).direct
        else:
            p = _encoded(model, image).direct()
    p = p / p.sum(0)
    ignored = labels == IGNORED
    if not ignored.any():
        return LabelledCase(image, labels, p)
    p = np.where(ignored, np.eye(len(p), 1, dtype=p.dtype)[(..., *(None,) * (p.ndim - 2))], p)
    return LabelledCase(image, np.where(ignored, 0, labels).astype(np.uint8), p, ignored)
