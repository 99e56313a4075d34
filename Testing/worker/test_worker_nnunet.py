"""The worker runs a converted nnU-Net as it runs any model."""

from __future__ import annotations

from pathlib import Path

import pytest
from nnunet_folders import write_folder

from diffusion_segmentation.nnunet.convert import convert

pytest.importorskip("nnunetv2")

FINAL = ("done", "partial", "cancelled", "error")


@pytest.mark.slow
def test_a_run_of_an_nnunet(workers, ball: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    convert(write_folder(tmp_path / "trained", trained=True), model)
    client = workers.real()
    assert client.next()["type"] == "hello"
    client.run("folds", model=str(model), folder=tmp_path / "job", volume=str(ball), samples=3)
    received = [client.next()]
    while received[-1]["type"] not in FINAL:
        received.append(client.next())
    assert received[-1]["type"] == "done", received[-1]
    stages = list(dict.fromkeys(m["stage"] for m in received if m["type"] == "progress"))
    assert stages == ["reading", "model", "encoding", "sampling", "writing"]
    assert [m["samples"] for m in received if m["type"] == "preview"] == [1]
    assert received[-1]["report"]["folds"]["names"] == ["0", "1"]
    assert (tmp_path / "job/mutual_information.nrrd").is_file()
