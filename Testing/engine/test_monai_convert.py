"""MONAI bundles are converted once, from folders and archives."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai_bundles import (
    MODEL,
    SPACING,
    inference,
    network,
    random_network,
    transforms,
    write_bundle,
)
from safetensors.torch import load_file

from diffusion_segmentation import any_model
from diffusion_segmentation.errors import DiffusionSegmentationError, ModelError
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.model import installed
from diffusion_segmentation.monai_bundle.model import read_model
from diffusion_segmentation.runtime.locations import MODELS_VARIABLE


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "installed"))
    return tmp_path / "installed"


def test_a_bundle_becomes_a_model_that_is_listed_found_and_removed(tmp_path: Path, root: Path) -> None:
    bundle = write_bundle(tmp_path / "spleen ct")
    folder = any_model.add(bundle)
    assert folder == root / "spleen_ct" == models.find(folder.name)
    assert {path.name for path in folder.iterdir()} == {"metadata.json", "source.json", "model.safetensors"}
    model = read_model(folder)
    assert model.section["kind"] == "monai" and model.section["title"] == "Ball and core (MONAI UNet)"
    assert [label["name"] for label in model.section["labels"]] == ["ball", "core"]
    assert model.section["inputs"] == [{"name": "image"}] and model.metadata["intended_use"] == "Tests"
    assert model.settings["inferer"] == {"roi_size": [16, 16, 16], "overlap": 0.5}
    [listed] = [m for m in installed.installed() if m["diffusion_segmentation"]["name"] == folder.name]
    assert listed["installed"]["source"] == str(bundle.resolve())
    assert any_model.add(folder, "copy") == root / "copy"
    assert installed.remove(folder.name) == folder and not folder.exists()


@pytest.mark.parametrize("archive", ["zip", "gztar"])
def test_an_archive_of_a_bundle_is_added(archive: str, tmp_path: Path, root: Path) -> None:
    write_bundle(tmp_path / "zoo" / "ball_mr")
    packed = shutil.make_archive(str(tmp_path / "download"), archive, tmp_path / "zoo", "ball_mr")
    assert any_model.add(Path(packed)) == root / "ball_mr"
    assert {path.name for path in root.iterdir()} == {"ball_mr"}


def test_weights_are_stored_once_and_unchanged(tmp_path: Path) -> None:
    definition = network("DynUNet")  # its layers have two names or more
    state = random_network(definition).state_dict()
    folder = any_model.add(write_bundle(tmp_path / "b", inference(network_def=definition), weights=state), "mine")
    stored = load_file(folder / "model.safetensors")
    assert len(stored) < len(state) and all(torch.equal(tensor, state[name]) for name, tensor in stored.items())
    loaded = read_model(folder).network.state_dict()
    assert set(loaded) == set(state) and all(torch.equal(tensor, state[name]) for name, tensor in loaded.items())


def test_references_choices_and_sums_are_resolved(tmp_path: Path) -> None:
    config = inference(
        shown={"fine": False, "overlap": 0.375, "batch": 1},
        first=transforms(SPACING)["transforms"][:2],
        image_key="image",
        pixdim="$[1.5, 1.5, 1.5] if @shown#fine else [3.0, 3.0, -1]",
        file="$'model.pt' if @shown::fine else 'coarse.pt'",
        last=[{"_target_": "monai.transforms.SpacingD", "keys": "@image_key", "pixdim": "@pixdim"}],
    )
    config["preprocessing"]["transforms"] = "$@first + @last"
    config["network_def"] |= {"_target_": "monai.networks.nets.UNet", "out_channels": "$@classes", "act": "@act"}
    config |= {"classes": "$2 + 1", "act": "$'PRELU'"}
    config["inferer"] |= {
        "overlap": "@shown#overlap",
        "sw_batch_size": "@shown#batch",
        "device": "$torch.device('cpu')",
    }
    config["checkpointloader"]["load_path"] = "$@bundle_root + '/models/' + @file"
    sound = inference()
    bundle = write_bundle(tmp_path / "bundle", config, weights=random_network(sound["network_def"]).state_dict())
    (bundle / MODEL).rename(bundle / "models/coarse.pt")
    settings = read_model(any_model.add(bundle, "mine")).settings
    assert settings["preprocessing"] == [{"transform": "Spacing", "pixdim": [3.0, 3.0, -1]}]
    assert settings["inferer"]["overlap"] == 0.375 and settings["network"]["options"]["out_channels"] == 3


def test_a_configuration_in_yaml_is_read(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    bundle = write_bundle(tmp_path / "bundle")
    (bundle / "configs/inference.json").rename(bundle / "configs/inference.yaml")
    (bundle / "configs/inference.yaml").write_text(yaml.safe_dump(inference()))
    settings = read_model(any_model.add(bundle, "yaml")).settings
    assert settings["inferer"] == {"roi_size": [16, 16, 16], "overlap": 0.5}


def test_the_size_of_images_of_old_networks_is_left_out(tmp_path: Path) -> None:
    definition = network("SwinUNETR")
    config = inference(network_def={**definition, "img_size": 96})
    config["inferer"]["roi_size"] = [64, 32, 32]
    folder = any_model.add(
        write_bundle(tmp_path / "b", config, weights=random_network(definition).state_dict()), "mine"
    )
    assert "img_size" not in read_model(folder).settings["network"]["options"]


def test_what_needs_a_denoiser_refuses_a_bundle(tmp_path: Path) -> None:
    folder = any_model.add(write_bundle(tmp_path / "bundle"), "mine")
    with pytest.raises(DiffusionSegmentationError, match="a network of MONAI, which has no denoiser"):
        models.load(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda section: section["monai"]["network"].update({"class": "os.system"}), "wrong in its entry 'monai'"),
        (lambda section: section["monai"]["preprocessing"].clear(), "differs from its checksum"),
        (lambda section: section["labels"][0].update(name="core"), "differs from its checksum"),
        (lambda section: section["weights"].update(sha256="0" * 64), "differs from its checksum"),
        (lambda section: section["weights"].update(bytes=0), "wrong in its entry 'weights'"),
    ],
)
def test_edited_metadata_of_a_bundle_are_refused(change: Callable[[Any], None], words: str, tmp_path: Path) -> None:
    folder = any_model.add(write_bundle(tmp_path / "bundle"), "mine")
    path = folder / "metadata.json"
    described = json.loads(path.read_text())
    change(described["diffusion_segmentation"])
    path.write_text(json.dumps(described))
    with pytest.raises(ModelError, match=words):
        read_model(folder)
