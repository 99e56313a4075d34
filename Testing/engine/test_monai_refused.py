"""MONAI bundles that cannot be run are refused in one sentence; a pickle in them never runs."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks import nets
from monai_bundles import (
    MODEL,
    NAMES,
    SCALED,
    SPACING,
    inference,
    metadata,
    postprocessing,
    random_network,
    transforms,
    write_bundle,
)
from safetensors import SafetensorError

from diffusion_segmentation import any_model
from diffusion_segmentation.errors import ModelError
from diffusion_segmentation.runtime.locations import MODELS_VARIABLE
from diffusion_segmentation.segmentation.request import Request


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "installed"))
    return tmp_path / "installed"


def refusal(source: Path, root: Path) -> str:
    """The sentence with which a bundle is refused; nothing is left behind."""
    with pytest.raises(ModelError) as caught:
        any_model.add(source)
    sentence = str(caught.value)
    assert len(re.findall(r"[.?!](?=\s|$)", sentence)) == 1 and sentence.endswith("."), sentence
    assert "\n" not in sentence and len(sentence) < 400
    assert list(root.iterdir()) == []
    return sentence


@pytest.mark.parametrize("text", ["a: &a [1, 2]\nb: *a\n", "a: !!python/object/apply:os.getcwd []\n", "a: [", "- 1"])
def test_yaml_with_more_than_plain_values_is_refused(text: str, tmp_path: Path, root: Path) -> None:
    pytest.importorskip("yaml")
    bundle = write_bundle(tmp_path / "bundle")
    (bundle / "configs/inference.json").unlink()
    (bundle / "configs/inference.yaml").write_text(text)
    assert "inference.yaml that is not valid" in refusal(bundle, root)


def test_without_pyyaml_yaml_is_refused(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusion_segmentation.monai_bundle import configuration

    monkeypatch.setattr(configuration, "optional_import", lambda name: (None, False))
    bundle = write_bundle(tmp_path / "bundle")
    (bundle / "configs/inference.json").rename(bundle / "configs/inference.yaml")
    assert "install the package PyYAML" in refusal(bundle, root)


def with_network(**options: Any) -> dict[str, Any]:
    return inference(network_def={**inference()["network_def"], **options})


def with_transform(**entry: Any) -> dict[str, Any]:
    return inference(preprocessing=transforms({**SPACING, **entry}))


def with_output(*entries: dict[str, Any]) -> dict[str, Any]:
    return inference(postprocessing={"_target_": "Compose", "transforms": [{"keys": "pred", **e} for e in entries]})


ARGMAX, SOFTMAX = {"_target_": "AsDiscreted", "argmax": True}, {"_target_": "Activationsd", "softmax": True}
OVERLAPPING = inference(postprocessing=postprocessing(sigmoid=True))
CIRCLE = {**inference(), "a": "@b", "b": "$@a", "inferer": {**inference()["inferer"], "overlap": "@a"}}
EXPLODING: dict[str, Any] = {f"x{n}": [f"@x{n + 1}"] * 10 for n in range(9)} | {"x9": 1}
EXECUTED = "$__import__('os').system('true')"
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no network": (inference(network_def="@nothing"), "has the reference '@nothing' to nothing"),
    "code as network": (with_network(_target_="os.system"), "'os.system' as its network"),
    "own network": (with_network(_target_="scripts.networks.UNesT"), "'scripts.networks.UNesT' as its network"),
    "no class": (with_network(_target_="__import__('os')"), "class without a valid name"),
    "expression": (with_network(num_res_units=EXECUTED), "expressions are not run"),
    "call": (with_network(channels="$list(range(4))"), "needs the value of 'list"),
    "attribute": (with_network(bias="$@device.type"), "needs the value of"),
    "two dimensions": (with_network(spatial_dims=2), "network for pictures"),
    "huge channels": (with_network(channels=[4, 10**9]), "value for 'channels' of its network UNet"),
    "too many weights": (with_network(channels=[2048] * 8, strides=[2] * 7), "too many weights"),
    "unknown option": (with_network(block="os.system"), "value for 'block' of its network"),
    "lengths": (with_network(strides=[2]), "arguments of the network UNet do not suit each other"),
    "window": (inference(inferer={**inference()["inferer"], "roi_size": [18, 16, 17]}), "do not suit its network"),
    "huge window": (inference(inferer={**inference()["inferer"], "roi_size": 1024}), "values that cannot be used"),
    "overlap": (inference(inferer={**inference()["inferer"], "overlap": 0.999}), "values that cannot be used"),
    "inferer": (inference(inferer={"_target_": "SliceInferer", "roi_size": [9, 9]}), "'SliceInferer'"),
    "inferer option": (inference(inferer={**inference()["inferer"], "with_coord": True}), "'with_coord'"),
    "circle": (CIRCLE, "references in a circle"),
    "explosion": ({**with_network(channels="@x0"), **EXPLODING}, "references in a circle, or too many"),
    "macro": (with_network(channels="%other.json::a"), "cannot be resolved"),
    "deep": (with_network(act=json.loads("[" * 60 + "]" * 60)), "references in a circle, or too many"),
    "transform": (with_transform(_target_="Lambdad", func=EXECUTED), "'Lambdad' in its preprocessing"),
    "code as transform": (with_transform(_target_="os.system"), "'os.system' in its preprocessing"),
    "resized": (with_transform(_target_="Resized", spatial_size=[9, 9, 9]), "'Resized' in its preprocessing"),
    "spacing": (with_transform(pixdim=[1e-9, 1, 1]), "value for 'pixdim' of Spacingd"),
    "no number": (with_transform(pixdim=[float("nan"), 1, 1]), "value for 'pixdim' of Spacingd"),
    "other key": (with_transform(keys=["image", "label"]), "not for 'image' alone"),
    "mode": (with_transform(mode="os.system"), "value for 'mode' of Spacingd"),
    "selection": (
        inference(preprocessing=transforms({"_target_": "CropForegroundd", "select_fn": "$lambda x: x > 1"})),
        "option 'select_fn' of CropForegroundd",
    ),
    "orientation": (
        inference(preprocessing=transforms({"_target_": "Orientationd", "axcodes": "RAR"})),
        "value for 'axcodes' of Orientationd",
    ),
    "no reading": (
        inference(preprocessing={"_target_": "Compose", "transforms": [{"keys": "image", **SCALED}]}),
        "has no LoadImaged",
    ),
    "half precision": (
        inference(preprocessing=transforms({"_target_": "EnsureTyped", "dtype": "$torch.float16"})),
        "value for 'dtype' of EnsureTyped",
    ),
    "no list": (inference(preprocessing={"_target_": "Compose", "transforms": "$eval('[]')"}), "needs the value of"),
    "regions": (OVERLAPPING, "overlapping regions"),
    "largest component": (
        with_output(SOFTMAX, {"_target_": "KeepLargestConnectedComponentd"}, ARGMAX),
        "'KeepLargestConnectedComponentd' in its postprocessing",
    ),
    "threshold": (with_output({"_target_": "AsDiscreted", "threshold": 0.3}), "threshold of 0.5"),
    "no labels": (with_output(SOFTMAX), "no softmax with argmax"),
    "other activation": (with_output({"_target_": "Activationsd", "other": EXECUTED}, ARGMAX), "option 'other'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_run_is_refused_in_one_sentence(case: str, tmp_path: Path, root: Path) -> None:
    config, words = REFUSED[case]
    bundle = write_bundle(tmp_path / "bundle", config, weights=random_network(inference()["network_def"]).state_dict())
    assert re.search(words, refusal(bundle, root))


@pytest.mark.parametrize(
    ("described", "words"),
    [
        (metadata(NAMES[:2]), "no names of its 3 classes"),
        (metadata(("ball", "core", "shell")), "no names of its 3 classes, 'background' first"),
        (metadata(network_data_format=None), "no names of its 3 classes"),
        (metadata(("background", "a\nb", "c")), "values that cannot be used for 'labels'"),
        (metadata(("background", "\u202eelif", "c")), "values that cannot be used for 'labels'"),
        (metadata(description="x" * 100_000), "values that cannot be used for 'description'"),
    ],
)
def test_metadata_without_usable_names_are_refused(
    described: dict[str, Any], words: str, tmp_path: Path, root: Path
) -> None:
    assert words in refusal(write_bundle(tmp_path / "bundle", described=described), root)


def damage_missing_weights(bundle: Path) -> None:
    (bundle / MODEL).unlink()


def damage_torchscript_only(bundle: Path) -> None:
    (bundle / MODEL).rename(bundle / "models/model.ts")


def damage_torchscript(bundle: Path) -> None:
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(bundle / MODEL))


def damage_missing_configuration(bundle: Path) -> None:
    (bundle / "configs/inference.json").unlink()


def damage_nested(bundle: Path) -> None:
    (bundle / "configs/inference.json").write_text('{"a":' * 50_000)


def damage_cut_off(bundle: Path) -> None:
    (bundle / MODEL).write_bytes((bundle / MODEL).read_bytes()[:-300])


def damage_link(bundle: Path) -> None:
    (bundle / MODEL).symlink_to((bundle / MODEL).rename(bundle / "elsewhere.pt"))


def damage_linked_configuration(bundle: Path) -> None:
    path = bundle / "configs/inference.json"
    path.symlink_to(path.rename(bundle / "elsewhere.json"))


def changed_weights(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(bundle: Path) -> None:
        state = torch.load(bundle / MODEL, weights_only=True)
        torch.save(change(state) or state, bundle / MODEL)

    return damage


FIRST = "model.0.conv.unit0.conv.weight"
DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing weights": (damage_missing_weights, "has no models/model.pt"),
    "TorchScript alone": (damage_torchscript_only, "TorchScript alone, which is code"),
    "TorchScript": (damage_torchscript, "TorchScript in its model.pt, which is code"),
    "missing configuration": (damage_missing_configuration, "has no configs/inference.json"),
    "nested": (damage_nested, "configs/inference.json that is not valid"),
    "cut off": (damage_cut_off, "damaged or contains more than weights"),
    "link": (damage_link, "has a link in place of"),
    "linked configuration": (damage_linked_configuration, "has no configs/inference.json that can be read"),
    "no state": (changed_weights(lambda state: [1, 2]), "does not hold the weights of its network"),
    "empty": (changed_weights(lambda state: {"model": {}, "a": 1}), "does not hold the weights of its network"),
    "missing tensor": (
        changed_weights(lambda state: {k: t for k, t in state.items() if k != FIRST}),
        "does not hold the weights",
    ),
    "other tensor": (changed_weights(lambda state: {**state, "more": torch.ones(1)}), "does not hold the weights"),
    "other shape": (changed_weights(lambda state: {**state, FIRST: torch.ones(2)}), "does not hold the weights"),
    "text": (changed_weights(lambda state: {**state, FIRST: "x"}), "does not hold the weights"),
    "NaN": (changed_weights(lambda state: {**state, FIRST: state[FIRST] * float("nan")}), "not all finite numbers"),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_bundles_are_refused_in_one_sentence(case: str, tmp_path: Path, root: Path) -> None:
    damage, words = DAMAGE[case]
    bundle = write_bundle(tmp_path / "bundle")
    damage(bundle)
    assert words in refusal(bundle, root)


def test_archives_that_unpack_to_much_more_are_refused(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusion_segmentation.monai_bundle import archive

    monkeypatch.setattr(archive, "MAX_WEIGHT_BYTES", 10**6)
    write_bundle(tmp_path / "zoo" / "bomb")
    (tmp_path / "zoo/bomb" / MODEL).write_bytes(os.urandom(2 * 10**6))
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted((tmp_path / "zoo").rglob("*")):
            packed.write(path, path.relative_to(tmp_path / "zoo"))
    assert "larger than 1 MB" in refusal(tmp_path / "bomb.zip", root)


def test_archives_of_several_bundles_are_refused(tmp_path: Path) -> None:
    for name in ("ball", "core"):
        write_bundle(tmp_path / "zoo" / name)
    packed = shutil.make_archive(str(tmp_path / "download"), "zip", tmp_path / "zoo")
    with pytest.raises(ModelError, match="has 2 bundles; give the archive of one"):
        any_model.add(Path(packed))


def test_a_bundle_that_was_not_added_cannot_be_run(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "spleen")
    with pytest.raises(ModelError, match="'spleen' is a MONAI bundle; add it first with `diffusion-segmentation"):
        any_model.segment(Request(tmp_path / "a.nrrd", tmp_path / "result", str(bundle)))


def test_a_full_disk_is_not_blamed_on_the_bundle(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("diffusion_segmentation.model.weights.safetensors.save_file", fail)
    assert "The disk is full; free some space" in refusal(write_bundle(tmp_path / "bundle"), root)


class Canary:
    """An object whose pickle creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self._path), "w")


@pytest.mark.parametrize(
    "write",
    [
        torch.save,
        lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2)),
        lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    ],
    ids=["torch", "pickle", "old torch"],
)
@pytest.mark.parametrize("forced", [False, True])
def test_a_pickle_never_runs(
    write: Callable[[Any, Path], None], forced: bool, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, canary = write_bundle(tmp_path / "bundle"), tmp_path / "canary"
    content = {"model": torch.load(bundle / MODEL, weights_only=True), "epoch": Canary(canary)}
    write(content, bundle / MODEL)
    if forced:  # a switch of PyTorch for programs that do not ask for safe loading themselves
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    assert "contains more than weights" in refusal(bundle, root)
    assert not canary.exists()
    with contextlib.suppress(Exception):
        torch.load(bundle / MODEL, weights_only=False)
    assert canary.exists()  # it would have been created


def test_networks_are_never_built_from_refused_arguments(tmp_path: Path, root: Path, monkeypatch: Any) -> None:
    def built(*_: Any, **__: Any) -> None:
        raise AssertionError("a network was built")

    bundle = write_bundle(tmp_path / "bundle", with_network(channels=[4, 10**9]), weights={"a": torch.ones(1)})
    monkeypatch.setattr(nets.UNet, "__init__", built)
    assert "'channels'" in refusal(bundle, root)
