"""A study from real training: the short form of A3 and one variant of A1, what is kept of it, and its report."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from ball_dataset import write_ball_dataset

from diffusion_segmentation import cli
from diffusion_segmentation.errors import DiffusionSegmentationError, InputError
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.model.building import build
from diffusion_segmentation.study import adapt, elapsed_time, pool, report, study
from diffusion_segmentation.study.context import Context, Measurement
from diffusion_segmentation.study.questions import DirectOrDiffusion, NoiseLevels
from diffusion_segmentation.study.tasks import Sizes, prepare
from diffusion_segmentation.study.variants import Variant
from diffusion_segmentation.training.sources import Phantoms

SIZES = Sizes(train=512, validation=32, test=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("study")


def request(folder, **changes):
    options = {
        "data": ("boundary:16x16",),
        "output": folder,
        "budget": 0.3,
        "sizes": SIZES,
        "samples": 12,
        "device": "cpu",
        "questions": (DirectOrDiffusion(("direct",)), NoiseLevels()),
    }
    return study.StudyOptions(**{**options, **changes})


@pytest.fixture(scope="module", autouse=True)
def fewer_resamples():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusion_segmentation.evaluation.pooling.RESAMPLES", 300)
        yield


@pytest.fixture(scope="module")
def result(folder):
    return study.study(request(folder))


@pytest.mark.slow
def test_real_training_finds_what_must_be_true_of_this_task(result):
    a1 = result["questions"]["A1"]["numbers"]["boundary:16x16"]
    # One number decides the whole border: joint samples have its spread, independent pixels have not.
    assert a1["differences"]["direct"]["spread"]["verdict"] == "better"
    # On a slow processor the trainings, which end by time, are short: 5 times is not reached there.
    assert a1["scores"]["diffusion-32"]["spread"]["value"] > 2 * a1["scores"]["direct"]["spread"]["value"]
    assert a1["differences"]["direct"]["coverage"]["verdict"] == "better"
    a3 = result["questions"]["A3"]["numbers"]["boundary:16x16"]
    with_image, without = (a3["half_points"][name]["value"] for name in ("diffusion", "mask"))
    assert with_image < without  # the image determines most of the mask, which allows more noise
    sentences = " ".join(s["text"] for s in result["questions"]["A3"]["sentences"])
    assert "of masks given the image is not monotonic" in sentences


@pytest.mark.slow
def test_report_is_one_file_with_its_numbers_beside_it(result, folder):
    page = (folder / "study.html").read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!data:)', page) and "<script" not in page
    stored = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    assert stored == json.loads(json.dumps(result))
    pictures = sorted(path.stem for path in (folder / "figures").glob("*.png"))
    assert pictures == sorted(path.stem for path in (folder / "figures").glob("*.csv")) and len(pictures) == 3
    assert page.count("<img") == 3 and all(f"figures/{name}.png" in json.dumps(stored) for name in pictures)
    with (folder / "figures" / "noise-levels-boundary-16x16.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 2 * 24 and float(rows[0]["loss"]) > 0
    assert "95 %" in page and result["facts"]["networks"] == 8
    text = (folder / "study.md").read_text(encoding="utf-8")
    assert all(f"](figures/{name}.png)" in text for name in pictures)
    assert text.count("| --- |") == page.count("<table") and all(
        s["text"][:20] in text for s in stored["questions"]["A3"]["sentences"]
    )


@pytest.mark.slow
def test_the_same_command_trains_and_measures_nothing_again(result, folder, monkeypatch, capsys):
    monkeypatch.setattr(study.pool, "run", lambda *_: pytest.fail("something was done again"))
    again = study.study(request(folder))
    assert again["questions"] == result["questions"]
    assert "8 networks are in the cache" in capsys.readouterr().err


@pytest.mark.slow
def test_text_for_a_terminal_names_question_and_report(result, folder):
    text = report.text(result, folder)
    assert "A3 What is learnt at which noise level" in text and text.endswith(f"The report is {folder / 'study.html'}")


def test_the_longest_networks_are_trained_first(tmp_path, monkeypatch):
    task, shares = prepare("boundary:16x16", tmp_path, SIZES), []
    variants = study.required_variants([DirectOrDiffusion(("direct", "ensemble"))], [task.name], (0, 1))
    monkeypatch.setattr(study.pool, "run", lambda _executor, jobs, *_: shares.extend(job[0] for job in jobs) or ())
    context = Context({task.name: task}, (0, 1), 1.0, 4, tmp_path, "cpu", "cpu")
    study._train(context, variants[::-1], None, elapsed_time.ElapsedTime(tmp_path, "study"))
    assert len(set(shares)) > 1 and shares == sorted((v.share for v in variants), reverse=True)


def test_all_variants_get_the_same_time_within_the_budget():
    variants = study.required_variants([DirectOrDiffusion(("direct", "ensemble"))], ["a", "b"], (0, 1))
    minutes = study.training_minutes(60, variants, 2)
    assert len(variants) == 4 * 7 and len(set(variants)) == len(variants)
    assert minutes * sum(variant.share for variant in variants) == pytest.approx(60 * 2 * study.TRAINING_SHARE)
    assert variants[-1].share < 1 <= variants[0].share
    with pytest.raises(InputError, match="raise --budget"):
        study.training_minutes(0.01, [Variant("a")] * 100, 1)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seeds": 1}, "two seeds or more"),
        ({"data": ("boundary:16x16", "boundary:16x16")}, "named twice"),
        ({"data": ("nowhere",)}, "neither a folder of labelled images"),
        ({"questions": None, "only": "A1,B2"}, "no question of the study"),
        ({"questions": None, "only": "A10", "data": ("boundary:24x24",)}, "multiples of 16"),
    ],
)
def test_invalid_studies_are_refused_before_any_training(tmp_path, changes, sentence):
    with pytest.raises(InputError, match=sentence):
        study.study(request(tmp_path, **changes, sizes=Sizes(4, 4, 4)))
    assert not (tmp_path / "study.html").exists() and not (tmp_path / "cache" / "arms").exists()


def test_networks_are_measured_elsewhere_but_not_trained_elsewhere(tmp_path, monkeypatch):
    variants = [Variant("a", seed) for seed in (0, 1)]
    here, there = study.TrainingPlan(0.3, "cpu", "A"), study.TrainingPlan(0.5, "Quick GPU", "B")
    tasks = {"a": prepare("boundary:16x16", tmp_path, Sizes(2, 2, 2))}
    context = Context(tasks, (0, 1), here.minutes, 8, tmp_path, "cpu", here.processor)
    assert study._plan(context, variants, None, here) == here
    assert study._plan(context, variants, there, here) == here, "nothing was trained there"
    on_gpu = replace(context, minutes=there.minutes, trained_on=there.processor)
    for variant in variants:
        assert on_gpu.weights(variant) != context.weights(variant)
        on_gpu.weights(variant).parent.mkdir(exist_ok=True)
        on_gpu.weights(variant).touch()
    assert study._plan(context, variants, there, here) == there
    on_gpu.weights(variants[1]).unlink()
    with pytest.raises(InputError, match="1 of 2 networks of this study .* trained on 'Quick GPU'"):
        study._plan(context, variants, there, here)
    assert study._plan(on_gpu, variants, there, replace(there, minutes=9.0)) == there
    measured = Measurement("A1", "a", 0, tuple(variants))
    on_gpu.save(measured, {"ms": 1})
    assert on_gpu.load(measured) and not replace(on_gpu, device="cuda:0").load(measured), "times differ"
    monkeypatch.setattr(study, "choose_device", lambda _name: torch.device("mps"))
    with pytest.raises(InputError, match="on the CPU or on an NVIDIA GPU"):
        study._device("mps")


def test_the_plan_of_a_study_is_kept_beside_those_of_others(tmp_path):
    first, second = study.TrainingPlan(0.3, "cpu", "A"), study.TrainingPlan(0.5, "cpu", "B")
    assert study.stored_plan(tmp_path, "a") is None
    study.store_plan(tmp_path, "a", first)
    study.store_plan(tmp_path, "b", second)
    assert (study.stored_plan(tmp_path, "a"), study.stored_plan(tmp_path, "b")) == (first, second)
    (tmp_path / "training.json").write_text("{half")
    with pytest.raises(InputError, match="is damaged; restore it"):
        study.stored_plan(tmp_path, "a")


def test_large_images_are_fewer(tmp_path, monkeypatch):
    monkeypatch.setattr("diffusion_segmentation.study.tasks.MAX_IMAGE_BYTES", 20 * 4 * 16 * 16)
    few = prepare("boundary:16x16", tmp_path, Sizes(40, 8, 2))
    assert [len(few.arrays(part)[0]) for part in ("train", "validation")] == [20, 8]


def test_wrong_usage_of_the_command(tmp_path, capsys):
    assert cli.main(["study", "boundary", "lesions", "--adapt", "brain-structures", "--output", str(tmp_path)]) == 1
    assert "--adapt takes one task" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        cli.main(["study", "boundary", "--output", str(tmp_path), "--budget", "-3"])


@pytest.mark.slow
def test_a_folder_is_studied_too(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "process_pool", ThreadPoolExecutor)  # saves the start of two processes
    monkeypatch.setattr(pool, "processes", lambda *_: 1)
    data = write_ball_dataset(tmp_path / "data", [(5,)] * 8)
    options = request(tmp_path / "out", data=(str(data),), budget=0.15, sizes=Sizes(8, 2, 2), samples=8)
    options = replace(options, questions=(DirectOrDiffusion(("direct",)),))
    result = study.study(options)
    assert result["facts"]["data"]["Balls"]["known_answer"] is False
    scores = result["questions"]["A1"]["numbers"]["Balls"]["scores"]
    assert scores["direct"]["iou"]["value"] is not None and scores["direct"]["spread"] is None


# --adapt


@pytest.fixture(scope="module")
def flat_model(tmp_path_factory):
    """An untrained model of `boundary`, with a loss curve that gives bad steps."""
    settings = Phantoms("boundary:16x16").settings()
    section = settings["diffusion_segmentation"]
    encoder, denoiser = build(section["network"], 2)
    levels = np.linspace(-12, 8, 24)
    late = (levels < 7).astype(float)
    section |= {
        "sha256": "",
        "steps": {"cpu": 4, "gpu": 4},
        "process": {
            "input_scale": 0.5,
            "loss_curve": {"log_snr": levels.tolist(), "cross_entropy": late.tolist()},
        },
        "training": {"optimisation": {"density": "cosine"}},
    }
    folder = tmp_path_factory.mktemp("models") / "flat"
    models.save(folder, {**settings["bundle"], "diffusion_segmentation": section}, encoder, denoiser)
    return folder


def test_adapt_moves_the_steps_and_keeps_the_weights(flat_model, tmp_path):
    options = adapt.AdaptOptions("boundary:16x16", str(flat_model), tmp_path, "cpu", Sizes(1, 16, 8))
    result = adapt.adapt(options)
    old, new = (np.array(result["grids"][name]) for name in (adapt.OLD, adapt.NEW))
    assert len(old) == len(new) == 4 and abs(old - new).max() > 1
    before, after = models.load(flat_model), models.load(tmp_path / "model")
    assert before.section["sha256"] == after.section["sha256"]
    np.testing.assert_allclose(after.step_grid(4), new, atol=1e-3)
    assert after.section["adapted"]["data"] == "boundary:16x16"
    assert result["sentence"] and result["gain"]["verdict"] in ("better", "worse", "not decided")
    advice = json.loads((tmp_path / "training.json").read_text())
    assert 0.05 <= advice["diffusion_segmentation"]["process"]["input_scale"] <= 1


def test_adapt_refuses_data_that_do_not_fit_the_model(flat_model, tmp_path):
    for data, sentence in (("lesions:16x16", "same structures"), ("boundary:20x20", "multiple of 8")):
        with pytest.raises(InputError, match=sentence):
            adapt.adapt(adapt.AdaptOptions(data, str(flat_model), tmp_path, "cpu", Sizes(1, 4, 4)))
    assert not (tmp_path / "model").exists()


# Stopped, and broken


@pytest.mark.slow
def test_ctrl_c_ends_every_process_and_keeps_finished_results(tmp_path):
    command = [sys.executable, "-m", "diffusion_segmentation", "study", "template:16x16", "--output", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [*command, "--budget", "0.2", "--only", "A8", "--device", "cpu"],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    variants = tmp_path / "cache" / "arms"
    deadline = time.monotonic() + 300  # three imports of torch and Lightning on a busy machine
    while not list(variants.glob("*.safetensors")):
        if process.poll() is not None or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to all of them
    stderr = process.communicate(timeout=30)[1]
    assert process.returncode == 130 and stderr.splitlines()[-1] == "Cancelled."
    assert _ends(process.pid), "processes are left behind"
    assert list(variants.glob("*.safetensors")) and not (tmp_path / "study.html").exists()
    assert 0 < min(json.loads((tmp_path / "cache" / "clock.json").read_text()).values()) < 5


@pytest.mark.slow
def test_a_killed_study_leaves_no_process(tmp_path):
    (tmp_path / "pool_of_two.py").write_text(
        """
import time
from diffusion_segmentation.study import pool

if __name__ == "__main__":
    with pool.process_pool(2) as executor:
        jobs = [(1, time.sleep, (seconds,)) for seconds in (0, 600, 600)]
        for _ in pool.run(executor, jobs, "waiting", "jobs"):
            print("started", flush=True)
"""
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, tmp_path / "pool_of_two.py"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, start_new_session=True) as process:
        assert process.stdout.readline() == b"started\n"
        process.kill()
        process.wait()
        assert _ends(process.pid), "processes are left behind"


def test_the_time_before_a_stop_counts(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("diffusion_segmentation.study.elapsed_time.time.monotonic", lambda: now[0])
    first = elapsed_time.ElapsedTime(tmp_path, "study a")
    now[0] = 120.0
    assert first.save() == 2.0
    again, other = elapsed_time.ElapsedTime(tmp_path, "study a"), elapsed_time.ElapsedTime(tmp_path, "study b")
    now[0] = 180.0
    assert (again.save(), again.save(), other.save()) == (3.0, 3.0, 1.0)
    (tmp_path / "clock.json").write_text("[half")
    assert elapsed_time.ElapsedTime(tmp_path, "study a").save() == 0.0


def _ends(group):
    """Whether a process group is empty within some seconds: multiprocessing's own helper ends after its parent."""
    for _ in range(50):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
def test_a_process_that_dies_is_reported_in_one_sentence():
    jobs = [(1.0, os._exit, (3,)), (1.0, time.sleep, (0.1,))]
    with pytest.raises(DiffusionSegmentationError, match="was killed"), pool.process_pool(1) as executor:
        list(pool.run(executor, jobs, "training", "networks"))


@pytest.mark.slow
def test_an_exception_of_a_job_is_raised_and_ends_the_others():
    started = time.monotonic()
    with pytest.raises(ZeroDivisionError), pool.process_pool(2) as executor:
        list(pool.run(executor, [(1.0, divmod, (1, 0)), (1.0, time.sleep, (60,))], "training", "networks"))
    assert time.monotonic() - started < 30
