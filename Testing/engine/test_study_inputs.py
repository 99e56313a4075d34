"""A study of several inputs, of colour pictures and of slices: tasks, networks and every question."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from ball_dataset import write_ball_dataset
from test_study_run import request

from diffusion_segmentation.errors import InputError
from diffusion_segmentation.evaluation import evaluate
from diffusion_segmentation.images.input_names import Input
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.model.building import build
from diffusion_segmentation.phantoms import phantom
from diffusion_segmentation.study import adapt, fit, study
from diffusion_segmentation.study.architectures.catalogue import ARCHITECTURES, flops, scaled
from diffusion_segmentation.study.context import Context
from diffusion_segmentation.study.questions import complete
from diffusion_segmentation.study.sampling import VariantSampler, direct_probabilities
from diffusion_segmentation.study.tasks import TEST, TRAIN, VALIDATION, Sizes, plan, prepare
from diffusion_segmentation.study.variants import Variant
from diffusion_segmentation.training.sources import Phantoms

SPLIT = "split:16x16"
SIZES = Sizes(train=16, validation=8, test=2)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return prepare(SPLIT, tmp_path_factory.mktemp("cache"), SIZES, further=True)


def randomised(network):
    """A network whose last layers are not 0, as those of a new one are."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


def test_a_task_of_two_inputs_has_both_and_the_posterior_of_their_sum(split):
    images, masks = split.arrays(TRAIN)
    assert images.shape == (16, 2, 16, 16) and masks.shape == (16, 8, 16, 16)
    assert split.inputs == (Input("First"), Input("Second")) and split.channels == 2
    truth = split.truth(0)
    assert truth.case.image.shape == (2, 16, 16) and truth.anywhere.shape == (16, 16)
    mean, deviation = split.image_statistics()
    np.testing.assert_allclose(mean[:, 0, 0], images.mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(deviation[:, 0, 0], images.std((0, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_sees_every_input(name):
    network = randomised(ARCHITECTURES[name](2, 2, 8, inputs=3))
    images = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        first = network.direct(images)
        for channel in range(3):
            changed = images.clone()
            changed[:, channel] += 1
            assert (network.direct(changed) - first).abs().max() > 1e-4, channel
    one = flops(ARCHITECTURES[name](2, 2, 8), (16, 16))
    assert flops(network, (16, 16)) > one and scaled(name, 2, 2, (16, 16), one, inputs=3).inputs == 3


@pytest.mark.parametrize("form", ["diffusion", "stochastic", "image", "mask"])
def test_every_form_of_network_has_the_inputs_of_its_task(split, form):
    variant = Variant(SPLIT, form=form)
    network = fit.build(variant, split)
    training = fit.VariantTraining(network, variant, split, lambda: 0.0)
    images, masks = next(training.train_dataloader())
    assert images.shape == (8, 2, 16, 16) and torch.isfinite(training.training_step((images, masks), 0))


def test_probabilities_and_samples_depend_on_both_inputs(split):
    network = randomised(fit.build(Variant(SPLIT), split))
    sampler, image = VariantSampler(network, Variant(SPLIT), split), split.case(0).image
    assert direct_probabilities(network, image).shape == (2, 16, 16)
    assert not np.allclose(direct_probabilities(network, image), direct_probabilities(network, image[[0, 0]]))
    first, other = (sampler.sample(x, 2, np.linspace(-12, 6, 3), 0).softmax for x in (image, image[[0, 0]]))
    assert first.shape == (2, 2, 16, 16) and not np.allclose(first, other)


def test_windows_of_half_the_edge_hold_both_inputs(split):
    variant = Variant(SPLIT, halved=True, crops="labels")
    images, masks = next(fit.VariantTraining(fit.build(variant, split), variant, split, lambda: 0.0).train_dataloader())
    assert images.shape == (8, 2, 8, 8) and masks.shape == (8, 1, 8, 8)


@pytest.mark.slow
@pytest.mark.parametrize("key", complete())
def test_every_question_measures_and_reports_on_two_inputs(split, key, tmp_path, monkeypatch):
    """With networks that are not trained."""
    question = complete()[key]
    question.check(split)
    monkeypatch.setattr(Context, "network", lambda self, variant: fit.build(variant, self.tasks[variant.task]).eval())
    facts = {"iterations": 1, "parameters": 1, "operations": 1}
    monkeypatch.setattr(Context, "training_facts", lambda self, variant: facts)
    monkeypatch.setattr("diffusion_segmentation.evaluation.pooling.RESAMPLES", 20)
    context = Context({SPLIT: split}, (0, 1), 1.0, 8, tmp_path, "cpu", "cpu")
    result = question.measure(context, SPLIT, 0)
    summary = question.summarise(context, {(SPLIT, seed): json.loads(json.dumps(result)) for seed in (0, 1)})
    assert summary.numbers and summary.tables and summary.sentences


# Folders


def write(path, values, spacing=None, vector=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(values, isVector=vector)
    if spacing:
        image.SetSpacing(spacing)
    sitk.WriteImage(image, str(path))


@pytest.fixture
def colour_pictures(tmp_path):
    """Six pictures of a red square on grey noise; blue is 7 everywhere. Two raters of the second."""
    rng = np.random.default_rng(0)
    for n in range(6):
        labels = np.zeros((40, 48), np.uint8)
        labels[10:26, 12 : 30 + n] = 1
        values = np.stack([100 + 80 * labels, np.full_like(labels, 90), np.zeros_like(labels)], -1)
        values = values + rng.integers(0, 20, values.shape)
        values[..., 2] = 7
        write(tmp_path / "data" / "imagesTr" / f"c{n}_0000.png", values.astype(np.uint8), vector=True)
        for rater in ("_rater1", "_rater2") if n == 1 else ("",):
            write(tmp_path / "data" / "labelsTr" / f"c{n}{rater}.png", labels)
    listing = {"name": "Squares", "channel_names": {"0": "R", "1": "G", "2": "B"}}
    listing["labels"] = {"background": 0, "square": 1}
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(listing))
    return tmp_path / "data"


@pytest.mark.slow
def test_colour_pictures_become_windows_of_three_channels(colour_pictures, tmp_path):
    task, write_arrays = plan(str(colour_pictures), tmp_path / "cache", SIZES)
    assert task.inputs == (Input("Colour", 3),) and task.channels == 3 and len(task.shape) == 2 and not task.exact
    assert not (tmp_path / "cache").exists(), "nothing is written before"
    write_arrays(False)
    for part in (TRAIN, VALIDATION, TEST):
        images, masks = task.arrays(part)
        assert images.shape[1:] == (3, *task.shape) and masks.shape[2:] == task.shape and masks.any()
    case = task.truth(0).case
    assert case.image.shape == (3, *task.shape) and case.marginals.shape == (2, *task.shape)
    inside = case.marginals[1] == 1
    assert case.image[0][inside].mean() > case.image[0][~inside].mean() + 0.3
    assert np.isfinite(task.image_statistics()[1]).all() and (task.image_statistics()[1] > 0).all(), "blue is constant"
    assert task.content != plan(str(colour_pictures), tmp_path / "cache", Sizes(17, 8, 2))[0].content


@pytest.mark.slow
def test_volumes_are_studied_as_slices_by_choice(tmp_path):
    data = write_ball_dataset(tmp_path / "data", [(5,)] * 6)
    flat, solid = (prepare(str(data), tmp_path / "cache", SIZES, slices) for slices in (True, False))
    assert len(flat.shape) == 2 and len(solid.shape) == 3 and flat.content != solid.content
    images, masks = flat.arrays(TEST)
    assert images.shape[1:] == (1, *flat.shape) and masks.any()


@pytest.mark.slow
def test_volumes_of_two_inputs_are_studied(tmp_path):
    data = write_ball_dataset(tmp_path / "data", [(5,)] * 6)
    for path in list((data / "imagesTr").iterdir()):
        image = sitk.ReadImage(str(path))
        sitk.WriteImage(200.0 - image, str(path).replace("_0000", "_0001"))
    listing = json.loads((data / "dataset.json").read_text())
    (data / "dataset.json").write_text(json.dumps(listing | {"channel_names": {"0": "T1", "1": "FLAIR"}}))
    task = prepare(str(data), tmp_path / "cache", SIZES)
    images, _ = task.arrays(TEST)
    assert task.inputs == (Input("T1"), Input("FLAIR")) and images.shape[1] == 2
    first, second = images[0, :, 4:20, 4:20, 4:20].reshape(2, -1)
    assert np.corrcoef(first, second)[0, 1] < -0.5


@pytest.mark.slow
def test_pictures_are_studied_from_the_folder_to_the_report(colour_pictures, tmp_path, monkeypatch):
    """In this process, and with a training of one step."""
    monkeypatch.setattr(
        study.pool, "run", lambda _executor, jobs, *_: [work(*arguments) for _, work, arguments in jobs]
    )
    monkeypatch.setattr(study, "training_minutes", lambda *_: 1e-4)
    options = request(tmp_path / "out", data=(str(colour_pictures),), sizes=Sizes(16, 8, 4), samples=8)
    result = study.study(options)
    assert result["facts"]["data"]["Squares"]["inputs"] == ["Colour"]
    assert result["questions"]["A1"]["numbers"]["Squares"]["scores"]["diffusion-32"]["iou"]["value"] is not None
    assert "Squares" in (tmp_path / "out" / "study.html").read_text(encoding="utf-8")


# Refusals


def test_a_study_that_cannot_be_is_refused_before_anything_is_written(tmp_path):
    options = request(tmp_path / "out", data=("split:16x16", "split:24x24"), questions=None, only="A1,A10")
    with pytest.raises(InputError, match="edges must be multiples of 16; 'split:24x24' has 24x24"):
        study.study(options)
    with pytest.raises(InputError, match="raise --budget"):
        study.study(request(tmp_path / "out", data=(SPLIT,), budget=0.01))
    assert not (tmp_path / "out").exists()


@pytest.fixture
def model_of(tmp_path):
    """Writes an untrained model of a phantom."""

    def write_model(text):
        settings = Phantoms(text).settings()
        section = settings["diffusion_segmentation"]
        encoder, denoiser = build(section["network"], 2)
        curve = {"log_snr": [-12.0, 8.0], "cross_entropy": [1.0, 0.0]}
        section |= {"sha256": "", "process": {"input_scale": 0.5, "loss_curve": curve}}
        folder = tmp_path / phantom(text).name
        models.save(folder, {**settings["bundle"], "diffusion_segmentation": section}, encoder, denoiser)
        return str(folder)

    return write_model


@pytest.mark.slow
def test_steps_are_fitted_to_data_of_two_inputs(model_of, tmp_path):
    options = adapt.AdaptOptions(SPLIT, model_of(SPLIT), tmp_path / "out", "cpu", Sizes(1, 8, 5))
    assert adapt.adapt(options)["sentence"]
    assert models.load(tmp_path / "out" / "model").section["inputs"] == [{"name": "First"}, {"name": "Second"}]


@pytest.mark.parametrize(("model", "data"), [(SPLIT, "boundary:16x16"), ("boundary:16x16", SPLIT)])
def test_data_of_other_inputs_than_the_model_are_refused(model_of, tmp_path, model, data):
    folder = model_of(model)
    with pytest.raises(InputError, match="The model has the inputs .* give them in the same order"):
        adapt.adapt(adapt.AdaptOptions(data, folder, tmp_path / "out", "cpu", SIZES))
    with pytest.raises(InputError, match="The model has the inputs"):
        evaluate.evaluate(evaluate.EvaluationRequest(folder, data, tmp_path / "out", device="cpu"))
    assert not (tmp_path / "out").exists()


def test_a_model_of_grey_values_is_refused_for_colours(model_of, colour_pictures, tmp_path):
    (colour_pictures / "dataset.json").write_text(
        (colour_pictures / "dataset.json").read_text().replace("square", "object")
    )
    options = adapt.AdaptOptions(str(colour_pictures), model_of("boundary:16x16"), tmp_path / "out", "cpu", SIZES)
    with pytest.raises(InputError, match="sees 1 value per pixel and 'Squares' has 3"):
        adapt.adapt(options)
    assert not (tmp_path / "out").exists()
