"""Training on a task with a known answer, in two and three dimensions: from its name to samples of a model."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from diffusion_segmentation.diffusion.copula import Covariance
from diffusion_segmentation.errors import InputError, ModelError
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.phantoms import phantom
from diffusion_segmentation.segmentation.pipeline import Request, segment
from diffusion_segmentation.segmentation.sampler import draw
from diffusion_segmentation.training import train
from diffusion_segmentation.training.settings import Optimisation
from diffusion_segmentation.training.sources import open_source

TASK = "boundary:16x16"

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
    image = known.draw(np.random.default_rng(0)).image
    samples, again = (draw(model, image, 4, model.step_grid(3), seed=1) for _ in range(2))
    assert samples.masks.shape == (4, *known.shape) and samples.masks.dtype == np.uint8
    np.testing.assert_allclose(samples.mean.sum(0), 1, atol=1e-5)
    np.testing.assert_array_equal(again.masks, samples.masks)


@pytest.mark.slow
def test_a_model_for_pictures_segments_volumes_slice_by_slice_and_says_so(config, tmp_path, a_head_file):
    folder, volume = train.main("boundary:16x16", tmp_path / "model", config), tmp_path / "slices.nrrd"
    sitk.WriteImage(sitk.ReadImage(a_head_file)[:, :, 14:18], volume)
    report = segment(Request(volume, tmp_path / "out", str(folder), samples=1, steps=2, device="cpu")).report
    assert any("slices were segmented one by one" in warning for warning in report["warnings"])


def test_each_image_comes_with_several_draws_from_its_posterior(tmp_path):
    source = open_source("lesions", tmp_path)
    image, masks = next(iter(source.stream(Optimisation(draws=4, shapes=((32, 32),)), 0)))
    assert image.shape == (1, 32, 32) and masks.shape == (4, 32, 32)
    assert len(torch.unique(masks.flatten(1), dim=0)) > 1


@pytest.mark.parametrize(
    ("text", "words"),
    [("nowhere", "'nowhere' is neither a folder"), ("lesions:3", "3 is not possible"), ("p.npz", "'p.npz'")],
)
def test_unknown_data_are_refused_in_one_sentence(text, words, tmp_path):
    with pytest.raises(InputError, match=words) as caught:
        open_source(text, tmp_path)
    assert str(caught.value).endswith(".")


@pytest.mark.slow
def test_ctrl_c_keeps_a_checkpoint_and_resume_continues(config, tmp_path, monkeypatch):
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


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A model with a correlated start, for TASK."""
    folder = tmp_path_factory.mktemp("started")
    (folder / "config.json").write_text(json.dumps(SMALL), encoding="utf-8")
    model = models.load(train.main(TASK, folder / "model", folder / "config.json"))
    covariance = Covariance((4.0,), np.full((model.classes, 1), 0.9), np.full(model.classes, 0.1))
    metadata = model.with_start(models.Start(covariance, None)).metadata
    models.save(folder / "model", metadata, model.encoder, model.denoiser)
    return str(folder / "model")


def changed(config, section=None, **optimisation):
    """The configuration, with other entries."""
    changes = {"diffusion_segmentation": section or {}, "optimisation": optimisation}
    config.write_text(json.dumps(train.merged(SMALL, changes)), encoding="utf-8")
    return config


def test_without_a_start_no_lowest_noise_level_is_accepted(config, tmp_path):
    with pytest.raises(InputError, match="'lowest_log_snr'.* --start"):
        train.main(TASK, tmp_path / "model", changed(config, lowest_log_snr=-3.0))
    assert not (tmp_path / "model").exists()


def test_a_model_that_could_not_be_loaded_is_not_saved(config, tmp_path, monkeypatch):
    """The metadata has a lowest noise level without the start that it requires."""
    source = open_source(TASK, tmp_path)
    run = train.Run(train.merged(source.settings(), SMALL), Optimisation(lowest_log_snr=-3.0), source, None)
    monkeypatch.setattr(run, "curve", lambda: train.UNTRAINED["loss_curve"])
    lost = run.metadata()
    assert lost["diffusion_segmentation"]["process"]["lowest_log_snr"] == -3
    monkeypatch.setattr(train.Run, "metadata", lambda self: lost)
    with pytest.raises(InputError, match="'start'"):
        train.main(TASK, tmp_path / "model", config)
    assert (tmp_path / "model" / "checkpoint.ckpt").exists()
    assert not (tmp_path / "model" / "model.safetensors").exists()


@pytest.mark.slow
def test_the_highest_of_the_lowest_noise_levels_makes_a_model_that_loads(config, started, tmp_path):
    changed(config, lowest_log_snr=3.0)
    assert models.load(train.main(TASK, tmp_path / "model", config, start=started)).lowest_log_snr == 3
    with pytest.raises(InputError, match="'lowest_log_snr' .* -12 to 3"):
        train.main(TASK, tmp_path / "other", changed(config, lowest_log_snr=3.1), start=started)


@pytest.mark.slow
def test_a_resumed_training_keeps_its_lowest_noise_level(config, started, tmp_path):
    folder = train.main(TASK, tmp_path / "model", changed(config, lowest_log_snr=-3.0), start=started)
    before = (folder / "checkpoint.ckpt").read_bytes()
    for other in (-2.0, -12.0):
        with pytest.raises(InputError, match=f"-3 for its 'lowest_log_snr' and the configuration {other:g}"):
            train.main(TASK, folder, changed(config, lowest_log_snr=other, iterations=6), resume=True)
    assert (folder / "checkpoint.ckpt").read_bytes() == before
    train.main(TASK, folder, changed(config, lowest_log_snr=-3.0, iterations=6), resume=True)
    assert models.load(folder).section["training"]["iterations"] == 6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "section", "differs"),
    [
        ("lesions:16x16", {}, "labels"),
        (TASK, {"labels": [{"id": "another"}]}, "labels"),
        (TASK, {"working_spacing_mm": 3.0}, "working_spacing_mm"),
        (TASK, {"intensity": {"window": [0, 1]}}, "intensity"),
    ],
)
@pytest.mark.parametrize("optimisation", [{"learns": "denoiser"}, {"lowest_log_snr": -3.0}])
def test_a_start_with_fixed_parts_requires_the_same_structures_and_images(
    task, section, differs, optimisation, config, started, tmp_path
):
    if "labels" in section:
        defaults = open_source(task, tmp_path).settings()["diffusion_segmentation"]["labels"]
        section = {"labels": [default | entry for default, entry in zip(defaults, section["labels"], strict=True)]}
    with pytest.raises(ModelError, match=f"differ in '{differs}'") as caught:
        train.main(task, tmp_path / "model", changed(config, section, **optimisation), start=started)
    assert str(caught.value).endswith(".") and not (tmp_path / "model").exists()


@pytest.mark.slow
def test_a_failed_fit_of_input_statistics_does_not_discard_the_model(config, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(train, "fit_input_statistics", fail)
    model = models.load(train.main(TASK, tmp_path / "model", config))
    assert model.input_statistics is None and (tmp_path / "model" / "training.json").exists()
    assert "warning: the input statistics could not be fitted (out of memory)\n" in capsys.readouterr().err
