"""Models of the user: added from folders and archives, found by name, listed and removed."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from diffusion_segmentation.errors import ModelError
from diffusion_segmentation.model import archive, installed
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.runtime.locations import MODELS_VARIABLE


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "installed"))
    return tmp_path / "installed"


@pytest.fixture
def name(a_model_folder: Path) -> str:
    return models.load(a_model_folder).section["name"]


def zipped(folder: Path, path: Path, prefix: str = "some/where/") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.iterdir():
            archive.write(file, prefix + file.name)
    return path


def tarred(folder: Path, path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, folder.name)
    return path


@pytest.mark.parametrize("kind", ["folder", "zip", "tar.gz"])
def test_a_model_is_added_found_by_name_listed_and_removed(
    kind: str, a_model_folder: Path, tmp_path: Path, root: Path
) -> None:
    source = {"folder": lambda: a_model_folder, "zip": lambda: zipped(a_model_folder, tmp_path / "a.zip")}.get(
        kind, lambda: tarred(a_model_folder, tmp_path / "a.tar.gz")
    )()
    folder = installed.add(source, "mine")
    assert folder == root / "mine" == models.find("mine")
    assert models.load(folder).section["sha256"] == models.load(a_model_folder).section["sha256"]
    [listed] = [entry for entry in installed.installed() if entry["diffusion_segmentation"]["name"] == "mine"]
    assert listed["installed"]["source"] == str(source.resolve()) and listed["installed"]["bytes"] > 1000
    assert installed.remove("mine") == folder and not folder.exists()
    with pytest.raises(ModelError, match="no model 'mine'"):
        models.find("mine")
    assert not [path for path in root.iterdir() if path.name.startswith(".")]


def test_only_the_two_files_of_a_model_are_unpacked(a_model_folder: Path, tmp_path: Path, root: Path) -> None:
    path = zipped(a_model_folder, tmp_path / "a.zip", "../../evil/")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../outside.txt", "x")
        archive.writestr("/absolute.txt", "x")
    folder = installed.add(path, "mine")
    assert {file.name for file in folder.iterdir()} == {models.METADATA, models.WEIGHTS, installed.SOURCE}
    assert not list(tmp_path.rglob("outside.txt")) and not Path("/absolute.txt").exists()


def test_links_in_an_archive_are_refused(a_model_folder: Path, tmp_path: Path, root: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(a_model_folder / models.METADATA, f"m/{models.METADATA}")
        link = tarfile.TarInfo(f"m/{models.WEIGHTS}")
        link.type, link.linkname = tarfile.SYMTYPE, str(a_model_folder / models.WEIGHTS)
        archive.addfile(link)
    with pytest.raises(ModelError, match="is a link"):
        installed.add(path, "mine")
    assert list(root.iterdir()) == []


def test_a_file_that_is_too_large_is_not_unpacked(
    a_model_folder: Path, tmp_path: Path, root: Path, monkeypatch
) -> None:
    monkeypatch.setattr("diffusion_segmentation.model.weights.MAX_WEIGHTS", 10)
    monkeypatch.setattr("diffusion_segmentation.model.weights.MAX_HEADER_BYTES", 1000)
    with pytest.raises(ModelError, match="larger than 0 MB"):
        installed.add(zipped(a_model_folder, tmp_path / "bomb.zip"), "mine")
    assert list(root.iterdir()) == []


def test_what_is_no_model_is_refused_and_leaves_nothing(
    a_model_folder: Path, tmp_path: Path, name: str, root: Path
) -> None:
    def refused(sentence: str, source: Path, chosen: str | None = "mine") -> None:
        with pytest.raises(ModelError, match=sentence):
            installed.add(source, chosen)
        assert not (root / "mine").exists() and not list(root.glob(".adding-*"))

    text = tmp_path / "text.txt"
    text.write_text("no model")
    refused("no model folder and no .zip or .tar archive", text)
    refused("no model folder and no .zip or .tar archive", tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    refused("has no metadata.json", tmp_path / "empty")
    with zipfile.ZipFile(tmp_path / "none.zip", "w") as archive:
        archive.writestr("readme.txt", "x")
    refused("has no model", tmp_path / "none.zip")
    two = zipped(a_model_folder, tmp_path / "two.zip", "one/")
    with zipfile.ZipFile(two, "a") as archive:
        for file in a_model_folder.iterdir():
            archive.write(file, f"two/{file.name}")
    refused("has 2 models", two)
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(tarred(a_model_folder, tmp_path / "whole.tar.gz").read_bytes()[:-500])
    refused("damaged|no .zip or .tar archive", cut)
    damaged = tmp_path / "damaged"
    shutil.copytree(a_model_folder, damaged)
    weights = bytearray((damaged / models.WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (damaged / models.WEIGHTS).write_bytes(weights)
    refused("differ from their checksum", damaged)
    refused("cannot be the name of a model", a_model_folder, "../mine")
    refused("There is a model 'brain-structures' already", a_model_folder, "brain-structures")
    with pytest.raises(ModelError, match="part of the program"):
        installed.remove("brain-structures")
    with pytest.raises(ModelError, match="no added model"):
        installed.remove("../..")


@pytest.mark.slow
def test_command_lists_adds_and_removes(a_model_folder: Path, root: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "diffusion_segmentation", "models", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    added = run("add", str(a_model_folder), "--name", "mine")
    assert added.returncode == 0 and f"Added the model 'mine' in {root / 'mine'}" in added.stdout, added.stderr
    lines = run().stdout.splitlines()
    assert any(line.startswith("mine ") and line.endswith(str(a_model_folder.resolve())) for line in lines)
    assert any(line.startswith("brain-structures ") and line.endswith("shipped") for line in lines)
    assert "mine" in [entry["diffusion_segmentation"]["name"] for entry in json.loads(run("list", "--json").stdout)]
    assert "Removed the model 'mine'" in run("remove", "mine").stdout
    assert run("add").returncode == 2 and run("list", "x").returncode == 2


def test_streams_are_closed(a_model_folder: Path, root: Path) -> None:
    stream = io.BytesIO(b"12345")
    archive.copy(stream, a_model_folder / "x", 5)
    assert stream.closed and (a_model_folder / "x").read_bytes() == b"12345"
