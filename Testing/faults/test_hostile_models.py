"""Model folders from anywhere: links, pipes, huge files, odd names, copies and interrupted saving.

In Testing/engine/test_model.py: what a damaged copy looks like. Random damage is tested by fuzz_models.py.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from model_folders import sentence

from diffusion_segmentation.errors import ModelError
from diffusion_segmentation.model import folder as models

pytestmark = pytest.mark.usefixtures("time_limit")


def test_a_valid_model_is_listed(model_folder: Path) -> None:
    assert [metadata["version"] for metadata in models.available(model_folder.parent)] == ["0.0.1"]


def as_link(file: Path) -> None:
    """The same bytes, elsewhere."""
    file.rename(file.parent.parent.parent / "elsewhere")
    file.symlink_to(file.parent.parent.parent / "elsewhere")


def as_device(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


def as_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def as_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def as_loop(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no such files")
@pytest.mark.parametrize("name", ["metadata.json", "model.safetensors"])
@pytest.mark.parametrize("make", [as_link, as_device, as_pipe, as_folder, as_loop])
def test_links_devices_pipes_and_folders_are_refused_as_files(
    model_folder: Path, name: str, make: Callable[[Path], None]
) -> None:
    make(model_folder / name)
    assert f"The {name} of the model 'random' is a link or not a file" in sentence(model_folder)


@pytest.mark.parametrize("name", ["metadata.json", "model.safetensors"])
def test_a_file_larger_than_memory_is_refused(model_folder: Path, name: str) -> None:
    with (model_folder / name).open("r+b") as file:
        file.truncate(2**41)  # without a byte of it on the disk
    assert ("is not valid" if name == "metadata.json" else "do not fit") in sentence(model_folder)


def test_a_folder_may_be_a_link(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "random").symlink_to(model_folder, target_is_directory=True)
    assert models.find(str(tmp_path / "linked" / "random")) == tmp_path / "linked" / "random"
    assert len(models.available(tmp_path / "linked")) == 1


@pytest.mark.parametrize("name", ["nowhere", "a\0b", "x" * 300, "loop", "file"])
def test_invalid_folders_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelError, match=r"^[^\n]{,250}\.$"):
        models.load(tmp_path / name)
    with pytest.raises(ModelError, match="There is no model"):
        models.find(str(tmp_path / name))


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "x" * 100_000, "a/" * 5000, "\0", "\udcff"])
def test_invalid_names_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(ModelError) as caught:
        models.find(name)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300


def test_a_name_cannot_leave_the_folder_of_shipped_models(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "SHIPPED", model_folder)
    for name in ("../random", "./../random", ""):
        with pytest.raises(ModelError, match="There is no model"):
            models.find(name)
    monkeypatch.setattr(models, "SHIPPED", model_folder.parent)
    assert models.find("random") == model_folder


def test_a_model_does_not_pass_for_another(model_folder: Path) -> None:
    """Neither under a name that is not its folder's, nor with its metadata beside other weights."""
    shutil.copytree(model_folder, model_folder.parent / "another")
    assert len(models.available(model_folder.parent)) == 1
    shutil.rmtree(model_folder)
    assert models.available(model_folder.parent) == []


def test_an_incomplete_copy_is_not_a_model(model_folder: Path, tmp_path: Path) -> None:
    """For either order of the files, at any byte, with and without preallocated space."""
    names = ("metadata.json", "model.safetensors")
    for first, second in (names, names[::-1]):
        copied = tmp_path / f"{first} first" / "random"
        copied.mkdir(parents=True)
        for name in (first, second):
            data = (model_folder / name).read_bytes()
            sentence(copied)
            for share in (0, 1, len(data) // 2, len(data) - 2):
                (copied / name).write_bytes(data[:share])
                sentence(copied)
                (copied / name).write_bytes(data[:share].ljust(len(data), b"\0"))
                sentence(copied)
            (copied / name).write_bytes(data)
        assert len(models.available(copied.parent)) == 1


def test_interrupted_saving_leaves_no_model_with_other_weights(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models.load(model_folder)
    model.encoder.head.bias.data += 1
    replace, done = os.replace, []

    def once(source: Path, target: Path) -> None:
        if done:
            raise OSError("killed")
        done.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", once)
    with pytest.raises(OSError, match="killed"):
        models.save(model_folder, model.metadata, model.encoder, model.denoiser)
    assert "checksum" in sentence(model_folder)
