"""Bundles with random faults in their JSON files are converted or refused in one sentence, and nothing they name is
imported or run."""

from __future__ import annotations

import contextlib
import json
import random
from pathlib import Path

import pytest
from hostile_json import BAIT, damaged, hostile_values, outcome
from monai_bundles import SCALED, SPACING, inference, metadata, transforms, write_bundle

from diffusion_segmentation import any_model
from diffusion_segmentation.model.monai_metadata import digest_of_model
from diffusion_segmentation.monai_bundle.model import read_model
from diffusion_segmentation.runtime.locations import MODELS_VARIABLE

BUNDLES = 100
ORIENTED = {"_target_": "Orientationd", "axcodes": "RAS"}
CROP = {"_target_": "CropForegroundd", "source_key": "image", "margin": [1, 1, 1]}
CONFIG = inference(preprocessing=transforms(ORIENTED, SPACING, CROP, SCALED))


@pytest.fixture
def bait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that an import of BAIT, or an evaluation of the expressions below, creates."""
    file = tmp_path / "imported"
    (tmp_path / f"{BAIT}.py").write_text(f"open({str(file)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "installed"))
    return file


@pytest.mark.slow
def test_faults_of_a_bundle(tmp_path: Path, bait: Path) -> None:
    draw, accepted = random.Random(0), 0
    bundle, values = write_bundle(tmp_path / "bundle", CONFIG), hostile_values(bait)
    names = ("_disabled_", "_target_", "dropout", "act", "overlap", "mode", "lazy", "reader", BAIT)
    for number in range(BUNDLES):
        inferred = draw.random() < 0.8
        files = {"inference": CONFIG, "metadata": metadata()}
        which = "inference" if inferred else "metadata"
        files[which] = damaged(files[which], draw, values, names)
        for file, value in files.items():
            (bundle / f"configs/{file}.json").write_text(json.dumps(value), encoding="utf-8")
        name = f"model-{number}"
        if outcome(lambda name=name: any_model.add(bundle, name)):
            accepted += 1
            assert sum(p.numel() for p in read_model(tmp_path / "installed" / name).network.parameters()) > 0
    print(f"{accepted} of {BUNDLES} bundles were accepted")
    assert 0 < accepted < BUNDLES and not bait.exists()


def test_faults_of_the_metadata_of_a_converted_bundle(tmp_path: Path, bait: Path) -> None:
    folder = any_model.add(write_bundle(tmp_path / "bundle", CONFIG), "mine")
    sound = json.loads((folder / "metadata.json").read_text())
    draw, accepted, values = random.Random(2), 0, hostile_values(bait)
    names = ("dropout", "act", "transform", "mode", "overlap", "norm", BAIT)
    for _ in range(BUNDLES):
        content = damaged(sound, draw, values, names)
        with contextlib.suppress(KeyError, TypeError):  # the author of a hostile folder can compute its checksum
            section = content["diffusion_segmentation"]
            section["sha256"] = digest_of_model(section)
        (folder / "metadata.json").write_text(json.dumps(content), encoding="utf-8")
        accepted += outcome(lambda: read_model(folder).network)
    print(f"{accepted} of {BUNDLES} folders were accepted")
    assert 0 < accepted < BUNDLES and not bait.exists()
