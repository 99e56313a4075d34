"""The worker as Slicer starts it, with the real engine and a tiny model. Tests share a process; each names its jobs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk

from diffusion_segmentation.worker import protocol as messages

FINAL = ("done", "partial", "cancelled", "error")
ENDLESS = 100_000
"""Samples; a run that only cancel ends."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "Auftrag ü 1"


def run(client: Any, job: str, **fields: Any) -> list[dict[str, Any]]:
    """Run a job to its end and return all its messages."""
    client.run(job, **fields)
    received = [client.next()]
    while received[-1]["type"] not in FINAL:
        received.append(client.next())
    return received


def test_hello_comes_first_and_the_end_of_stdin_ends_it_soon(workers) -> None:
    client = workers.real()
    hello = client.next()
    assert hello["type"] == "hello" and messages.compatible(hello) is None
    assert hello["devices"][0]["id"] == "cpu"
    assert client.leave() < 2.0
    assert client.process.returncode == 0


def test_a_run_sends_its_progress_and_leaves_complete_files(
    real_worker, tiny_model: Path, ball: Path, folder: Path
) -> None:
    received = run(real_worker, "whole", model=str(tiny_model), folder=folder, volume=str(ball), samples=3)
    stages = list(dict.fromkeys(m["stage"] for m in received if m["type"] == "progress"))
    assert stages == ["reading", "model", "encoding", "sampling", "writing"]
    previews = [m for m in received if m["type"] == "preview"]
    assert [m["samples"] for m in previews][:2] == [0, 1]
    assert all(Path(m[file]).is_file() for m in previews for file in ("segmentation", "entropy"))
    assert received[-1]["type"] == "done", received[-1]
    report = received[-1]["report"]
    assert report["samples"] == 3 and report == json.loads((folder / "report.json").read_text(encoding="utf-8"))
    names = {path.name for path in folder.iterdir() if not path.name.startswith("preview")}
    assert names == {
        "segmentation.seg.nrrd", "entropy.nrrd", "disagreement.nrrd",
        "samples.seq.nrrd", "probabilities.seq.nrrd", "regions.nrrd",
        "report.json",
    }  # fmt: skip


def test_an_import_of_masks_writes_the_files_of_a_result(real_worker, ball: Path, folder: Path) -> None:
    image = sitk.ReadImage(str(ball))
    masks = []
    for level in (0.4, 0.5, 0.6):
        masks.append(str(ball.with_name(f"mask{level}.nrrd")))
        sitk.WriteImage(
            sitk.Cast(image > level * float(sitk.GetArrayViewFromImage(image).max()), sitk.sitkUInt8), masks[-1]
        )
    real_worker.send(type="import", job="import", folder=str(folder), volume=str(ball), masks=masks)
    received = [real_worker.next()]
    while received[-1]["type"] not in FINAL:
        received.append(real_worker.next())
    assert (3, 3) in [(m["step"], m["steps"]) for m in received if m["type"] == "progress"]
    assert received[-1]["type"] == "done", received[-1]
    assert received[-1]["report"]["samples"] == 3
    assert {"samples.seq.nrrd", "regions.nrrd", "report.json"} <= {path.name for path in folder.iterdir()}
    real_worker.send(type="import", job="refused", folder=str(folder), volume=str(ball), masks=masks[:1])
    refusal = real_worker.next(*FINAL)
    assert (refusal["type"], refusal["kind"]) == ("error", "input") and "One mask" in refusal["message"]


def test_an_update_keeps_the_facts_and_refuses_a_model_that_cannot_follow_them(
    real_worker, tiny_model: Path, ball: Path, tmp_path: Path
) -> None:
    model, facts = tmp_path / "copula", tmp_path / "facts.nrrd"
    shutil.copytree(tiny_model, model)
    metadata = json.loads((model / "metadata.json").read_text(encoding="utf-8"))
    covariance = {"scales_mm": [8.0], "weights": [[0.8]] * 3, "shared": [0.2] * 3}
    metadata["diffusion_segmentation"]["start"] = {"covariance": covariance, "log_snr": None}
    (model / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    image = sitk.ReadImage(str(ball))
    known = sitk.Image(image.GetSize(), sitk.sitkUInt8) + 255
    known.CopyInformation(image)
    known[16:24, 18:26, 14:22] = 2
    sitk.WriteImage(known, str(facts))
    fields = {"model": str(model), "volume": str(ball), "samples": 4}
    assert run(real_worker, "update first", folder=tmp_path / "first", **fields)[-1]["type"] == "done"
    fields |= {"type": "update", "facts": str(facts), "rounds": 3}
    done = run(real_worker, "update", folder=tmp_path / "second", **fields)[-1]
    assert done["type"] == "done", done
    assert done["report"]["facts"] == {"voxels": 512, "rounds": 3, "labels": {"Outer": 512}}
    samples = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "second" / "samples.seq.nrrd")))
    consensus = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "second" / "segmentation.seg.nrrd")))
    assert (consensus[14:22, 18:26, 16:24] == 2).all() and samples.shape == (*consensus.shape, 4)
    assert (samples[14:22, 18:26, 16:24] == 2).all()
    asked = {**fields, "samples": 8, "ask": ["volume(outer)"]}
    done = run(real_worker, "update asked", folder=tmp_path / "asked", **asked)[-1]
    (answer,) = done["report"]["answers"]
    assert len(answer["samples"]) == 8 and min(answer["samples"]) > 0, answer
    assert not (tmp_path / "asked" / "samples.seq.nrrd").exists()
    asked |= {"samples": 1, "keepSamples": True}
    received = run(real_worker, "update asked again", folder=tmp_path / "again", **asked)
    assert [message["samples"] for message in received if message["type"] == "preview"][:1] == [0]
    (answer,) = received[-1]["report"]["answers"]
    assert answer["interval90"] is None and (tmp_path / "again" / "samples.seq.nrrd").exists()
    refused = run(real_worker, "update refused", folder=tmp_path / "third", **{**fields, "model": str(tiny_model)})[-1]
    assert (refused["type"], refused["kind"]) == ("error", "model") and "corrections" in refused["message"]


def test_the_same_seed_gives_the_same_bytes_and_another_other_samples(
    real_worker, tiny_model: Path, ball: Path, tmp_path: Path
) -> None:
    written = []
    for job, seed in (("a", 3), ("b", 3), ("c", 4)):
        fields = {"model": str(tiny_model), "folder": tmp_path / job, "volume": str(ball), "samples": 2}
        assert run(real_worker, f"seed {job}", seed=seed, **fields)[-1]["type"] == "done"
        written.append({path.name: path.read_bytes() for path in (tmp_path / job).glob("*.nrrd")})
    assert len(written[0]) >= 4 and written[0] == written[1]
    assert written[0]["samples.seq.nrrd"] != written[2]["samples.seq.nrrd"]


def test_keep_after_the_first_sample_gives_a_partial_result(
    real_worker, tiny_model: Path, ball: Path, folder: Path
) -> None:
    real_worker.run("keep", str(tiny_model), folder, volume=str(ball), samples=ENDLESS)
    while real_worker.next("preview")["samples"] < 1:
        pass
    real_worker.send(type="cancel", job="keep", keep=True)
    end = real_worker.next(*FINAL)
    assert end["type"] == "partial", end
    assert end["report"]["partial"] and 1 <= end["report"]["samples"] < ENDLESS
    assert (folder / "segmentation.seg.nrrd").is_file()


def test_drop_leaves_no_result(real_worker, tiny_model: Path, ball: Path, folder: Path) -> None:
    real_worker.run("drop", str(tiny_model), folder, volume=str(ball), samples=ENDLESS)
    real_worker.next("preview")
    real_worker.send(type="cancel", job="drop", keep=False)
    assert real_worker.next(*FINAL)["type"] == "cancelled"
    assert not (folder / "segmentation.seg.nrrd").exists()


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [({"volume": "missing.nrrd"}, "input"), ({"model": "no-such-model"}, "model"), ({"device": "cuda:99"}, "input")],
)
def test_runs_that_cannot_start_are_reported(
    real_worker, tiny_model: Path, ball: Path, folder: Path, wrong: dict[str, str], kind: str
) -> None:
    fields = {"model": str(tiny_model), "folder": folder, "volume": str(ball), "samples": 1}
    error = run(real_worker, f"wrong {wrong}", **{**fields, **wrong})[-1]
    assert (error["type"], error["kind"]) == ("error", kind)
    assert "nrrd" not in error["message"], "the user never saw the name of the temporary file"
    assert run(real_worker, f"after {wrong}", **fields)[-1]["type"] == "done"


def test_a_python_without_torch_is_reported(workers, tmp_path: Path) -> None:
    """With a Python without torch: one sentence in place of hello, then the end."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')")
    client = workers.real(hidden)
    error = client.next()
    assert error["type"] == "error" and error["job"] is None and "'torch' is missing" in error["message"]
    assert client.process.wait(10) == 1
