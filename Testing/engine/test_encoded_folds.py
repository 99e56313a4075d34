"""A sampler on top of several folds: each sample uses the log-odds of one of them, and the map those of their mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from ball_dataset import write_ball_dataset

from diffusion_segmentation.calibration import own_cases
from diffusion_segmentation.calibration import start as starts
from diffusion_segmentation.calibration.covariance import LabelledCase
from diffusion_segmentation.diffusion.copula import Covariance
from diffusion_segmentation.errors import ModelError
from diffusion_segmentation.model.building import build
from diffusion_segmentation.model.folder import Model, Start
from diffusion_segmentation.networks import UNKNOWN, FrozenHead, GivenLogits
from diffusion_segmentation.runtime import memory
from diffusion_segmentation.segmentation import memory_plan, pipeline
from diffusion_segmentation.segmentation.encoded_folds import EncodedFolds, encode
from diffusion_segmentation.segmentation.folded_image import FoldedImage, mean_odds, probabilities, with_odds
from diffusion_segmentation.segmentation.foreign_head import ForeignHead, Predict
from diffusion_segmentation.segmentation.request import Progress, Request
from diffusion_segmentation.segmentation.run_control import RunControl
from diffusion_segmentation.segmentation.sampler import EncodedVolume, sample_seeds
from diffusion_segmentation.training.case_odds import CaseOdds
from diffusion_segmentation.training.folder import Folder

CPU = torch.device("cpu")
TEMPERATURES = {"temperature": 3.0, "mean_temperature": 1.5}
COPULA = Start(Covariance((8.0,), np.full((3, 1), 0.5), np.full(3, 0.5)), None)
SHAPE = (8, 12, 10)
FOLDS = 3


@pytest.fixture(scope="module", params=[3, 2], ids=["volumes", "slices"])
def model(request: pytest.FixtureRequest) -> Model:
    """A sampler with random weights on top of a network of three classes."""
    return on_top(request.param)


def on_top(dims: int = 3) -> Model:
    labels = [{"label": n, "id": f"part_{n}", "name": f"Part {n}", "color": [1.0, 0.5 * n, 0.0]} for n in (1, 2)]
    network = {"encoder": {"channels": [8, 8], "blocks": [1, 1]}, "denoiser": {"channels": [8, 8], "blocks": 1}}
    section: dict[str, Any] = {
        "name": "sampler",
        "title": "Sampler",
        "sha256": "1" * 64,
        "map_source": "samples",
        "working_spacing_mm": 4.0,
        "window": [16] * dims,
        "steps": {"cpu": 3, "gpu": 3},
        "labels": [{**entry, "terminology": "a~b^c^d~e^f^g~^^~h~^^~^^"} for entry in labels],
        "network": {**network, "dims": dims},
        "process": {"loss_curve": {"log_snr": [-12.0, 0.0, 8.0], "cross_entropy": [1.0, 0.5, 0.1]}},
        "input_range": {"spacing_mm": [0.3, 8.0], "extent_mm": [20, 500], "modality": "MR"},
        "frozen": {"name": "net", "sha256": "0" * 64, "kind": "nnunet", "folds": {}, **TEMPERATURES},
    }
    torch.manual_seed(7)
    thin, denoiser = build(section["network"], 3, on_top=True)
    torch.nn.init.normal_(denoiser.head.weight, std=0.5)
    for part in (thin, denoiser):
        part.eval().requires_grad_(False)
    return Model({"version": "0.0.1", "diffusion_segmentation": section}, FrozenHead(GivenLogits(3), thin), denoiser)


def odds_of_folds(shape: tuple[int, ...] = SHAPE) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [(4 * rng.standard_normal((2, *shape))).astype(np.float16) for _ in range(FOLDS)]


@pytest.fixture(scope="module")
def image() -> FoldedImage:
    values = np.random.default_rng(1).random((1, *SHAPE), np.float32)
    folded = with_odds(values, odds_of_folds(), TEMPERATURES)
    assert isinstance(folded, FoldedImage)
    return folded


def test_one_fold_gives_channels(image: FoldedImage) -> None:
    one = with_odds(image.values, image.odds[1:2], TEMPERATURES)
    np.testing.assert_array_equal(one, image.of_fold(1))


def test_the_mean_is_that_of_the_probabilities_over_its_own_temperature(image: FoldedImage) -> None:
    mean = np.mean([probabilities(odds, 1.0) for odds in image.odds], 0)
    np.testing.assert_allclose(mean_odds(image.odds), np.log(mean[1:] / mean[0]), atol=1e-4)
    tempered = mean ** (1 / 1.5)
    np.testing.assert_allclose(image.mean(), tempered / tempered.sum(0), atol=1e-5)
    pooled = [torch.from_numpy(p ** (1 / 3)) for p in (probabilities(odds, 1.0) for odds in image.odds)]
    np.testing.assert_allclose(image.pooled(), np.mean([p / p.sum(0) for p in pooled], 0), atol=1e-5)


@pytest.mark.parametrize("far", [-40.0, 40.0])
def test_sure_folds_have_a_finite_mean(far: float) -> None:
    odds = [np.full((2, 1), value, np.float16) for value in (far, far, 0.0)]
    share = np.log(1 / 9) - np.log(7 / 9) if far < 0 else np.log((1 / 2 + 1 / 2 + 1 / 3) / (1 / 3))
    np.testing.assert_allclose(mean_odds(odds), share, atol=1e-3)


@pytest.mark.parametrize("holds_all", [True, False])
def test_sample_i_uses_fold_i_and_its_own_seed(model: Model, image: FoldedImage, holds_all: bool) -> None:
    grid, seeds = model.step_grid(3), sample_seeds(0, 5)
    encoded = EncodedFolds(model, image, CPU, holds_all=holds_all)
    expected = [encode(model, image.of_fold(i % FOLDS), CPU).sample([seed], grid)[0] for i, seed in enumerate(seeds)]
    steps: list[int] = []
    together = encoded.sample(seeds, grid, steps.append)
    np.testing.assert_allclose(together, expected, atol=1e-2)  # rounding of groups
    assert steps == sorted(steps) and 1 <= steps[0] and steps[-1] == len(grid)
    later = encoded.sample(seeds[3:], grid, first=3)
    np.testing.assert_allclose(later, expected[3:], atol=1e-2)
    np.testing.assert_allclose(encoded.direct(), image.mean(), atol=1e-6)


def test_copula_masks_have_the_folds_marginals_whose_mean_is_the_map(model: Model, image: FoldedImage) -> None:
    copula = model.with_start(COPULA)
    encoded = EncodedFolds(copula, image, CPU)
    for number in range(FOLDS + 1):
        expected = encode(copula, image.of_fold(number), CPU).start_mask(5)
        np.testing.assert_array_equal(encoded.start_mask(5, number), expected)
    np.testing.assert_allclose(encoded.direct(), image.pooled(), atol=1e-6)


def test_calibration_draws_from_the_folds_in_turn(image: FoldedImage) -> None:
    model = on_top()
    case = starts.labelled(model, image, np.zeros(SHAPE, np.uint8))
    np.testing.assert_allclose(case.p, image.mean(), atol=1e-5)
    grid, seeds = model.step_grid(3), sample_seeds(0, 4)
    masks, mean = starts.samples(model, case, 4, 0)
    expected = [
        EncodedVolume(model, image.of_fold(i % FOLDS), CPU).sample([seed], grid)[0] for i, seed in enumerate(seeds)
    ]
    np.testing.assert_allclose(mean, np.mean(expected, 0), atol=1e-5)
    assert (masks == np.argmax(expected, 1)).mean() > 0.999
    copula = model.with_start(COPULA)
    masks, mean = starts.samples(copula, LabelledCase(image, case.labels, case.p), 2, 0)
    np.testing.assert_allclose(mean, image.pooled(), atol=1e-5)
    assert masks.shape == (2, *SHAPE)


class Folds(ForeignHead):
    """Folds with given log-odds for each voxel of a volume."""

    def __init__(self, odds: Sequence[np.ndarray]) -> None:
        super().__init__(Path(), {"name": "folds", "title": "folds", "sha256": "0", "labels": [{}, {}]})
        self._odds = odds

    @property
    def members(self) -> list[str]:
        return [str(number) for number in range(len(self._odds))]

    def required_bytes(self, images: Any, on_cpu: bool) -> int:
        return 0

    def each(self, images: Any, device: Any, control: Any, members: Any, on_pass: Any) -> list[Callable]:
        return [lambda number=int(name): probabilities(self._odds[number], 1.0) for name in members]


def run(tmp_path: Path, name: str, odds: Sequence[np.ndarray], **options: Any) -> dict[str, Any]:
    """Report of a run of the random sampler, or with `start` of its copula, on a volume of noise."""
    volume, result = tmp_path / "noise.nrrd", on_top().with_start(options.pop("start", None))
    if not volume.exists():
        noise = sitk.GetImageFromArray(np.random.default_rng(1).random(odds[0].shape[1:], np.float32))
        noise.SetSpacing((4.0, 4.0, 4.0))
        sitk.WriteImage(noise, str(volume))

    class Given(pipeline.ModelCache):
        def get(self, name: str, device: torch.device) -> Model:
            return result

    given = {key: options.pop(key) for key in ("progress", "cancel") if key in options}
    request = Request(volume, tmp_path / name, "sampler", device="cpu", **options)
    return pipeline.segment(request, models=Given(), predict=Predict(Folds(odds), TEMPERATURES), **given).report


def test_a_run_sees_the_log_odds_of_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Folder(write_ball_dataset(tmp_path / "data", [(5,)] * 2), tmp_path / "prepared")
    model = on_top()
    source.configure(model.section)
    head = Folds(odds_of_folds((24, 24, 24)))
    source.odds = CaseOdds(head, {}, TEMPERATURES, "cpu")
    trained, _ = next(source.labelled(1, 0))
    used: list[FoldedImage] = []
    monkeypatch.setattr(
        pipeline, "encode", lambda model, image, *rest: used.append(image) or encode(model, image, *rest)
    )
    monkeypatch.setattr(pipeline.ModelCache, "get", lambda *_: model)
    (image,) = source.held_out[0].images
    request = Request(image, tmp_path / "result", "sampler", samples=1, device="cpu")
    pipeline.segment(request, predict=Predict(head, TEMPERATURES))
    assert isinstance(trained, FoldedImage) and len(trained.odds) == FOLDS
    for fold in range(FOLDS):
        np.testing.assert_array_equal(used[0].odds[fold], trained.odds[fold])
    np.testing.assert_allclose(used[0].values, trained.values, atol=1e-3)


@pytest.mark.slow
def test_own_cases_are_segmented_by_the_folds_in_turn(tmp_path: Path) -> None:
    source = Folder(write_ball_dataset(tmp_path / "data", [(5,)] * 2), tmp_path / "prepared")
    odds, case = odds_of_folds((24, 24, 24)), source.dataset.training[0]
    runs = own_cases.CaseRuns(on_top(), tmp_path, source.dataset, [0, 1], Folds(odds), 0, "cpu")
    checked = runs.run(case)
    request = Request(case.images, tmp_path / "result", "sampler", device="cpu")
    predict = Predict(Folds(odds), TEMPERATURES)
    report = pipeline.segment(request, models=own_cases._Given(on_top()), predict=predict).report
    np.testing.assert_array_equal(checked.samples.T, volumes(report))


def volumes(report: dict[str, Any]) -> list[list[float]]:
    return [structure["samples_ml"] for structure in report["volumes"]]


@pytest.fixture(scope="module")
def larger() -> list[np.ndarray]:
    return odds_of_folds((12, 16, 14))


@pytest.mark.slow
def test_a_longer_run_begins_with_the_samples_of_a_shorter_one(larger: list[np.ndarray], tmp_path: Path) -> None:
    short, long = (run(tmp_path, f"of {n}", larger, samples=n) for n in (2, 5))
    assert [of[:2] for of in volumes(long)] == volumes(short)
    alone = volumes(
        run(tmp_path, "second fold", larger[1:2], samples=2)
    )  # has the same second sample, and another first
    assert [
        [one == other for one, other in zip(*of, strict=True)] for of in zip(alone, volumes(short), strict=True)
    ] == [
        [False, True],
        [False, True],
    ]


@pytest.mark.slow
def test_a_stopped_run_keeps_the_first_samples(larger: list[np.ndarray], tmp_path: Path) -> None:
    whole, drawn = run(tmp_path, "whole", larger, samples=4), [0]

    def note(now: Progress) -> None:
        drawn[0] = max(drawn[0], now.sample)

    stopped = run(tmp_path, "stopped", larger, samples=4, progress=note, cancel=lambda: "keep" * (drawn[0] > 2) or None)
    assert stopped["partial"] and stopped["samples"] == 2
    assert volumes(stopped) == [of[:2] for of in volumes(whole)]


@pytest.mark.slow
def test_facts_are_followed_by_one_fold_and_refused_by_several(larger: list[np.ndarray], tmp_path: Path) -> None:
    options = {"start": COPULA, "samples": 3, "keep_samples": True}
    run(tmp_path, "first", larger[:1], **options)
    facts = sitk.Image(larger[0].shape[:0:-1], sitk.sitkUInt8) + UNKNOWN
    facts.CopyInformation(sitk.ReadImage(str(tmp_path / "noise.nrrd")))
    facts[4:9, 5:9, 3:6] = 2
    sitk.WriteImage(facts, str(tmp_path / "facts.nrrd"))
    options["facts"] = (tmp_path / "facts.nrrd",)
    report = run(tmp_path, "updated", larger[:1], **options)
    samples = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "updated" / "samples.seq.nrrd")))
    assert report["facts"]["voxels"] == 60 and (samples[3:6, 5:9, 4:9] == 2).all()
    with pytest.raises(ModelError, match=f"come from {FOLDS} folds in turn and cannot follow corrections"):
        run(tmp_path, "refused", larger, **options)
    assert not (tmp_path / "refused").exists()


@pytest.mark.slow
def test_short_memory_keeps_the_features_of_one_fold(
    larger: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path, "whole", larger, samples=3)
    encoding = memory_plan.MemoryPlan.encoding_bytes
    monkeypatch.setattr(
        memory_plan.MemoryPlan, "encoding_bytes", lambda self, tiling: encoding(self, tiling) + 10**9 * self._held_folds
    )
    monkeypatch.setattr(memory, "available_memory", lambda: 2 * 10**9)
    kept: list[int] = []
    of_fold = EncodedFolds._of_fold
    monkeypatch.setattr(
        EncodedFolds, "_of_fold", lambda self, n: (of_fold(self, n), kept.append(len(self._encoded)))[0]
    )
    report = run(tmp_path, "short", larger, samples=3)
    assert any(memory_plan.ONE_FOLD in warning for warning in report["warnings"])
    assert (volumes(report) == volumes(whole) and kept == []) or set(kept) == {1}


@pytest.mark.slow
def test_a_full_gpu_keeps_the_features_of_one_fold(
    larger: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path, "whole", larger, samples=3)
    start = EncodedFolds.__init__

    def failing(self: EncodedFolds, *arguments: Any) -> None:
        if arguments[-1]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        start(self, *arguments)

    monkeypatch.setattr(EncodedFolds, "__init__", failing)
    report = run(tmp_path, "short", larger, samples=3)
    assert any(memory_plan.ONE_FOLD in warning for warning in report["warnings"]) and report["windows"] == 1
    assert volumes(report) == volumes(whole)


def test_the_plan_counts_folds_and_log_odds_of_many_classes() -> None:
    plan = memory_plan.MemoryPlan(on_top(), CPU)
    tiling = pipeline.Tiling((32, 32, 32), (32, 32, 32), 4)
    alone = plan.sampling_bytes(tiling)
    plan.folds = 1
    channels = 4 * 3 * 2 * 32**3  # one of the image and two of log-odds, as they are and padded
    assert plan.sampling_bytes(tiling) == alone + 2 * 2 * 32**3 + channels
    stored = plan._stored_bytes(tiling) + 2 * 4 * 3 * 32**3
    plan.folds = 5
    assert plan.sampling_bytes(tiling) == alone + 5 * 2 * 2 * 32**3 + channels + 4 * stored
    plan.holds_all_folds = False
    assert plan.sampling_bytes(tiling) == alone + 5 * 2 * 2 * 32**3 + channels


def test_a_prediction_needs_memory_for_the_log_odds_of_all_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(memory, "require", lambda needed, *_: asked.append(needed))
    values = np.zeros((1, 3, 4, 5), np.float32)
    predict = Predict(Folds([np.zeros((2, 3, 4, 5), np.float16)] * FOLDS), TEMPERATURES)
    control = RunControl(lambda progress: None, lambda: None)
    predict(values, [], CPU, control, lambda p: p[1:].astype(np.float16))
    assert asked == [FOLDS * 2 * 2 * 60]
