"""The catalogue shows what is there and leaves out what is broken."""

import json

from DiffusionSegmentationLib import catalogue


def test_shipped_models_go_by_name_and_others_by_folder(modelFolder, tmp_path):
    other = tmp_path / "elsewhere" / "hip joint"
    other.mkdir(parents=True)
    metadata = json.loads((modelFolder / "metadata.json").read_text())
    metadata["diffusion_segmentation"]["title"] = "A hip"
    (other / "metadata.json").write_text(json.dumps(metadata))
    hip, brain = catalogue.models((other.parent,))
    assert (hip.key, hip.title) == (str(other), "A hip")
    assert (brain.key, brain.title) == ("brain-structures", "Brain structures (MR head)")
    assert brain.structures[0] == "Cerebrospinal fluid"


def test_what_is_no_model_is_left_out(modelFolder, tmp_path):
    for name, text in [("empty", None), ("broken", "{"), ("foreign", "[]"), ("bundle", '{"version": "1"}')]:
        folder = modelFolder.parent / name
        folder.mkdir()
        if text is not None:
            (folder / "metadata.json").write_text(text)
    (modelFolder.parent / "README.txt").write_text("not a folder")
    assert [entry.key for entry in catalogue.models((tmp_path / "not there",))] == ["brain-structures"]
