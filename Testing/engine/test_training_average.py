"""Mean of the weights of two models of the same origin."""

import copy

import numpy as np
import pytest
import torch

from diffusion_segmentation.errors import InputError, ModelError
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.model.building import build
from diffusion_segmentation.model.seen_cases import seen_cases
from diffusion_segmentation.training import average as averaging
from diffusion_segmentation.training.average import average
from diffusion_segmentation.training.sources import open_source


@pytest.fixture
def ancestor(tmp_path):
    """A small model with a calibration, and cases that it was trained on."""
    settings = copy.deepcopy(open_source("boundary:16x16", tmp_path).settings())
    section = settings["diffusion_segmentation"]
    section["network"] |= {
        "encoder": {"channels": [8, 8], "blocks": [1, 1]},
        "denoiser": {"channels": [8, 8], "blocks": 1},
    }
    section |= {"name": "ancestor", "calibration": {"cases": 3}, "training": training("A")}
    section["process"]["loss_curve"] = {"log_snr": [-11.0, 0.0, 8.0], "cross_entropy": [0.3, 0.2, 0.0]}
    return written(tmp_path / "ancestor", {"version": "1", **settings["bundle"], "diffusion_segmentation": section}, 1)


def training(case, started_from=None):
    data = {"kind": "folder", "name": "Clinic", "cases": [case]}
    return {"data": data} | ({"started_from": started_from} if started_from else {})


def written(folder, metadata, seed):
    torch.manual_seed(seed)
    networks = build(metadata["diffusion_segmentation"]["network"], 2)
    with torch.no_grad():
        for network in networks:
            for weight in network.parameters():
                weight.normal_(0, 0.1)
    models.save(folder, metadata, *networks)
    return folder


def descendant(ancestor, folder, **changes):
    metadata = copy.deepcopy(models.load(ancestor).metadata)
    section = metadata["diffusion_segmentation"]
    before = {"name": "ancestor", "version": "1", "sha256": section["sha256"], "training": section["training"]}
    section |= {"name": folder.name, "training": training("B", before)}
    section["network"] |= changes
    return written(folder, metadata, 2)


def weights(folder):
    model = models.load(folder)
    return {
        (part, name): tensor.float().numpy()
        for part in ("encoder", "denoiser")
        for name, tensor in getattr(model, part).state_dict().items()
    }


def test_weights_are_the_mean_and_what_was_fitted_is_left_out(ancestor, tmp_path):
    further = descendant(ancestor, tmp_path / "further")
    result = average(str(further), str(ancestor), tmp_path / "mean", share=0.25)
    one, two, mean = map(weights, (further, ancestor, tmp_path / "mean"))
    for name, tensor in mean.items():
        np.testing.assert_allclose(tensor, 0.75 * one[name] + 0.25 * two[name], atol=1e-3)
    section = models.load(tmp_path / "mean").section
    assert result == {"name": "further", "share": 0.25, "denoiser": True} and "calibration" not in section
    assert section["training"]["averaged_with"]["sha256"] == models.load(ancestor).section["sha256"]


def test_the_cases_of_both_models_count_as_seen(ancestor, tmp_path):
    further = descendant(ancestor, tmp_path / "further")
    average(str(ancestor), str(further), tmp_path / "mean")
    assert seen_cases(models.load(tmp_path / "mean").section, "Clinic") == {"A", "B"}


def test_another_denoiser_is_kept(ancestor, tmp_path):
    further = descendant(ancestor, tmp_path / "further", denoiser={"channels": [8, 16], "blocks": 1})
    result = average(str(further), str(ancestor), tmp_path / "mean")
    one, mean = weights(further), weights(tmp_path / "mean")
    assert all(np.array_equal(mean[name], one[name]) for name in mean if name[0] == "denoiser")
    assert not result["denoiser"] and "that of the first model was kept" in averaging.text(result, tmp_path)


def test_no_blocks_are_the_same_as_none_named(ancestor, tmp_path):
    further = descendant(ancestor, tmp_path / "further", denoiser={"channels": [8, 8], "blocks": 1, "pools": []})
    assert average(str(further), str(ancestor), tmp_path / "mean")["denoiser"]


def test_models_whose_weights_have_no_mean_are_refused(ancestor, tmp_path):
    metadata = models.load(ancestor).metadata
    written(tmp_path / "stranger", metadata, 3)
    wider = descendant(ancestor, tmp_path / "wider", encoder={"channels": [16, 8], "blocks": [1, 1]})
    for other, sentence in ((tmp_path / "stranger", "did not start from the same weights"), (wider, "encoders")):
        with pytest.raises(ModelError, match=sentence):
            average(str(ancestor), str(other), tmp_path / "mean")
    coarser = models.load(descendant(ancestor, tmp_path / "further")).metadata
    coarser["diffusion_segmentation"]["working_spacing_mm"] *= 2
    with pytest.raises(ModelError, match="too different"):
        average(str(ancestor), str(written(tmp_path / "coarser", coarser, 5)), tmp_path / "mean")
    metadata["diffusion_segmentation"]["labels"][0]["id"] = "other"
    with pytest.raises(ModelError, match="other structures"):
        average(str(ancestor), str(written(tmp_path / "labels", metadata, 4)), tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


def test_neither_model_is_overwritten(ancestor, tmp_path):
    further = descendant(ancestor, tmp_path / "further")
    before = weights(further)
    for one, other in ((further, ancestor), (ancestor, further)):
        with pytest.raises(InputError, match="would overwrite"):
            average(str(one), str(other), further)
    assert all(np.array_equal(tensor, before[name]) for name, tensor in weights(further).items())
