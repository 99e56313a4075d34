"""The worker runs a converted MONAI bundle as it runs any model."""

from __future__ import annotations

from pathlib import Path

import pytest
from monai_bundles import write_bundle

from diffusion_segmentation.monai_bundle.convert import convert

FINAL = ("done", "partial", "cancelled", "error")


@pytest.mark.slow
def test_a_run_of_a_bundle(workers, ball: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    convert(write_bundle(tmp_path / "bundle"), model)
    client = workers.real()
    assert client.next()["type"] == "hello"
    client.run("network", model=str(model), folder=tmp_path / "job", volume=str(ball), samples=3)
    received = [client.next()]
    while received[-1]["type"] not in FINAL:
        received.append(client.next())
    assert received[-1]["type"] == "done", received[-1]
    stages = list(dict.fromkeys(m["stage"] for m in received if m["type"] == "progress"))
    assert stages == ["reading", "model", "encoding", "sampling", "writing"]
    assert received[-1]["report"]["network"] == {"class": "UNet", "bundle": "0.2.0"}
    assert (tmp_path / "job/entropy.nrrd").is_file()
