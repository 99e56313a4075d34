"""Results whose samples cannot follow corrections: the button of an update is disabled and says why."""

import json

import pytest
import slicer_standin

from DiffusionSegmentationLib.runs import models
from DiffusionSegmentationLib.runs.updating import refusalOf
from DiffusionSegmentationLib.scene.result_nodes import RUN_ATTRIBUTE, reportOf

slicer_standin.likePythonQt(__name__)

COPULA = {"start": {"covariance": {}, "log_snr": None}}


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ({}, "The model 'Fake' was not trained to follow corrections; choose another model."),
        ({"sha256": "1" * 64, **COPULA}, "The model of this result, 'Fake', is not installed in this version"),
    ],
)
def test_a_model_that_cannot_follow_says_so(openPanel, addHead, run, shipped, entries, sentence):
    shipped(**entries)
    addHead()
    module = openPanel("good", "0.01")
    run(module)
    assert not module.ui.updateButton.enabled and module.ui.updateButton.toolTip.startswith(sentence)
    assert module.ui.updateLabel.text == module.ui.updateButton.toolTip


@pytest.mark.parametrize(
    ("entry", "words"), [("imported", "Imported masks"), ("folds", "draws no samples"), ("network", "draws no samples")]
)
def test_results_of_other_kinds_say_so(openPanel, addHead, run, shipped, entry, words):
    shipped(**COPULA)
    addHead()
    module = openPanel("good", "0.01")
    node = run(module).result.segmentationNode
    node.SetAttribute(RUN_ATTRIBUTE, json.dumps({**reportOf(node), entry: {"names": ["a"]}}))
    module.widget.enter()
    assert not module.ui.updateButton.enabled and words in module.ui.updateButton.toolTip


def test_the_model_on_top_of_several_folds_is_refused(shipped, addModel):
    shipped(frozen={"sha256": "2" * 64}, **COPULA)
    addModel("base", sha256="2" * 64, kind="nnunet", folds=[{"file": "model.safetensors"}] * 2)
    report = {"model": {"sha256": "0" * 64, "title": "Top"}, "seed": 0}
    assert "come from 2 folds in turn" in refusalOf(report, models.models())
    addModel("deep", sha256="3" * 64, network={"denoiser": {"facts": True}})
    assert refusalOf({"model": {"sha256": "3" * 64, "title": "Deep"}, "seed": 0}, models.models()) is None
