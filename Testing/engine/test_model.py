"""Model folders: a saved model is loaded, and errors are one sentence."""

import json
import shutil

import numpy as np
import pytest
import torch

from diffusion_segmentation.errors import ModelError
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.model.cache import ModelCache


@pytest.fixture
def folder(a_model_folder, tmp_path):
    return shutil.copytree(a_model_folder, tmp_path / "a model ü")


def change(folder, edit) -> None:
    metadata = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    edit(metadata["diffusion_segmentation"])
    (folder / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")


def sentence(folder) -> str:
    with pytest.raises(ModelError) as caught:
        models.load(folder)
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text and str(folder.parent) not in text
    return text


def test_a_saved_model_is_loaded_unchanged(folder):
    model = models.load(folder)
    assert model.classes == 3 and model.spacing == 4.0 and model.multiple == 4
    assert not model.encoder.training and not any(p.requires_grad for p in model.denoiser.parameters())
    assert len(model.step_grid(5)) == 5


def test_saving_twice_gives_the_same_bytes(folder, tmp_path):
    model = models.load(folder)
    models.save(tmp_path / "again", model.metadata, model.encoder, model.denoiser)
    for name in ("metadata.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_wrong_checksum(folder):
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    assert "checksum" in sentence(folder)


def test_missing_weights(folder):
    (folder / "model.safetensors").unlink()
    assert "has no model.safetensors" in sentence(folder)


def test_missing_metadata(folder):
    (folder / "metadata.json").unlink()
    assert "metadata.json" in sentence(folder)


def test_another_schema(folder):
    change(folder, lambda section: section.update(schema=99))
    assert "schema version 99" in sentence(folder)


@pytest.mark.parametrize(
    "edit",
    [
        lambda s: s.update(labels="none"),
        lambda s: s["labels"][0].update(label=5),
        lambda s: s["labels"][0].pop("terminology"),
        lambda s: s.update(working_spacing_mm=0),
        lambda s: s.update(window=[64, 64]),
        lambda s: s.update(map_source="dreams"),
        lambda s: s.pop("process"),
        lambda s: s["input_range"].pop("spacing_mm"),
    ],
)
def test_incomplete_metadata(folder, edit):
    change(folder, edit)
    assert "incomplete" in sentence(folder)


@pytest.mark.parametrize("channels", [[8, 10_000], [8], "many", [8, 12], [8, 16.0]])
def test_network_that_cannot_be_built(folder, channels):
    change(folder, lambda s: s["network"]["encoder"].update(channels=channels))
    assert "entry 'network'" in sentence(folder)


@pytest.mark.parametrize(
    "entry",
    [
        {"strata": 100_000},
        {"strata": -1},
        {"strata": "8"},
        {"gain": 1e9},
        {"gain": -1},
        {"gain": "much"},
        {"pool_variances": 1},
        {"pools": [4, 4], "pool_variances": True},
        {"pools": [0, 6, 4], "pool_variances": True},  # blocks of 4 are not parts of blocks of 6
    ],
)
def test_denoiser_that_cannot_be_built(folder, entry):
    change(folder, lambda s: s["network"]["denoiser"].update(entry))
    assert "entry 'network'" in sentence(folder)


def test_weights_of_another_network(folder):
    change(folder, lambda s: s["network"]["encoder"].update(channels=[16, 16]))
    assert "do not fit" in sentence(folder)


def test_weights_that_are_not_finite_are_refused(folder):
    model = models.load(folder)
    model.encoder.head.bias.data[0] = torch.nan
    models.save(folder, model.metadata, model.encoder, model.denoiser)
    assert "finite" in sentence(folder)


def test_unknown_name_is_answered_with_what_there_is():
    with pytest.raises(ModelError, match="no model"):
        models.find("nowhere/none")


def test_step_grid_comes_from_the_stored_curve(folder):
    first = models.load(folder).step_grid(4)
    change(folder, lambda s: s["process"]["loss_curve"].update(cross_entropy=[0.9, 0.1, 0.05, 0.0]))
    assert not np.allclose(models.load(folder).step_grid(4), first)


def test_memory_is_searched_for_garbage_only_after_a_model(folder, tmp_path, monkeypatch):
    """The search takes 0.15 s, which the first run need not wait for."""
    searched, cache, cpu = [], ModelCache(), torch.device("cpu")
    monkeypatch.setattr("diffusion_segmentation.model.cache.empty_cache", searched.append)
    first = cache.get(str(folder), cpu)
    assert cache.get(str(folder), cpu) is first and searched == []
    cache.get(str(shutil.copytree(folder, tmp_path / "another")), cpu)
    assert searched == [cpu]
