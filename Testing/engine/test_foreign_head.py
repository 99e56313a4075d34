"""Networks that others trained as direct head of a sampler: their log-odds as channels, and what has seen a case."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from ball_dataset import change_dataset, write_ball_dataset
from monai_bundles import write_bundle

from diffusion_segmentation import any_model
from diffusion_segmentation.errors import ModelError
from diffusion_segmentation.evaluation.dataset.cases import choose
from diffusion_segmentation.images.dataset import Case, Dataset
from diffusion_segmentation.images.input_names import ONE_INPUT
from diffusion_segmentation.images.working_grid import Grid
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.model.seen_cases import fold_of_cases, seen_cases, unseen_by
from diffusion_segmentation.networks import Encoder, FrozenHead, GivenLogits, class_softmax, depth_to_space
from diffusion_segmentation.runtime.locations import MODELS_VARIABLE
from diffusion_segmentation.segmentation.folded_image import channels_of
from diffusion_segmentation.segmentation.foreign_head import ForeignHead, log_odds
from diffusion_segmentation.segmentation.request import Request
from diffusion_segmentation.training import train
from diffusion_segmentation.training.case_odds import CaseOdds, StoredOdds
from diffusion_segmentation.training.folder import Folder
from diffusion_segmentation.training.on_foreign import ForeignModel
from diffusion_segmentation.training.settings import Optimisation
from diffusion_segmentation.training.windows import Windows

SECTION = {
    "kind": "nnunet",
    "name": "net",
    "title": "Net",
    "sha256": "0" * 64,
    "labels": [{"label": 1, "id": "ball", "name": "ball", "color": [1.0, 0.0, 0.0]}],
    "inputs": [{"name": "MRI"}],
}


def probabilities(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Class probabilities float32 [3, *shape], some of them nearly 0."""
    logits = 6 * np.random.default_rng(seed).standard_normal((3, *shape))
    return torch.from_numpy(logits).softmax(0).numpy().astype(np.float32)


@pytest.mark.parametrize("shape", [(4, 6, 8), (6, 8)])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_channels_give_the_probabilities_of_the_logits_over_the_temperature(
    shape: tuple[int, ...], temperature: float
) -> None:
    p = probabilities(shape)
    odds = np.log(p[1:]) - np.log(p[0])
    image = torch.from_numpy(np.concatenate([np.zeros((1, *shape), np.float32), channels_of(odds, temperature)]))[None]
    logits = GivenLogits(3)(image)[1]
    expected = torch.from_numpy(np.log(p) / temperature).softmax(0)
    torch.testing.assert_close(depth_to_space(class_softmax(logits))[0], expected, atol=1e-5, rtol=1e-3)


def one_fold(path: Path, temperature: float) -> StoredOdds:
    return StoredOdds((path,), {"temperature": temperature})


def test_padding_is_background() -> None:
    p = depth_to_space(class_softmax(GivenLogits(3)(torch.zeros(1, 3, 4, 4))[1]))
    assert (p[:, 0] > 0.999999).all()


def test_the_thin_encoder_sees_the_image_and_the_probabilities_and_not_the_log_odds() -> None:
    head = FrozenHead(GivenLogits(3), Encoder(3, (8, 8), (1, 1), 2, 2 + 3))
    image = torch.cat([torch.rand(1, 2, 8, 8), 56 * torch.rand(1, 2, 8, 8)], 1)
    seen: list[torch.Tensor] = []
    head.thin.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    features, _ = head(image)
    assert features.shape == (1, 8, 4, 4) and torch.equal(seen[0][:, :2], image[:, :2])
    torch.testing.assert_close(seen[0][:, 2:].sum(1), torch.ones(1, 8, 8))


def test_log_odds_are_those_of_the_probabilities_on_the_working_grid() -> None:
    p = np.empty((2, 4, 6, 8), np.float32)
    p[1] = np.linspace(0.1, 0.9, 8)
    p[0] = 1 - p[1]
    image = sitk.GetImageFromArray(np.zeros(p.shape[1:], np.float32))
    whole = tuple(slice(0, n) for n in p.shape[1:])
    odds = log_odds(p, image, Grid(1.0, ONE_INPUT, [None]), whole)
    np.testing.assert_allclose(odds[0], np.log(p[1] / p[0]), rtol=1e-3)
    half = log_odds(p, image, Grid(0.5, ONE_INPUT, [None]), tuple(slice(2 * n) for n in p.shape[1:]))
    middle = 0.75 * p[1, 1, 1, 2] + 0.25 * p[1, 1, 1, 3]
    assert half.shape == (1, 8, 12, 16) and half[0, 3, 3, 5] == pytest.approx(np.log(middle / (1 - middle)), rel=1e-3)


@pytest.mark.parametrize("plane", [(12, 12, 12), (12, 12)])
def test_windows_move_log_odds_with_the_image_and_change_nothing_else(plane: tuple[int, ...], tmp_path: Path) -> None:
    image = np.random.default_rng(0).random((1, 10, 16, 16)).astype(np.float16)
    odds = np.full((2, 10, 16, 16), 3.0, np.float16)
    odds[:, image[0] > 0.5] = -5.0
    for name, values in (("image", image), ("labels", (image > 0.5).astype(np.uint8)), ("odds", odds)):
        np.save(tmp_path / f"{name}.npy", values)
    pairs, stored = [(tmp_path / "image.npy", tmp_path / "labels.npy")], [one_fold(tmp_path / "odds.npy", 2.0)]
    for augment in (False, True):
        stream = iter(Windows(pairs, Optimisation(shapes=(plane,)), 0, augment, stored))
        for _ in range(6):
            window, labels = next(stream)
            assert window.shape == (3, *plane) and torch.equal(window[1], window[2])
            if not augment:
                inside = slice(0, 10) if len(plane) == 3 else slice(None)  # what is padded is 0
                expected = torch.where(labels[0] > 0, 28 - 2.5, 28 + 1.5)
                assert torch.equal(window[1][inside], expected[inside])
            assert window[0].max() <= 1.5 and window[1].max() <= 29.6 and window[1].min() >= 0


def test_a_case_is_predicted_by_the_first_fold_that_has_not_seen_it() -> None:
    trained = {"0": ["a", "b"], "1": ["b", "c"], "2": ["b", "c"]}
    assert unseen_by(trained, ["a", "b", "c", "d"]) == {"a": "1", "c": "0", "d": None}


def test_seen_cases_and_folds_are_those_of_the_data_set_of_this_name() -> None:
    data = {"kind": "folder", "name": "Balls", "cases": ["a"]}
    earlier = {"training": {"data": {**data, "cases": ["b"]}}}
    section = {"training": {"data": data, "started_from": earlier}, "frozen": {"folds": {"0": ["a", "c"]}}}
    assert seen_cases(section, "Balls") == {"a", "b"} and seen_cases(section, "Others") == set()
    folds = [fold_of_cases(section, name, {}, ["a"]) for name in ("Balls", "Others")]
    assert folds == [{"a": "0", "c": "0"}, {}]


def test_cases_that_the_network_below_has_seen_count_whatever_the_sampler_was_trained_on() -> None:
    section = {"training": {"data": {"kind": "folder", "name": "Others", "cases": ["x"]}}, "frozen": {}}
    network = {"training": {"data": {"kind": "nnunet", "folds": {"0": ["a", "b"], "1": ["b", "c"]}}}}
    assert seen_cases(section, "Balls", network) == {"b"}
    assert fold_of_cases(section, "Balls", network, ["a", "b", "c", "d"]) == {"a": "1", "c": "0"}
    ours = {"training": {"data": {"kind": "folder", "name": "Balls", "cases": ["a"]}}}
    assert seen_cases(section, "Balls", ours) == {"a"} and seen_cases(section, "Others", ours) == {"x"}


def test_an_evaluation_leaves_out_or_names_what_the_network_below_has_seen() -> None:
    listed = tuple(Case(name, (), ()) for name in "abcd")
    dataset = Dataset("Balls", ONE_INPUT, ("MRI",), ("ball",), listed, ())
    section = {"training": {"data": {"kind": "folder", "name": "Others", "cases": ["x"]}}, "frozen": {"name": "net"}}
    network = {"name": "net", "training": {"data": {"folds": {"0": ["a", "b"], "1": ["b", "c"]}}}}
    choice = choose(dataset, section, network)
    assert [case.name for case in choice.cases] == ["a", "c", "d"]
    assert "the fold of 'net' that has not seen a case predicted it" in choice.which
    ours = {"training": {"data": {"kind": "folder", "name": "Balls", "cases": list("abcd")}}}
    assert choose(dataset, section, ours).seen_in_training


@pytest.mark.slow
def test_a_network_of_monai_can_be_the_direct_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "installed"))
    balls = write_ball_dataset(tmp_path / "data", [(5,)] * 5)
    change_dataset(balls, {"labels": {"background": 0, "ball": 1, "core": 2}})
    any_model.add(write_bundle(tmp_path / "bundle"), "net")
    network = {"encoder": {"channels": [8, 8], "blocks": [1, 1]}, "denoiser": {"channels": [8, 8], "blocks": 1}}
    config = {"diffusion_segmentation": {"network": network, "steps": {"cpu": 3, "gpu": 3}}}
    config["optimisation"] = {"iterations": 2, "warm_up": 1, "shapes": [[16, 16, 16]]}
    (tmp_path / "small.json").write_text(json.dumps(config))
    sampler = train.main(str(balls), tmp_path / "sampler", tmp_path / "small.json", on="net")
    assert "training cases of 'net' are not known" in caplog.text
    foreign = models.load(sampler).foreign
    assert foreign["kind"] == "monai"
    config["optimisation"]["iterations"] = 3
    (tmp_path / "small.json").write_text(json.dumps(config))
    train.main(str(balls), sampler, tmp_path / "small.json", resume=True, on="net")
    resumed = models.load(sampler)
    assert resumed.foreign == foreign and resumed.section["training"]["iterations"] == 3
    image = balls / "imagesTr" / "case0_0000.nii.gz"
    report = any_model.segment(Request(image, tmp_path / "result", str(sampler), samples=2, device="cpu")).report
    assert report["model"]["frozen"]["name"] == "net" and report["samples"] == 2


class NoNumbers(ForeignHead):
    """A network whose outputs are not finite."""

    members = ["0", "1"]

    def required_bytes(self, images: Any, on_cpu: bool) -> int:
        return 0

    def each(self, images: Any, device: Any, control: Any, members: Any, on_pass: Any) -> list[Any]:
        return [lambda: np.full((2, *images[0].GetSize()[::-1]), np.nan, np.float32) for _ in members]


def test_a_network_that_gives_no_numbers_is_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    source = Folder(write_ball_dataset(tmp_path / "data", [(5,)] * 2), tmp_path / "prepared")
    frozen = {"temperature": 1.0, "mean_temperature": 1.0}
    source.odds = CaseOdds(NoNumbers(Path(), {"name": "net", "title": "Net", "sha256": "0"}), {}, frozen, "cpu")
    with pytest.raises(ModelError, match="'Net' gives no numbers"):
        list(source.labelled(2, 0))
    assert not list((tmp_path / "prepared").glob("*odds*"))


def test_windows_have_any_of_the_folds_that_have_not_seen_a_case(tmp_path: Path) -> None:
    paths = tuple(tmp_path / f"{fold}.npy" for fold in range(3))
    for fold, path in enumerate(paths):
        np.save(path, np.full((1, 2, 2, 2), fold, np.float16))
    frozen, rng, window = {"temperature": 0.5, "mean_temperature": 0.25}, np.random.default_rng(0), (slice(0, 1),) * 3
    drawn = [StoredOdds(paths, frozen).channels(window, rng).item() for _ in range(60)]
    counts = [drawn.count(28.0 + 2 * fold) for fold in range(3)]
    assert sum(counts) == 60 and min(counts) > 10
    p = np.mean([1 / (1 + np.exp(-fold)) for fold in range(3)])
    mean = StoredOdds(paths, frozen, as_mean=True).channels(window, rng).item()
    assert mean == pytest.approx(28 + 4 * np.log(p / (1 - p)), abs=1e-3)


def test_splits_that_were_given_for_a_training_are_known_to_evaluations() -> None:
    trained = {"0": ["a", "b"], "1": ["b", "c"]}
    section = {"frozen": {"name": "net", "folds": {"1": ["a"]}, "trained": trained}}
    network = {"name": "net", "training": {"data": {"kind": "nnunet", "name": "Dataset001_Balls"}}}
    assert seen_cases(section, "Balls", network) == {"b"}
    assert fold_of_cases(section, "Others", network, ["a", "b", "c", "d"]) == {"a": "1", "c": "0"}


@pytest.mark.parametrize("listed", [True, False])
def test_splits_are_stored_unless_the_network_lists_them(tmp_path: Path, listed: bool) -> None:
    balls = write_ball_dataset(tmp_path / "data", [(5,)] * 4)
    folds = {"0": ["case0"], "1": ["case1"]}
    data = {"kind": "nnunet", "name": "Dataset001_Balls", **({"folds": folds} if listed else {})}
    section = {**SECTION, "training": {"data": data}}
    splits = [{"train": cases, "val": []} for cases in folds.values()]
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    model = ForeignModel(SimpleNamespace(section=section, members=list(folds)), tmp_path / "splits.json")
    source = model.unseen_part(Folder(balls, tmp_path / "prepared"))
    frozen = model.settings(source.settings())["diffusion_segmentation"]["frozen"]
    assert frozen.get("trained") == (None if listed else folds)


@pytest.mark.parametrize("name", ["Balls", "Others"])
def test_renamed_cases_of_nnunets_own_data_cause_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    folds = {"0": ["a"], "1": ["b"]}
    data = {"kind": "nnunet", "name": f"Dataset001_{name}", "folds": folds}
    section = {"kind": "nnunet", "name": "net", "labels": [{}], "training": {"data": data}}
    model = ForeignModel(SimpleNamespace(section=section, members=list(folds)), None)
    model.unseen_part(Folder(write_ball_dataset(tmp_path / "data", [(5,)] * 4), tmp_path / "prepared"))
    assert ("none of these cases has the name" in caplog.text) == (name == "Balls")
