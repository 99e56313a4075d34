"""Hostile archives and pickles that `models add` refuses: each was found by fuzz_added_models.py, or by reading."""

from __future__ import annotations

import bz2
import contextlib
import json
import os
import sys
import tarfile
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile_archives import sparse, with_size
from hostile_pickles import MARK, operations, rewritten
from monai_bundles import MODEL, NETWORK, inference, random_network, write_bundle
from nnunet_folders import checkpoint, plans, stand_in_weights, write_folder

from diffusion_segmentation import any_model
from diffusion_segmentation.errors import ModelError
from diffusion_segmentation.model.monai_metadata import digest_of_model
from diffusion_segmentation.model.pickle_scan import require_plain
from diffusion_segmentation.model.pickled_weights import read_pickled
from diffusion_segmentation.model.refusal import Refusal
from diffusion_segmentation.runtime.locations import MODELS_VARIABLE

pytestmark = pytest.mark.usefixtures("time_limit")
SMALL = {**NETWORK, "channels": [4, 4], "strides": [2], "num_res_units": 0}


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "installed"))
    return tmp_path / "installed"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", inference(network_def=SMALL))


def refusal(source: Path, root: Path) -> str:
    with pytest.raises(ModelError) as caught:
        any_model.add(source)
    assert not root.exists() or list(root.iterdir()) == []
    return str(caught.value)


def zipped(folder: Path, target: Path, above: str) -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for path in folder.rglob("*.*"):
            archive.writestr(zipfile.ZipInfo(above + path.relative_to(folder).as_posix()), path.read_bytes())
    return target


@pytest.mark.parametrize("above", ["../", "a/../../", "/", "a/../"])
def test_paths_cannot_lead_out_of_the_folder_of_models(above: str, bundle: Path, root: Path, tmp_path: Path) -> None:
    assert any_model.add(zipped(bundle, tmp_path / "a.zip", above)).parent == root
    assert len(list(root.iterdir())) == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"bundle", "a.zip", "installed"}


def tarred(content: bytes, path: Path, compressed: bool = False) -> Path:
    path.write_bytes(bz2.compress(content) if compressed else content)
    return path


def member(name: str, size: int, kind: bytes) -> bytes:
    """A member with its zeros, and a second one."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf() + bytes(size) + tarfile.TarInfo("metadata.json").tobuf() + bytes(1024)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_headers_of_an_archive_are_short(kind: bytes, root: Path, tmp_path: Path) -> None:
    path = tarred(member("long", 2**25, kind), tmp_path / "a.tar", compressed=True)
    assert path.stat().st_size < 2000
    tracemalloc.start()
    try:
        assert "no .zip or .tar archive" in refusal(path, root)
        assert tracemalloc.get_traced_memory()[1] < 2**25
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_SPARSE])
def test_files_much_larger_than_their_archive_are_refused(kind: bytes, root: Path, tmp_path: Path) -> None:
    path = tarred(member("fold_0/checkpoint_final.pth", 2**25, kind), tmp_path / "a.tar", compressed=True)
    assert "more than 200 times its size" in refusal(path, root)


def test_members_that_are_not_stored_are_refused(root: Path, tmp_path: Path) -> None:
    content = sparse("metadata.json") + bytes(1024)
    assert "more than 200 times its size" in refusal(tarred(content, tmp_path / "a.tar"), root)


def test_the_same_for_zip(root: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/model.safetensors", bytes(2**25))
        archive.writestr("model/metadata.json", b"{}")
    assert "more than 200 times its size" in refusal(tmp_path / "a.zip", root)


class _Chosen:
    """In place of a random generator: the size that `with_size` takes."""

    def __init__(self, size: int) -> None:
        self.choice = lambda _: size


@pytest.mark.parametrize("size", [-512, -1, -(2**40), 2**62])
def test_sizes_below_zero_and_beyond_the_file_are_refused(size: int, root: Path, tmp_path: Path) -> None:
    content = with_size(member("model/metadata.json", 512, tarfile.REGTYPE), _Chosen(size))  # type: ignore[arg-type]
    refusal(tarred(content, tmp_path / "a.tar"), root)
    refusal(tarred(content, tmp_path / "b.tar", compressed=True), root)


def test_a_damaged_bzip2_stream_is_refused(root: Path, tmp_path: Path) -> None:
    data = bytearray(bz2.compress(member("a", 900_000, tarfile.REGTYPE) + os.urandom(9000)))
    data[-200:-100] = bytes(100)
    (tmp_path / "a.tar").write_bytes(data)
    refusal(tmp_path / "a.tar", root)


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names of files are text there")
def test_a_folder_whose_name_is_no_text_is_added(model_folder: Path) -> None:
    assert any_model.add(model_folder.rename(model_folder.with_name("b\udcffc")), "mine").is_dir()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no such files")
def test_a_pipe_in_place_of_weights_is_not_opened(bundle: Path, root: Path) -> None:
    (bundle / MODEL).unlink()
    os.mkfifo(bundle / MODEL)
    assert "link in place of the file model.pt" in refusal(bundle, root)


def test_a_converted_bundle_whose_weights_do_not_fit_is_refused(bundle: Path, root: Path, tmp_path: Path) -> None:
    folder = any_model.add(bundle).rename(tmp_path / "converted")
    metadata = json.loads((folder / "metadata.json").read_text())
    section = metadata["diffusion_segmentation"]
    section["monai"]["network"]["options"]["channels"] = [4, 8]
    section["sha256"] = digest_of_model(section)
    (folder / "metadata.json").write_text(json.dumps(metadata))
    assert "weights" in refusal(folder, root)


def test_a_long_configuration_in_yaml_is_refused(bundle: Path, root: Path) -> None:
    (bundle / "configs/inference.json").unlink()
    (bundle / "configs/inference.yaml").write_text("a: [1, 2]\n" * 400_000)
    assert "more than 131 kB; convert it to JSON" in refusal(bundle, root)


def saved(path: Path, content: Any, operation: bytes = b"") -> Path:
    """A file of PyTorch in which operations of a pickle take the place of MARK."""
    torch.save(content, path)
    mark = b"X" + len(MARK).to_bytes(4, "little") + MARK.encode()
    path.write_bytes(rewritten(path.read_bytes(), lambda pickled: pickled.replace(mark, operation)))
    return path


def test_hostile_operations_are_refused_or_do_nothing(tmp_path: Path) -> None:
    canary, accepted = tmp_path / "canary", 0
    state = stand_in_weights(0)
    for operation in operations(canary):
        saved(tmp_path / "a.pth", {**state, "epoch": MARK}, operation)
        with contextlib.suppress(Refusal):
            read_pickled(tmp_path / "a.pth", "file", "a.pth")
            accepted += 1
    assert 0 < accepted < 12 and not canary.exists()


@pytest.mark.parametrize("name", ["bytearray", "FloatTensor", "UntypedStorage", "Popen"])
def test_functions_that_allocate_or_run_are_not_called(name: str, tmp_path: Path) -> None:
    for operation in operations(tmp_path / "canary"):
        if name.encode() in operation:
            with pytest.raises(ValueError, match="another name"):
                require_plain(saved(tmp_path / "a.pth", [MARK], operation))


def test_the_history_of_a_training_is_read(tmp_path: Path) -> None:
    content = checkpoint(stand_in_weights(0), plans(), 0)
    scheduler = torch.optim.lr_scheduler.StepLR(torch.optim.Adam([torch.nn.Parameter(torch.ones(3))]), 3)
    content |= {"scheduler": scheduler.state_dict(), "size": torch.Size([3]), "kind": torch.float16, "seen": {1, 2}}
    require_plain(saved(tmp_path / "a.pth", content))


def test_tensors_larger_than_their_file_are_refused(root: Path, tmp_path: Path) -> None:
    large = {**SMALL, "channels": [256, 256]}
    weights = {key: t.new_zeros(()).expand(t.shape) for key, t in random_network(large).state_dict().items()}
    bundle = write_bundle(tmp_path / "bundle", inference(network_def=large), weights=weights)
    assert (bundle / MODEL).stat().st_size < 2**15
    assert "does not hold the weights" in refusal(bundle, root)
    weights = {**stand_in_weights(0), "more": torch.zeros(()).expand(2**28)}
    trained = write_folder(tmp_path / "trained", folds=("0",), network_weights=weights)
    assert "is not one of nnU-Net's" in refusal(trained, root)


def test_a_tensor_of_tensors_is_refused(bundle: Path, root: Path) -> None:
    state = torch.load(bundle / MODEL, weights_only=True)
    state[next(iter(state))] = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    torch.save(state, bundle / MODEL)
    refusal(bundle, root)
