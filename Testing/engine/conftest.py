"""Fixtures that several files of the engine's tests use."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def short_loss_curves() -> Iterator[None]:
    """Trainings measure the loss curve on two batches of unseen cases; on all this takes longer than the training."""
    train = sys.modules.get("diffusion_segmentation.training.train")  # imported by the files that train
    # Not the fixture `monkeypatch`, which would then be undone after that of `card`, and leave parts of the stand-in.
    with pytest.MonkeyPatch.context() as patch:
        if train is not None:
            measure = train.loss_curve
            patch.setattr(train, "loss_curve", lambda e, d, b, *rest: measure(e, d, itertools.islice(b, 2), *rest))
        yield


@pytest.fixture
def card() -> Iterator[list[tuple]]:
    """A machine with a stand-in for a graphics card: names and arguments of the calls of torch.cuda."""
    from gpu_standin import graphics_card

    with graphics_card() as calls:
        yield calls


@pytest.fixture
def ball_dataset(tmp_path: Path) -> Path:
    """Five labelled images of a ball at 2 mm; two raters of the first case disagree on the radius."""
    from ball_dataset import write_ball_dataset

    return write_ball_dataset(tmp_path / "data", [(4, 6)] + 4 * [(5,)])


@pytest.fixture
def quick_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few bootstrap resamples and coarse figures."""
    monkeypatch.setattr("diffusion_segmentation.evaluation.pooling.RESAMPLES", 40)
    monkeypatch.setattr("diffusion_segmentation.evaluation.dataset.scores.FLOOR_DRAWS", 2000)
    monkeypatch.setattr("diffusion_segmentation.evaluation.report.figures.DPI", 30)


@pytest.fixture(scope="module")
def few_study_resamples() -> Iterator[None]:
    """150 bootstrap resamples for the verdicts of a study."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusion_segmentation.evaluation.pooling.RESAMPLES", 150)
        yield


@pytest.fixture(scope="module")
def study_context(tmp_path_factory: pytest.TempPathFactory):
    """A study of the task planted.TASK with 12 test cases and two seeds."""
    import planted

    return planted.context(tmp_path_factory.mktemp("study"), planted.TASK)
