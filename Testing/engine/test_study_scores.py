"""Verdicts of the study: known differences are decided rightly, and others are left open; shares of a measurement."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import planted
import pytest
from planted import TASK

from diffusion_segmentation.study import elapsed_time, plots, study
from diffusion_segmentation.study.context import Context
from diffusion_segmentation.study.question import Question
from diffusion_segmentation.study.scores import (
    BETTER,
    MEASURES,
    OPEN,
    WORSE,
    combine_seeds,
    compare,
    is_scored,
    magnitude,
    score_over_seeds,
    with_verdict,
)
from diffusion_segmentation.study.tasks import Sizes, prepare

ROWS = {"exact": planted.exact, "pixels": planted.pixels, "sharp": planted.sharpened, "single": planted.single}


@pytest.fixture(scope="module")
def by_seed(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusion_segmentation.evaluation.pooling.RESAMPLES", 200)
        yield _by_seed(tmp_path_factory)


def _by_seed(tmp_path_factory):
    context = planted.context(tmp_path_factory.mktemp("study"), "boundary:16x16", cases=16)
    return [planted.records(context, "boundary:16x16", seed, ROWS) for seed in context.seeds]


@pytest.mark.parametrize(
    ("measure", "good", "bad"),
    [
        ("ged_u", "exact", "single"),
        ("coverage", "exact", "pixels"),
        ("spread", "exact", "pixels"),
        ("ece", "exact", "sharp"),
        ("iou", "exact", "single"),
    ],
)
def test_every_measure_distinguishes_the_exact_sampler_from_a_wrong_one(by_seed, measure, good, bad):
    assert compare(by_seed, good, bad, measure)["verdict"] == BETTER
    assert compare(by_seed, bad, good, measure)["verdict"] == WORSE


def test_uncertainty_that_is_turned_round_ranks_the_cases_worse(by_seed):
    ranked = [[{**r, "rows": {"right": _ranked(r, -1), "turned": _ranked(r, 1)}} for r in rs] for rs in by_seed]
    assert score_over_seeds(ranked, "right", "e_aurc")["value"] == pytest.approx(0)
    assert compare(ranked, "right", "turned", "e_aurc")["verdict"] == BETTER


def _ranked(record, sign):
    row = record["rows"]["exact"]
    return {**row, "confidence": {"threshold_mean": sign * row["risk"], "patch_max": 0.0}}


def test_nothing_is_decided_between_a_row_and_itself(by_seed):
    for measure in MEASURES:
        assert compare(by_seed, "exact", "exact", measure)["verdict"] == OPEN


def test_seeds_that_disagree_decide_nothing():
    better, worse, far = ({"value": v, "low": v - 0.2, "high": v + 0.2} for v in (-1.0, 1.0, -3.0))
    assert with_verdict(combine_seeds([better, worse]))["verdict"] == OPEN
    assert with_verdict(combine_seeds([better, far]))["verdict"] == BETTER


def test_too_few_cases_decide_nothing(by_seed):
    few = [records[:3] for records in by_seed]
    assert compare(few, "exact", "single", "ged_u")["verdict"] == OPEN


def test_a_row_without_samples_has_no_score_of_the_joint_law(by_seed):
    maps = [[{**r, "rows": {"map": {k: v for k, v in r["rows"]["exact"].items() if k != "ged_u"}}} for r in rs]
            for rs in by_seed]  # fmt: skip
    assert score_over_seeds(maps, "map", "ged_u") is None and score_over_seeds(maps, "map", "iou")["value"] > 0
    assert is_scored(maps, "map", "iou") and not is_scored(maps, "absent", "iou")


def test_amounts_are_written_without_signs():
    assert magnitude({"value": -0.02, "low": -0.03, "high": -0.01}) == "0.020 (0.010 to 0.030)"
    assert magnitude({"value": 0.00021, "low": 0.0001, "high": 0.0004}) == "0.0002 (0.0001 to 0.0004)"


def test_exact_sampler_scores_what_is_best(by_seed):
    assert abs(score_over_seeds(by_seed, "exact", "ged_u")["value"]) < 0.02
    assert 0.75 < score_over_seeds(by_seed, "exact", "coverage")["value"] <= 1
    assert np.isclose(score_over_seeds(by_seed, "exact", "ece")["value"], 0, atol=0.02)


class Counted(Question):
    """Its records are the numbers of the cases."""

    key, title, why = "A0", "", ""

    def __init__(self, count):
        self.count, self.measured = count, set()

    def shares(self, task):
        return self.count

    def measure(self, context, name, seed):
        self.measured.add((seed, context.tasks[name].share))
        return {"records": [{"case": n} for n in context.tasks[name].scored_cases(13)], "seed": seed}

    def summarise(self, context, results):
        raise NotImplementedError


def test_shares_of_a_measurement_are_joined_and_kept(tmp_path):
    task, found = prepare(TASK, tmp_path, Sizes(8, 8, 16)), []
    for count in (1, 3):
        context = Context({task.name: task}, (0, 1), 1.0, 4, tmp_path / str(count), "cpu", "cpu")
        question, elapsed = Counted(count), elapsed_time.ElapsedTime(tmp_path, "study")
        if count > 1:
            (m, _), part = question.measurements(context), {"records": [{"case": n} for n in (1, 4, 7, 10)], "seed": 0}
            context.save(replace(m, detail=("share 2 of 3",)), part)
        with ThreadPoolExecutor(1) as executor:
            found.append(study._measure(context, [question], executor, elapsed))
        assert question.measured == {(seed, (n, count)) for seed in (0, 1) for n in range(count)} - {(0, (1, 3))}
    assert found[0] == found[1]
    assert found[0]["A0"][task.name, 1] == {"records": [{"case": n} for n in range(13)], "seed": 1}


def test_a_score_far_from_the_ideal_one_is_a_number_at_the_edge_and_hides_no_other(monkeypatch):
    monkeypatch.setattr(plots, "png", lambda figure: figure)
    values = {"far": 10.6, "near": 2.0, "nearer": 1.5}
    rows = {name: {"ratio": {"value": v, "low": 0.9 * v, "high": 1.1 * v}} for name, v in values.items()}

    [axes] = plots.dots(rows, {"ratio": "variance ratio"}, {"ratio": 1}).axes

    low, high = axes.get_xlim()
    assert low < 1 < high == plots.FAR  # so the line of the ideal score is seen
    assert [text.get_text().strip() for text in axes.texts] == ["10.6 (9.5 to 11.7) →"]
