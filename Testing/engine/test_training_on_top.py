"""Training a sampler on top of a frozen segmenter."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ball_dataset import change_dataset
from test_training_folder import SMALL

from diffusion_segmentation.errors import InputError, ModelError
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.model.seen_cases import seen_cases
from diffusion_segmentation.networks import FrozenHead, space_to_depth
from diffusion_segmentation.phantoms import phantom
from diffusion_segmentation.segmentation.sampler import draw
from diffusion_segmentation.training import on_top, train
from diffusion_segmentation.training.folder import Folder

TASK = "boundary:16x16"
TINY = {
    "diffusion_segmentation": {
        "network": {"encoder": {"channels": [8, 8], "blocks": [1, 1]}, "denoiser": {"channels": [8, 8], "blocks": 1}},
        "steps": {"cpu": 3, "gpu": 3},
    },
    "optimisation": {"iterations": 3, "warm_up": 1},
}


@pytest.fixture(scope="module")
def frozen_and_sampler(tmp_path_factory):
    """Folders of a model and of a sampler on top of it, side by side."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "tiny.json").write_text(json.dumps(TINY))
    frozen = train.main(TASK, folder / "frozen", folder / "tiny.json")
    return frozen, train.main(TASK, folder / "sampler", folder / "tiny.json", on=str(frozen))


@pytest.mark.slow
def test_the_frozen_network_is_the_direct_head_over_a_temperature(frozen_and_sampler):
    frozen, sampler = (models.load(folder) for folder in frozen_and_sampler)
    assert isinstance(sampler.encoder, FrozenHead)
    image = torch.from_numpy(phantom(TASK).draw(np.random.default_rng(0)).image)[None, None]
    temperature = sampler.section["frozen"]["temperature"]
    torch.testing.assert_close(sampler.encoder(image)[1], frozen.encoder(image)[1] / temperature)
    assert sampler.section["labels"] == frozen.section["labels"] and sampler.input_statistics is None


@pytest.mark.slow
def test_the_denoiser_sees_the_image_and_the_frozen_probabilities(frozen_and_sampler):
    sampler = models.load(frozen_and_sampler[1])
    image = torch.from_numpy(phantom(TASK).draw(np.random.default_rng(0)).image)[None, None]
    features = sampler.encoder(image)[0]
    other = sampler.encoder(image + 0.1 * torch.randn_like(image))[0]
    assert features.shape == (1, 8, 8, 8) and (features != other).any()
    seen = []
    sampler.encoder.thin.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    sampler.encoder(image)
    assert seen[0].shape == (1, 3, 16, 16) and torch.equal(seen[0][:, :1], image)
    torch.testing.assert_close(seen[0][:, 1:].sum(1), torch.ones(1, 16, 16))


@pytest.mark.slow
def test_only_new_weights_are_written(frozen_and_sampler):
    frozen, sampler = frozen_and_sampler
    names = models.read_weights(sampler, "model.safetensors", models.load(sampler).section["sha256"], 10**7)
    assert not any("frozen" in name for name in names) and any(name.startswith("encoder.stem") for name in names)
    section = models.load(sampler).section
    assert section["frozen"]["sha256"] == models.load(frozen).section["sha256"]


@pytest.mark.slow
def test_samples_are_drawn_and_repeat(frozen_and_sampler):
    sampler = models.load(frozen_and_sampler[1])
    image = phantom(TASK).draw(np.random.default_rng(0)).image
    one, same = (draw(sampler, image, 4, sampler.step_grid(3), 0) for _ in range(2))
    np.testing.assert_array_equal(one.masks, same.masks)
    assert one.masks.shape == (4, 16, 16) and (one.masks != one.masks[0]).any()


@pytest.mark.slow
def test_without_the_frozen_model_one_sentence_names_it(frozen_and_sampler, tmp_path):
    alone = shutil.copytree(frozen_and_sampler[1], tmp_path / "sampler")
    with pytest.raises(ModelError, match="needs the model 'phantom-boundary-2d' .* models add") as caught:
        models.load(alone)
    assert str(caught.value).count(". ") == 0


@pytest.mark.slow
def test_another_model_of_that_name_is_not_taken(frozen_and_sampler, tmp_path):
    alone = shutil.copytree(frozen_and_sampler[1], tmp_path / "sampler")
    settings = {**TINY, "optimisation": {**TINY["optimisation"], "seed": 2}}
    (tmp_path / "other.json").write_text(json.dumps(settings))
    train.main(TASK, tmp_path / "frozen", tmp_path / "other.json")
    with pytest.raises(ModelError, match="needs the model"):
        models.load(alone)


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"temperature": 0}, {"temperature": "1"}, {"sha256": "x"}, {"name": "../a"}])
def test_wrong_metadata_are_refused(frozen_and_sampler, tmp_path, change):
    folder = shutil.copytree(frozen_and_sampler[1], tmp_path / "sampler")
    metadata = json.loads((folder / "metadata.json").read_text())
    metadata["diffusion_segmentation"]["frozen"] |= change
    (folder / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(ModelError, match="in its entry 'frozen'"):
        models.load(folder)


@pytest.mark.slow
def test_a_sampler_that_sees_images_otherwise_than_the_frozen_model_is_refused(frozen_and_sampler, tmp_path):
    shutil.copytree(frozen_and_sampler[0], tmp_path / "frozen")
    folder = shutil.copytree(frozen_and_sampler[1], tmp_path / "sampler")
    metadata = json.loads((folder / "metadata.json").read_text())
    metadata["diffusion_segmentation"]["working_spacing_mm"] = 2.0
    (folder / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(ModelError, match="does not fit the model 'phantom-boundary-2d'"):
        models.load(folder)


@pytest.mark.slow
def test_a_sampler_on_top_of_a_sampler_is_refused(frozen_and_sampler, tmp_path):
    with pytest.raises(ModelError, match="was itself trained on top of another model"):
        train.main(TASK, tmp_path / "model", on=str(frozen_and_sampler[1]))


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_the_temperature_of_exact_probabilities_is_the_factor_of_their_logits(frozen_and_sampler, factor):
    frozen, rng = models.load(frozen_and_sampler[0]), np.random.default_rng(0)
    cases = [phantom("boundary:32x32").draw(rng) for _ in range(12)]
    images = [torch.from_numpy(case.image)[None, None] for case in cases]
    batches = [(image, torch.from_numpy(case.sample(rng, 1))[None]) for image, case in zip(images, cases, strict=True)]
    logits = iter([torch.from_numpy(np.log(np.clip(case.marginals, 1e-9, 1))).float()[None] for case in cases])

    def network(image):
        return None, factor * space_to_depth(next(logits))

    assert on_top.fitted_temperature(network, frozen.classes, batches) == pytest.approx(factor, rel=0.15)


@pytest.mark.slow
def test_cases_that_the_frozen_model_was_trained_on_are_left_out(ball_dataset, tmp_path):
    (tmp_path / "small.json").write_text(json.dumps(SMALL))
    frozen = train.main(str(ball_dataset), tmp_path / "frozen", tmp_path / "small.json")
    with pytest.raises(InputError, match="was trained on all but 1 of these cases"):
        train.main(str(ball_dataset), tmp_path / "sampler", tmp_path / "small.json", on=str(frozen))
    change_dataset(ball_dataset, {"name": "Other balls"})
    config = {**SMALL, "diffusion_segmentation": {"steps": {"cpu": 3, "gpu": 3}}}
    (tmp_path / "small.json").write_text(json.dumps(config))
    sampler = train.main(str(ball_dataset), tmp_path / "sampler", tmp_path / "small.json", on=str(frozen))
    assert isinstance(models.load(sampler).encoder, FrozenHead)
    assert not models.load(sampler).encoder.thin.head.weight.requires_grad
    change_dataset(ball_dataset, {"labels": {"background": 0, "vessel": 1}})
    with pytest.raises(InputError, match="must be the same"):
        train.main(str(ball_dataset), tmp_path / "other", tmp_path / "small.json", on=str(frozen))


def test_the_others_are_divided_anew(ball_dataset, tmp_path):
    source = Folder(ball_dataset, tmp_path / "prepared")
    left_out = {case.name for case in source.seen[:2]}
    assert source.without(left_out) == 3 and source.held_out
    assert not left_out & {case.name for case in (*source.seen, *source.held_out)}


@pytest.mark.slow
def test_a_training_on_top_is_resumed(frozen_and_sampler, tmp_path):
    frozen, settings = str(frozen_and_sampler[0]), json.loads(json.dumps(TINY))
    settings["optimisation"]["iterations"] = 5
    shutil.copytree(frozen_and_sampler[0], tmp_path / "frozen")
    sampler = shutil.copytree(frozen_and_sampler[1], tmp_path / "sampler")
    (tmp_path / "more.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="has other networks"):
        train.main(TASK, sampler, tmp_path / "more.json", resume=True)
    train.main(TASK, sampler, tmp_path / "more.json", resume=True, on=frozen)
    assert json.loads((sampler / "metadata.json").read_text())["diffusion_segmentation"]["training"]["iterations"] == 5


def test_cases_of_the_frozen_model_count_as_seen(ball_dataset, tmp_path):
    source = Folder(ball_dataset, tmp_path / "prepared")
    seen_before = {case.name for case in source.seen[:2]}
    source.without(seen_before)
    facts = source.facts()
    assert seen_before <= set(facts["cases"]) and not seen_before & set(facts["held_out"])
    again = Folder(ball_dataset, tmp_path / "prepared")
    again.hold_out(seen_cases({"training": {"data": facts}}, source.dataset.name))
    assert [case.name for case in again.held_out] == facts["held_out"]
    section = {"training": {"data": {}, "started_from": {"training": {"data": facts}}}}
    assert seen_cases(section, source.dataset.name) == set(facts["cases"])


@pytest.mark.parametrize("folds", [{"0": ["b"], "1": ["a"]}, {}, {"0": ["a", "c"], "1": ["b"]}])
def test_a_training_whose_cases_other_folds_predict_now_is_not_resumed(folds):
    stored = {"sha256": "0", "temperature": 2.0, "mean_temperature": 3.0, "folds": {"0": ["a"], "1": ["b"]}}
    frozen = {**stored, "kind": "nnunet", "temperature": 1.0, "folds": folds}
    run = SimpleNamespace(settings={"diffusion_segmentation": {"frozen": frozen}}, on_top=SimpleNamespace())
    if folds.get("1") == ["b"]:  # with one more case
        train._Keeper(run)._restore_frozen(stored)
        assert frozen["temperature"] == 2
        return
    with pytest.raises(InputError, match="another fold of the frozen model for some cases"):
        train._Keeper(run)._restore_frozen(stored)


@pytest.mark.slow
def test_a_training_on_top_of_another_model_is_not_resumed(frozen_and_sampler, tmp_path):
    settings = json.loads(json.dumps(TINY))
    settings["optimisation"] |= {"iterations": 5, "seed": 1}
    (tmp_path / "more.json").write_text(json.dumps(settings))
    other = train.main(TASK, tmp_path / "other", tmp_path / "more.json")
    sampler = shutil.copytree(frozen_and_sampler[1], tmp_path / "sampler")
    before = (sampler / "checkpoint.ckpt").read_bytes()
    with pytest.raises(InputError, match="on top of another model"):
        train.main(TASK, sampler, tmp_path / "more.json", resume=True, on=str(other))
    assert (sampler / "checkpoint.ckpt").read_bytes() == before


@pytest.mark.slow
def test_a_frozen_model_that_the_result_would_not_find_is_refused_before_the_training(frozen_and_sampler, tmp_path):
    with pytest.raises(ModelError, match="put its folder beside"):
        train.main(TASK, tmp_path / "elsewhere" / "sampler", on=str(frozen_and_sampler[0]))
    assert not (tmp_path / "elsewhere").exists()
