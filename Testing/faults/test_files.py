"""Files and folders: full disks, missing permissions, removed folders, unusual names; and privacy."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from worker_bench import SITE_CUSTOMIZE, Bench

from diffusion_segmentation.errors import DiffusionSegmentationError, ModelError, explain
from diffusion_segmentation.images import writing as results
from diffusion_segmentation.model import cache as model_cache
from diffusion_segmentation.networks import Denoiser
from diffusion_segmentation.segmentation import partial_results
from diffusion_segmentation.segmentation import pipeline as segment
from diffusion_segmentation.segmentation.pipeline import ModelCache, Preview, Progress, Request

RESULT = {"segmentation.seg.nrrd", "entropy.nrrd", "report.json"}
PATIENT = "Mustermann"


@pytest.fixture
def run(a_head_file: Path, a_model_folder: Path) -> Callable[..., dict]:
    def go(output: Path, volume: Path = a_head_file, **changed: Any) -> dict:
        options = {key: changed.pop(key) for key in ("progress", "preview", "models") if key in changed}
        given = {"model": str(a_model_folder), "samples": 2, "device": "cpu"} | changed
        return segment.segment(Request(volume, output, **given), **options).report

    return go


def sentence(error: BaseException) -> str:
    _, text = explain(error)
    assert text.endswith(".") and text.isprintable() and len(text) < 300
    return text


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="a folder that not even root can write to")
def test_a_read_only_folder_is_one_sentence(run: Callable) -> None:
    with pytest.raises(OSError) as caught:
        run(Path("/sys/result"))
    assert (
        sentence(caught.value) == "'result' cannot be read or written: there is no permission; choose another folder."
    )


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "The disk is full, 'entropy.nrrd' was not written; free some space"),
        (errno.EDQUOT, "The disk is full, 'entropy.nrrd' was not written; free some space"),
        (errno.EROFS, "'entropy.nrrd' may not be written there or is open elsewhere; close it"),
        (errno.EACCES, "'entropy.nrrd' may not be written there or is open elsewhere; close it"),  # Windows: held open
    ],
)
def test_a_file_that_cannot_be_replaced_is_one_sentence_and_the_old_one_stays(
    run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    run(tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    replace = os.replace

    def refused(source: Path, target: Path) -> None:
        if Path(target).name == "entropy.nrrd":
            raise OSError(number, os.strerror(number), str(source))
        replace(source, target)

    monkeypatch.setattr(results.os, "replace", refused)
    with pytest.raises(DiffusionSegmentationError) as caught:
        run(tmp_path / "out")
    assert sentence(caught.value).startswith(words)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_path_of_three_hundred_characters_works(run: Callable, tmp_path: Path, a_head_file: Path) -> None:
    deep = tmp_path.joinpath(*["a folder of thirty characters "[:29] + str(n) for n in range(9)])
    deep.mkdir(parents=True)
    volume = deep / "volume.nrrd"
    shutil.copyfile(a_head_file, volume)
    assert len(str(volume)) > 300
    run(deep / "result", volume)
    assert {path.name for path in (deep / "result").iterdir()} == RESULT


def test_a_name_that_is_too_long_is_one_sentence(run: Callable, tmp_path: Path) -> None:
    with pytest.raises((DiffusionSegmentationError, OSError)) as caught:
        run(tmp_path / ("n" * 300))
    assert "too long" in sentence(caught.value)
    with pytest.raises((DiffusionSegmentationError, OSError)) as caught:
        run(tmp_path / "out", tmp_path / ("n" * 300 + ".nrrd"))
    assert "cannot be opened" in sentence(caught.value)


@pytest.mark.parametrize(
    "name", ["CON.nrrd", "aux.nrrd", "a b.nrrd", "Schädel ☠ 頭.nrrd", "-x.nrrd", "a%d.nrrd", "'.nrrd", "a\nb.nrrd"]
)
def test_a_volume_of_any_name_is_segmented_into_the_same_files(
    run: Callable, tmp_path: Path, a_head_file: Path, name: str
) -> None:
    if os.name == "nt" and name.split(".", maxsplit=1)[0].lower() in ("con", "aux"):
        pytest.skip("no file can be called so there")
    shutil.copyfile(a_head_file, tmp_path / name)
    run(tmp_path / "out", tmp_path / name)
    assert {path.name for path in (tmp_path / "out").iterdir()} == RESULT


def test_a_file_that_is_open_elsewhere_is_replaced_later(
    run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a virus scanner holds each new file on Windows."""
    replace, held = os.replace, set()

    def scanned(source: Path, target: Path) -> None:
        if target not in held:
            held.add(target)
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(source))
        replace(source, target)

    monkeypatch.setattr(results.os, "replace", scanned)
    run(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == RESULT and len(held) >= len(RESULT)


def test_a_full_disk_during_a_preview_does_not_end_the_run(
    run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither previews nor finished samples end the run, and no incomplete files remain."""
    monkeypatch.setattr(partial_results, "INTERVAL_SECONDS", 0.0)
    replace, refused, seen = os.replace, [], set()

    def full(source: Path, target: Path) -> None:
        name = Path(target)
        if name.name.startswith("preview-") or (name.parent.name.startswith("finished-") and "entropy" in name.name):
            refused.append(name)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source))
        replace(source, target)

    def look(now: Progress) -> None:
        # Results are written to a separate folder, which is renamed at the end.
        seen.update(path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".part-"))

    monkeypatch.setattr(results.os, "replace", full)
    shown: list[Preview] = []
    report = run(tmp_path / "out", samples=4, previews=True, progress=look, preview=shown.append)
    assert report["samples"] == 4 and shown == [] and seen == set()
    assert {path.parent.name for path in refused} >= {"out", "finished-1"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == RESULT


def test_a_folder_that_is_cleared_during_a_run_is_made_again(run: Callable, tmp_path: Path) -> None:
    cleared = []

    def clear(now: Progress) -> None:
        if now.stage == "sampling" and now.sample == 2 and not cleared:
            shutil.rmtree(tmp_path / "out")
            cleared.append(True)

    shown: list[Preview] = []
    report = run(tmp_path / "out", progress=clear, preview=shown.append, previews=True, samples=4, keep_samples=True)
    assert cleared and report["samples"] == 4
    assert RESULT < {path.name for path in (tmp_path / "out").iterdir()}
    assert shown[-1].segmentation.is_file() and shown[-1].samples == 2
    if os.name == "posix":
        assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o700


def test_a_model_that_is_removed_between_two_runs_is_one_sentence(
    run: Callable, tmp_path: Path, a_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shutil.copytree(a_model_folder, tmp_path / "model")
    models = ModelCache()
    run(tmp_path / "out", model=str(model), models=models)

    def find(name: str) -> Path:
        shutil.rmtree(model)
        return model

    monkeypatch.setattr(model_cache, "find", find)
    with pytest.raises(ModelError, match="has no metadata.json"):
        run(tmp_path / "out", model=str(model), models=models)


@pytest.mark.parametrize("where", ["direct", "samples"])
def test_a_model_with_results_that_are_not_finite_is_refused(
    run: Callable, tmp_path: Path, a_model_folder: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    model = model_cache.load(a_model_folder)
    if where == "direct":
        model.encoder.head.bias += 3e38  # finite, as its sum with itself is not
        model.encoder.head.weight *= 1e38
    else:
        forward = Denoiser.forward
        monkeypatch.setattr(Denoiser, "forward", lambda *given: forward(*given) * np.inf)

    class Cache(ModelCache):
        def get(self, *_: Any) -> Any:
            return model

    with pytest.raises(ModelError, match="gives no numbers for this volume; choose another"):
        run(tmp_path / "out", models=Cache())
    assert not (tmp_path / "out" / "report.json").exists()


# Privacy


AUDIT = """
import os, sys
if sys.orig_argv[-1:] == ["worker"]:
    open(os.environ["AUDIT_FILE"], "w").write("looking\\n")
def look(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.bind", "socket.sendto", "urllib.Request"):
        with open(os.environ["AUDIT_FILE"], "a") as file:
            file.write(f"{event} {arguments}\\n")
sys.addaudithook(look)
"""


@pytest.mark.slow
def test_a_run_uses_no_network_and_reveals_no_names(bench: Bench, tmp_path: Path) -> None:
    home = tmp_path / PATIENT
    home.mkdir()
    image = sitk.ReadImage(str(bench.root / "volume.nrrd"))
    image.SetMetaData("0010|0010", f"{PATIENT}^Max")
    image.SetMetaData("PatientName", PATIENT)
    sitk.WriteImage(image, str(home / f"{PATIENT}.nrrd"))
    (bench.root / "hooks" / "sitecustomize.py").write_text(SITE_CUSTOMIZE + AUDIT)
    bench.environment["AUDIT_FILE"] = str(tmp_path / "audit")
    slicer = bench.slicer()
    try:
        message = bench.run_message(samples=2, steps=2) | {"volume": str(home / f"{PATIENT}.nrrd")}
        slicer.client.send(message)
        assert slicer.finish(message)["type"] == "done"
        broken = bench.run_message() | {"volume": str(home / f"{PATIENT} is not there.nrrd")}
        slicer.client.send(broken)
        assert slicer.finish(broken)["type"] == "error"
        log = list(slicer.client.log)
    finally:
        slicer.stop()
    # urllib3, which MONAI imports where it is installed, binds to the loopback once to see whether there is IPv6.
    audit = (tmp_path / "audit").read_text().splitlines()
    assert [line for line in audit if not line.endswith("('::1', 0))")] == ["looking"]
    for path in Path(message["folder"]).rglob("*"):
        assert PATIENT not in path.name
        assert PATIENT.encode() not in path.read_bytes(), path.name
    # The client names its files itself: in Slicer the volume is `input.nrrd` in the job folder.
    assert [line for line in log if PATIENT in line and "is not there" not in line] == [], log
