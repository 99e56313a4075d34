"""The list of models has all valid models and no invalid ones."""

import json
import os

from DiffusionSegmentationLib.runs import models


def test_included_models_are_keyed_by_name_and_others_by_folder(modelFolder, tmp_path):
    other = tmp_path / "elsewhere" / "hip joint"
    other.mkdir(parents=True)
    metadata = json.loads((modelFolder / "metadata.json").read_text())
    metadata["diffusion_segmentation"]["title"] = "A hip"
    (other / "metadata.json").write_text(json.dumps(metadata))
    (other / "model.safetensors").write_bytes(b"weights")
    hip, brain = models.models((other.parent,))
    assert (hip.key, hip.title) == (str(other), "A hip")
    assert (brain.key, brain.title) == ("brain-structures", "Brain structures (MR head)")
    assert brain.structures[0] == "Cerebrospinal fluid"


def test_invalid_models_are_not_listed(modelFolder, tmp_path):
    sound = (modelFolder / "metadata.json").read_text()
    for name, text in [
        ("empty", None),
        ("broken", "{"),
        ("foreign", "[]"),
        ("bundle", '{"version": "1"}'),
        ("deep", "[" * 100_000),
        ("long", sound + " " * models.MAX_METADATA_BYTES),
        ("wrong", sound.replace('"Brain structures (MR head)"', "7")),
        ("unnamed", sound.replace('"labels"', '"inputs": [{"nam": "T1"}], "labels"')),
        ("no text", sound.replace('"labels"', '"inputs": [{"name": 7}], "labels"')),
        ("no number", sound.replace('"labels"', '"inputs": [{"name": "T1", "channels": "3"}], "labels"')),
    ]:
        folder = modelFolder.parent / name
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
        if text is not None:
            (folder / "metadata.json").write_text(text)
    (modelFolder.parent / "README.txt").write_text("not a folder")
    half = modelFolder.parent / "half"
    half.mkdir()
    (half / "metadata.json").write_text(sound)
    assert [entry.key for entry in models.models((tmp_path / "not there",))] == ["brain-structures"]


def test_links_and_pipes_are_not_listed(modelFolder):
    for name, make in [("link", lambda path: path.symlink_to(modelFolder / "metadata.json")), ("pipe", os.mkfifo)]:
        folder = modelFolder.parent / name
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
        make(folder / "metadata.json")
    assert [entry.key for entry in models.models()] == ["brain-structures"]


def test_a_model_lists_its_inputs_and_whether_it_is_for_pictures(modelFolder, addModel):
    addModel("several", inputs=[{"name": "T1"}, {"name": "FLAIR"}])
    addModel("colours", inputs=[{"name": "Colour", "channels": 3}], network={"dims": 2})
    brain, colours, several = models.models()
    assert [(one.name, one.channels) for one in several.inputs] == [("T1", 1), ("FLAIR", 1)]
    assert [(one.name, one.channels) for one in colours.inputs] == [("Colour", 3)] and colours.isForPictures
    assert len(brain.inputs) == 1 and not brain.isForPictures and not several.isForPictures
