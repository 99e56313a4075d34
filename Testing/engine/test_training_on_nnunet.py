"""Training a sampler on top of an nnU-Net: by the folds that have not seen a case, whose predictions are kept."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ball_dataset import change_dataset, write_ball_dataset
from nnunet_folders import dataset, plans, write_folder

from diffusion_segmentation import any_model, cli
from diffusion_segmentation.calibration.calibrate import calibrate
from diffusion_segmentation.errors import InputError, ModelError
from diffusion_segmentation.evaluation.evaluate import EvaluationRequest, evaluate
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.model import installed as installed_models
from diffusion_segmentation.nnunet import library
from diffusion_segmentation.nnunet.head import NnunetHead
from diffusion_segmentation.runtime.locations import MODELS_VARIABLE
from diffusion_segmentation.segmentation.encoded_folds import EncodedFolds
from diffusion_segmentation.segmentation.request import Request
from diffusion_segmentation.training import train
from diffusion_segmentation.training.case_odds import StoredOdds
from diffusion_segmentation.training.folder import Folder
from diffusion_segmentation.training.on_foreign import open_frozen
from diffusion_segmentation.training.settings import Optimisation

CASES = [f"case{n}" for n in range(6)]
SPLITS = [
    {"train": ["case0", "case1"], "val": ["case2", "case3"]},
    {"train": ["case2", "case3"], "val": ["case0", "case1"]},
]
LOGITS = {"0": 1.0, "1": -2.0}  # of the ball, by fold
SMALL = {
    "diffusion_segmentation": {
        "network": {"encoder": {"channels": [8, 8], "blocks": [1, 1]}, "denoiser": {"channels": [8, 8], "blocks": 1}},
        "steps": {"cpu": 3, "gpu": 3},
    },
    "optimisation": {"iterations": 2, "warm_up": 1, "shapes": [[16, 16, 16]]},
}


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "installed"))
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    return tmp_path / "installed"


@pytest.fixture
def balls(tmp_path: Path) -> Path:
    return write_ball_dataset(tmp_path / "data", [(5,)] * len(CASES))


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """In place of nnU-Net: folds with constant logits; returns the folds of each prediction."""
    predicted: list[tuple[str, ...]] = []

    def each(self: NnunetHead, images: Any, device: Any, control: Any, members: Any, on_pass: Any) -> list[Any]:
        predicted.append(tuple(members))
        shape = images[0].GetSize()[::-1]

        def probabilities(fold: str) -> np.ndarray:
            control.check()
            on_pass(1, 2)
            p = 1 / (1 + np.exp(-LOGITS[fold]))
            return np.stack([np.full(shape, 1 - p, np.float32), np.full(shape, p, np.float32)])

        return [lambda fold=fold: probabilities(fold) for fold in members]

    monkeypatch.setattr("diffusion_segmentation.nnunet.head.require_nnunetv2", lambda: None)
    monkeypatch.setattr(NnunetHead, "each", each)
    monkeypatch.setattr(NnunetHead, "required_bytes", lambda *_: 0)
    return predicted


def trained(folder: Path, splits: Any = SPLITS, **options: Any) -> Path:
    """A trained nnU-Net of two folds, with its file of splits unless this is None."""
    write_folder(folder, dataset_json=dataset({"background": 0, "ball": 1}, ("MRI",)), **options)
    if splits is not None:
        (folder / "splits_final.json").write_text(json.dumps(splits))
    return folder


def installed(tmp_path: Path, splits: Any = SPLITS, **options: Any) -> Path:
    return any_model.add(trained(tmp_path / "trained", splits, **options), "net")


def prepared(balls: Path, tmp_path: Path) -> tuple[Folder, dict[str, Any]]:
    """The data as a training on top of the installed nnU-Net reads them, and the entry `frozen` of the sampler."""
    frozen = open_frozen("net", None)
    source = frozen.unseen_part(Folder(balls, tmp_path / "prepared"))
    section = frozen.settings(source.settings())["diffusion_segmentation"]
    source.configure({**section, "working_spacing_mm": 4.0})
    frozen.require_same_labels(source)
    frozen.fit(source, Optimisation(shapes=((8, 8, 8),)), section["frozen"])
    return source, section["frozen"]


def test_each_case_is_predicted_by_what_has_not_seen_it(stand_in: list[Any], balls: Path, tmp_path: Path) -> None:
    installed(tmp_path)
    source, frozen = prepared(balls, tmp_path)
    cases = source.dataset.training
    odds = source.odds.of(cases, [image for image, _ in source.prepare(cases)], source.grid)
    both = [*LOGITS.values()]
    expected = dict(zip(CASES, [both[1:]] * 2 + [both[:1]] * 2 + [both] * 2, strict=True))
    assert {case.name: of_paths(one) for case, one in zip(cases, odds, strict=True)} == expected
    assert frozen["folds"] == {"0": ["case2", "case3"], "1": ["case0", "case1"]}


def of_paths(stored: StoredOdds) -> list[float]:
    """The mean log-odds in each of the files."""
    return [round(float(np.load(path).mean()), 2) for path in stored.paths]


def test_predictions_are_kept_for_the_same_image(stand_in: list[Any], balls: Path, tmp_path: Path) -> None:
    installed(tmp_path)
    prepared(balls, tmp_path)
    assert sorted(stand_in) == [("0",), ("0",), ("0", "1"), ("0", "1"), ("1",), ("1",)]
    stand_in.clear()
    prepared(balls, tmp_path)
    assert stand_in == []
    change_dataset(balls, ("imagesTr", "case0_0000.nii.gz", 900.0))
    prepared(balls, tmp_path)
    assert stand_in == [("1",)]


def test_finished_predictions_survive_a_cancel(
    stand_in: list[Any], balls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path)
    whole = NnunetHead.each

    def third_is_cancelled(self: NnunetHead, *arguments: Any) -> Any:
        if len(stand_in) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return whole(self, *arguments)

    monkeypatch.setattr(NnunetHead, "each", third_is_cancelled)
    with pytest.raises(KeyboardInterrupt):
        prepared(balls, tmp_path)
    monkeypatch.setattr(NnunetHead, "each", whole)
    done = len(list((tmp_path / "prepared").glob("*-odds.npy")))
    assert done == sum(map(len, stand_in[:2])) and not list((tmp_path / "prepared").glob("*.part"))
    stand_in.clear()
    prepared(balls, tmp_path)
    assert sum(map(len, stand_in)) == 2 + 2 + 2 * 2 - done


def test_cases_that_all_folds_have_seen_are_left_out(stand_in: list[Any], balls: Path, tmp_path: Path) -> None:
    splits = [{**split, "train": [*split["train"], "case5"]} for split in SPLITS]
    installed(tmp_path, splits)
    source, _ = prepared(balls, tmp_path)
    assert "case5" in source.facts()["cases"] and "case5" not in {case.name for case in source.seen + source.held_out}


def refusal(balls: Path, tmp_path: Path, splits: Path | None = None) -> str:
    """The sentence with which a training on top of the installed nnU-Net is refused; it has written nothing."""
    with pytest.raises((InputError, ModelError)) as caught:
        train.main(str(balls), tmp_path / "sampler", on="net", splits=splits)
    assert not (tmp_path / "sampler").exists()
    sentence = str(caught.value)
    assert sentence.endswith(".") and ". " not in sentence
    return sentence


@pytest.mark.parametrize("folder_name", ["Dataset001_Ball", "ball"])
def test_nnunets_own_data_without_splits_are_refused(
    stand_in: list[Any], balls: Path, tmp_path: Path, folder_name: str
) -> None:
    installed(tmp_path, splits=None)
    own = balls.rename(tmp_path / folder_name)
    assert "give it with --splits" in refusal(own, tmp_path) and "nnUNet_preprocessed/Dataset001_Ball" in refusal(
        own, tmp_path
    )


def test_splits_are_found_beside_the_data_or_named(stand_in: list[Any], balls: Path, tmp_path: Path) -> None:
    installed(tmp_path, splits=None)
    (tmp_path / "named.json").write_text(json.dumps(SPLITS))
    own = balls.rename(tmp_path / "Dataset001_Ball")
    for splits in (tmp_path / "named.json", None):
        if splits is None:
            shutil.copy(tmp_path / "named.json", own / "splits_final.json")
        frozen = open_frozen("net", splits)
        source = frozen.unseen_part(Folder(own, tmp_path / "prepared"))
        folds = frozen.settings(source.settings())["diffusion_segmentation"]["frozen"]["folds"]
        assert folds == {"0": ["case2", "case3"], "1": ["case0", "case1"]}


def test_other_data_without_splits_count_as_unseen(
    stand_in: list[Any], balls: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    installed(tmp_path, splits=None)
    source, frozen = prepared(balls, tmp_path)
    assert frozen["folds"] == {} and len(source.seen + source.held_out) == len(CASES)
    assert "training cases of 'net' are not known" in caplog.text


@pytest.mark.parametrize("splits", [SPLITS, None])
def test_fold_all_is_refused(stand_in: list[Any], balls: Path, tmp_path: Path, splits: Any) -> None:
    installed(tmp_path, splits, folds=("all",))
    assert "has only fold_all" in refusal(balls.rename(tmp_path / "Dataset001_Ball"), tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "[1]", '[{"train": [1], "val": []}]', '{"train": []}'])
def test_another_file_is_no_file_of_splits(stand_in: list[Any], balls: Path, tmp_path: Path, text: str) -> None:
    installed(tmp_path)
    (tmp_path / "wrong.json").write_text(text)
    assert "is not one of nnU-Net's" in refusal(balls, tmp_path, tmp_path / "wrong.json")


def test_a_fold_without_an_entry_counts_as_trained_on_all(stand_in: list[Any], balls: Path, tmp_path: Path) -> None:
    installed(tmp_path, SPLITS[:1])
    with pytest.raises(InputError, match="file of splits 'none.json' cannot be opened"):
        open_frozen("net", tmp_path / "none.json").unseen_part(Folder(balls, tmp_path / "prepared"))
    source = open_frozen("net", None).unseen_part(Folder(balls, tmp_path / "prepared"))
    assert sorted(case.name for case in source.seen + source.held_out) == ["case2", "case3", "case4", "case5"]


def test_splits_are_stored_when_a_model_is_added(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {"0": ["case0", "case1"], "1": ["case2", "case3"]}
    folder = trained(tmp_path / "trained")
    archive = Path(shutil.make_archive(str(tmp_path / "archive"), "zip", folder))
    preprocessed = tmp_path / "preprocessed" / "Dataset001_Ball"
    preprocessed.mkdir(parents=True)
    shutil.copy(folder / "splits_final.json", preprocessed)
    without = trained(tmp_path / "without", splits=None)
    sections = {}
    for name, source in (("folder", folder), ("archive", archive), ("none", without), ("found", without)):
        if name == "found":
            monkeypatch.setenv("nnUNet_preprocessed", str(preprocessed.parent))
        sections[name] = models.read_metadata(any_model.add(source, name))["diffusion_segmentation"]
    facts = {name: section["training"]["data"] for name, section in sections.items()}
    assert [facts[name].get("folds") for name in facts] == [expected, expected, None, expected]
    assert len({section["sha256"] for section in sections.values()}) == 1
    (folder / "splits_final.json").write_text("[]")
    with pytest.raises(ModelError, match="splits_final.json that is not one of nnU-Net's"):
        any_model.add(folder, "wrong")


def test_a_data_set_of_other_labels_is_refused(stand_in: list[Any], balls: Path, tmp_path: Path) -> None:
    installed(tmp_path)
    change_dataset(balls, {"labels": {"background": 0, "vessel": 1}})
    assert "must be the same" in refusal(balls, tmp_path)


def test_a_task_without_files_is_refused(stand_in: list[Any], tmp_path: Path) -> None:
    installed(tmp_path)
    with pytest.raises(InputError, match="is trained on a folder of labelled images"):
        train.main("boundary:16x16", tmp_path / "sampler", on="net")


def sampler_of(data: Path, tmp_path: Path) -> Path:
    (tmp_path / "small.json").write_text(json.dumps(SMALL))
    return train.main(str(data), tmp_path / "sampler", tmp_path / "small.json", on="net")


@pytest.mark.slow
def test_a_sampler_is_trained_calibrated_run_and_evaluated(
    stand_in: list[Any], tmp_path: Path, quick_evaluation: None
) -> None:
    balls = write_ball_dataset(tmp_path / "data", [(4 + n % 3,) for n in range(20)])
    network = models.read_metadata(installed(tmp_path))["diffusion_segmentation"]
    sampler = models.load(sampler_of(balls, tmp_path))
    assert (sampler.foreign["sha256"], sampler.foreign["kind"]) == (network["sha256"], "nnunet")
    assert (sampler.encoder.thin.inputs, sampler.encoder.temperature) == (3, 1.0) and sampler.input_statistics is None
    held_out = sampler.section["training"]["data"]["held_out"]
    assert len(held_out) >= 3 and not set(held_out) & set(sampler.section["training"]["data"]["cases"])
    stand_in.clear()
    assert calibrate(str(tmp_path / "sampler"), str(balls), tmp_path / "calibrated")["cases"] == len(held_out)
    folds = {name: fold for fold, names in sampler.foreign["folds"].items() for name in names}
    unseen = sorted([(folds[name],) if name in folds else ("0", "1") for name in held_out])
    assert sorted(stand_in) == unseen
    stand_in.clear()
    image, calibrated = balls / "imagesTr" / "case0_0000.nii.gz", str(tmp_path / "calibrated")
    report = any_model.segment(Request(image, tmp_path / "result", calibrated, samples=2, device="cpu")).report
    assert stand_in == [("0", "1")]  # all folds, once
    used, foreign = report["model"]["frozen"], sampler.foreign
    assert (used["name"], used["sha256"], report["samples"]) == ("net", network["sha256"], 2)
    assert (used["temperature"], used["fold_temperature"]) == (foreign["mean_temperature"], foreign["temperature"])
    stand_in.clear()
    which = evaluate(EvaluationRequest(calibrated, str(balls), tmp_path / "evaluation", 2, device="cpu"))["data"][
        "which"
    ]
    assert sorted(stand_in) == unseen  # once for each case
    assert ("the fold of 'net' that has not seen" in which) == bool(set(held_out) & set(folds))


@pytest.mark.slow
def test_a_sampler_cannot_run_without_its_network(
    stand_in: list[Any], balls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    folder = installed(tmp_path)
    sampler = sampler_of(balls, tmp_path)
    request = Request(balls / "imagesTr" / "case0_0000.nii.gz", tmp_path / "result", str(sampler), device="cpu")
    with monkeypatch.context() as patch:
        patch.setattr("diffusion_segmentation.nnunet.head.require_nnunetv2", library.require_nnunetv2)
        patch.setattr(library.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ModelError, match="needs nnU-Net, and the package nnunetv2 .* is missing"):
            any_model.segment(request)
    with pytest.raises(InputError, match="needs volumes; give a folder"):
        evaluate(EvaluationRequest(str(sampler), "boundary:16x16", tmp_path / "evaluation", device="cpu"))
    assert installed_models.dependents("net") == []  # the sampler itself is not installed
    any_model.add(sampler, "on-net")
    assert installed_models.dependents("net") == ["on-net"] and installed_models.dependents("on-net") == []
    assert cli.main(["models", "remove", "net"]) == 0 and not folder.exists()
    removed = "Removed the model 'net'; 'on-net' was trained on top of it and cannot run without it\n"
    assert capsys.readouterr().out == removed
    with pytest.raises(ModelError, match="needs the model 'net' .* models add"):
        any_model.segment(request)
    assert not (tmp_path / "result").exists()


@pytest.mark.slow
def test_the_folds_of_a_real_nnunet_predict_what_they_have_not_seen(balls: Path, tmp_path: Path) -> None:
    pytest.importorskip("nnunetv2")
    installed(tmp_path, logits=tuple(LOGITS.values()))
    source, _ = prepared(balls, tmp_path)
    cases = [case for case in source.dataset.training if case.name in ("case0", "case2")]
    odds = source.odds.of(cases, [image for image, _ in source.prepare(cases)], source.grid)
    assert [of_paths(one) for one in odds] == [[LOGITS["1"]], [LOGITS["0"]]]


@pytest.mark.slow
@pytest.mark.parametrize("axes", [2, 3])
def test_the_direct_head_of_a_run_is_that_of_nnunet(balls: Path, tmp_path: Path, axes: int) -> None:
    pytest.importorskip("nnunetv2")
    installed(tmp_path, plans_json=plans(axes), logits=(2.0, 0.5))
    sampler = models.load(sampler_of(balls, tmp_path))
    image = balls / "imagesTr" / "case0_0000.nii.gz"
    request = Request(image, tmp_path / "result", str(tmp_path / "sampler"), samples=2, device="cpu")
    direct: list[np.ndarray] = []
    encode = EncodedFolds.direct
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EncodedFolds, "direct", lambda self: direct.append(encode(self)) or direct[-1])
        report = any_model.segment(request).report
    mean = np.mean([1 / (1 + np.exp(-logit)) for logit in (2.0, 0.5)])
    expected = 1 / (1 + np.exp(-np.log(mean / (1 - mean)) / sampler.foreign["mean_temperature"]))
    np.testing.assert_allclose(direct[0][1], expected, rtol=1e-3)
    assert report["model"]["frozen"]["name"] == "net" and report["samples"] == 2
