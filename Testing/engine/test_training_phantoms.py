"""Training on a task with a known answer, in two and three dimensions: from its name to samples of a model."""

import json

import numpy as np
import pytest
import torch

from diffusion_segmentation.errors import InputError, ModelError
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.phantoms import phantom
from diffusion_segmentation.segmentation.pipeline import Request, segment
from diffusion_segmentation.segmentation.sampler import draw
from diffusion_segmentation.training import train
from diffusion_segmentation.training.settings import Optimisation
from diffusion_segmentation.training.sources import open_source

SMALL = {
    "diffusion_segmentation": {
        "network": {"encoder": {"channels": [8, 8], "blocks": [1, 1]}, "denoiser": {"channels": [8, 8], "blocks": 1}}
    },
    "optimisation": {"iterations": 4, "batch": 2, "warm_up": 1},
}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(SMALL), encoding="utf-8")
    return path


@pytest.mark.parametrize("task", ["boundary:16x16", pytest.param("lesions:16x16x16", marks=pytest.mark.slow)])
def test_a_phantoms_name_is_enough_to_train_on_it(task, config, tmp_path):
    model = models.load(train.main(task, tmp_path / "model", config))
    known = phantom(task)
    assert model.dims == len(known.shape) and model.classes == known.classes
    assert model.section["training"]["data"] == {"kind": "phantom", "task": task}
    images = np.stack([known.draw(np.random.default_rng(n)).image for n in range(3)])
    drawn = draw(model, images, 4, model.step_grid(3), seed=1)
    assert drawn.masks.shape == (3, 4, *known.shape) and drawn.masks.dtype == np.uint8
    np.testing.assert_allclose(drawn.mean.sum(1), 1, atol=1e-5)
    # A case's samples do not depend on the cases beside it.
    alone = draw(model, images[:1], 4, model.step_grid(3), seed=1)
    assert (alone.masks[0] == drawn.masks[0]).mean() > 0.999


def test_a_model_for_pictures_does_not_segment_volumes(config, tmp_path, a_head_file):
    folder = train.main("boundary:16x16", tmp_path / "model", config)
    with pytest.raises(ModelError, match="2-D"):
        segment(Request(a_head_file, tmp_path / "out", str(folder), device="cpu"))


def test_each_image_comes_with_several_draws_from_its_posterior(tmp_path):
    source = open_source("lesions", tmp_path)
    image, masks = next(iter(source.stream(Optimisation(draws=4, shapes=((32, 32),)), 0)))
    assert image.shape == (1, 32, 32) and masks.shape == (4, 32, 32)
    assert len(torch.unique(masks.flatten(1), dim=0)) > 1


@pytest.mark.parametrize(
    ("text", "words"), [("nowhere", "'nowhere' is no folder"), ("lesions:3", "3 is not possible"), ("p.npz", "'p.npz'")]
)
def test_data_that_is_nothing_known_is_one_sentence(text, words, tmp_path):
    with pytest.raises(InputError, match=words) as caught:
        open_source(text, tmp_path)
    assert str(caught.value).endswith(".")


def test_ctrl_c_keeps_what_is_done_and_resume_goes_on(config, tmp_path, monkeypatch):
    training_step = train.Segmenter.training_step

    def interrupted(self, batch, index):
        if self.global_step == 2:
            raise KeyboardInterrupt
        return training_step(self, batch, index)

    monkeypatch.setattr(train.Segmenter, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train.main("boundary:16x16", tmp_path / "model", config)
    assert not (tmp_path / "model" / "model.safetensors").exists()
    monkeypatch.undo()
    model = models.load(train.main("boundary:16x16", tmp_path / "model", config, resume=True))
    assert model.section["training"]["iterations"] == 4
