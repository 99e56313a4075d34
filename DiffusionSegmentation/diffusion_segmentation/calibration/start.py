"""Where the sampler starts: white noise, a mask of the copula denoised from some log-SNR on, or that mask as it is."""

from __future__ import annotations

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
from ..segmentation.sampler import EncodedVolume, draw, sample_seeds
from .covariance import Labelled
from .prior import PRIORS, choose_prior, log_scores

KEPT_MM = 16.0
"""Edge of the blocks whose contents a denoised mask keeps."""
DENOISED = ((-5.0, None), (-5.0, KEPT_MM), (-3.0, None), (-3.0, KEPT_MM), (-1.0, None))
"""Log-SNRs from which a mask of the copula is denoised, where the denoiser was trained for them, and the blocks that it
keeps; the copula alone and white noise are tried as well."""
NOISE, COPULA = "white noise", "copula"
SOUND_Z = (0.8, 1.25)
"""Rms z of samples whose spread is near the true one, after `relative_z`."""
DECIDED = 2.0
"""Standard errors by which an energy score must be larger to be worse."""


@dataclass(frozen=True)
class Candidate:
    """A start and what its samples score: `energy` of each case [N], the rest over all cases."""

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
        """The rms z over what a perfect sampler scores: a z with a spread from n samples is a t of n - 1 degrees."""
        n = self.samples
        return self.z_rms / np.sqrt((n - 1) / (n - 3)) if n > 3 else self.z_rms

    @property
    def sound(self) -> bool:
        """Whether the spread is near the true one, and the samples' mean is worth something beside the direct head."""
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
    cases: Sequence[Labelled],
    count: int,
    seed: int,
    on_case: Callable[[int, int], None],
) -> list[Candidate]:
    """Every start on the same cases, `count` samples each from the same seeds.

    `on_case(done, of)` is called after each case of a start.
    """
    starts = {COPULA: Start(covariance, None)}
    lowest = model.lowest_log_snr
    for log_snr, kept_mm in DENOISED:
        if log_snr >= lowest:
            blocks = "" if kept_mm is None else ", blocks kept"
            starts[f"{COPULA}, denoised from {log_snr:g}{blocks}"] = Start(covariance, log_snr, kept_mm)
    if lowest == LOG_SNR_MIN:
        starts[NOISE] = None
    found = []
    for number, (name, start) in enumerate(starts.items()):
        drawn = []
        for index, case in enumerate(cases):
            drawn.append(samples(model.with_start(start), case, count, sample_seeds(seed, 1, index)[0]))
            on_case(number * len(cases) + index + 1, len(starts) * len(cases))
        found.append(scored(name, start, cases, drawn, model.spacing))
    return found


def scored(
    name: str,
    start: Start | None,
    cases: Sequence[Labelled],
    drawn: Sequence[tuple[np.ndarray, np.ndarray]],
    spacing_mm: float,
) -> Candidate:
    """What samples score: `drawn` are masks uint8 [n, *shape] and mean probabilities [C, *shape] of each case."""
    records, scores = [], []
    for case, (masks, mean) in zip(cases, drawn, strict=True):
        chosen = mean.argmax(0).astype(np.uint8)
        records.append(joint_record(case.labels, masks, case.p, chosen, (spacing_mm,) * case.labels.ndim))
        scores.append(log_scores(mean, case.p, case.labels, len(masks), near=case.p[0] < 0.98))
    joint = JointScores(records)
    measured = joint.scores()
    prior, mean_score, _ = choose_prior(scores)
    z_rms, held = measured["z_rms"].value, measured["coverage_90"].value
    return Candidate(
        name, start, joint.case_scores()["energy_score"], z_rms, held, prior, float(mean_score.min()), joint.n
    )


def samples(model: Model, case: Labelled, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Masks uint8 [count, *shape] with the model's own start, and mean probabilities [C, *shape] of the samples."""
    masks, mean = _drawn(model, case, count, seed)
    if case.ignored is not None:
        masks = np.where(case.ignored, np.uint8(0), masks)
        mean = mean if mean is case.p else np.where(case.ignored, case.p, mean)
    return masks, mean


def _drawn(model: Model, case: Labelled, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    device = next(model.encoder.parameters()).device
    steps = model.section["steps"]["cpu" if device.type == "cpu" else "gpu"]
    grid = np.empty(0) if model.is_copula_only else model.step_grid(steps)
    with flush_denormals():
        if model.dims == 2:
            drawn = draw(model, case.image[None], count, grid, seed)
            return drawn.masks[0], drawn.mean[0]
        encoded = EncodedVolume(model, case.image, device, lambda: None)
        seeds = sample_seeds(seed, count)
        if model.is_copula_only:
            return np.stack([encoded.start_mask(one) for one in seeds]), case.p
        p = np.concatenate([encoded.sample([one], grid) for one in seeds])
        return p.argmax(1).astype(np.uint8), p.mean(0)


def choose(candidates: Sequence[Candidate]) -> Candidate:
    """The start whose energy score is not decidedly worse than the best and whose z is nearest to 1.

    Only sound starts are compared, if there is one. The copula alone comes first: of equals the start that costs least
    is chosen.
    """
    sound = [one for one in candidates if one.sound] or list(candidates)
    best = min(sound, key=lambda one: np.nanmean(one.energy))

    def worse(one: Candidate) -> bool:
        apart = one.energy - best.energy
        apart = apart[np.isfinite(apart)]  # a case in which no structure counts has no score
        return apart.mean() > DECIDED * apart.std(ddof=1) / np.sqrt(len(apart)) if len(apart) > 1 else False

    near = [one for one in sound if one is best or not worse(one)]
    return min(near, key=lambda one: round(abs(np.log(max(one.relative_z, 1e-3))), 1))


def labelled(model: Model, image: np.ndarray, labels: np.ndarray) -> Labelled:
    """A case with the direct head's probabilities, from labels that may be IGNORED."""
    device = next(model.encoder.parameters()).device
    with flush_denormals(), torch.inference_mode():
        if model.dims == 2:
            plain = model.with_start(None)
            p = draw(plain, image[None], 1, plain.step_grid(1), 0).direct[0]
        else:
            p = EncodedVolume(model, image, device, lambda: None).direct()
    p = p / p.sum(0)
    ignored = labels == IGNORED
    if not ignored.any():
        return Labelled(image, labels, p)
    p = np.where(ignored, np.eye(len(p), 1, dtype=p.dtype)[(..., *(None,) * (p.ndim - 2))], p)
    return Labelled(image, np.where(ignored, 0, labels).astype(np.uint8), p, ignored)
