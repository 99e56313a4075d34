"""Hostile model.safetensors: damaged headers, wrong types, shapes and numbers, other formats, code."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from model_folders import rewrite, sentence
from safetensors.torch import save as stored

from diffusion_segmentation.model import folder as models
from diffusion_segmentation.model.weights import WEIGHT_TYPES

pytestmark = pytest.mark.usefixtures("time_limit")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return models.safetensors.load((folder / "model.safetensors").read_bytes())


NAME = "encoder.head.bias"
NAN, INFINITY = float("nan"), float("inf")


def with_tensor(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], bytes]:
    return lambda folder: stored({**weights(folder), name: change(weights(folder)[NAME]).contiguous()})


def without(name: str) -> Callable[[Path], bytes]:
    return lambda folder: stored({key: value for key, value in weights(folder).items() if key != name})


def with_header(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Path], bytes]:
    def changed(folder: Path) -> bytes:
        data = (folder / "model.safetensors").read_bytes()
        end = 8 + struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8:end])
        edit(header)
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data[end:]

    return changed


def empty_tensor(header: dict[str, Any]) -> None:
    end = max(tensor["data_offsets"][1] for tensor in header.values())
    header["none"] = {"dtype": "F16", "shape": [0, 2**63], "data_offsets": [end, end]}


def empty_tensors(header: dict[str, Any]) -> None:
    end = max(tensor["data_offsets"][1] for tensor in header.values())
    for n in range(5000):
        header[f"none{n}"] = {"dtype": "F16", "shape": [0, 2**40], "data_offsets": [end, end]}


STRANGE_WEIGHTS: dict[str, tuple[str, Callable[[Path], bytes]]] = {
    "no byte": ("damaged", lambda _: b""),
    "a header of 16 EiB": ("damaged", lambda _: struct.pack("<Q", 2**64 - 1) + b"{}"),
    "a header of 90 MB": ("damaged", lambda _: struct.pack("<Q", 90_000_000) + b"{}"),
    "a header that is nested": ("damaged", lambda _: struct.pack("<Q", 200_000) + b"[" * 200_000),
    "an absurd shape": ("damaged", with_header(lambda header: header[NAME].update(shape=[2**62, 2**62]))),
    "a shape below zero": ("damaged", with_header(lambda header: header[NAME].update(shape=[-1]))),
    "no end of data": ("damaged", with_header(lambda header: header[NAME].update(data_offsets=[0, 2**63]))),
    "an unknown type": ("damaged", with_header(lambda header: header[NAME].update(dtype="F7"))),
    "an empty tensor": ("damaged", with_header(empty_tensor)),
    "empty tensors": ("do not fit", with_header(empty_tensors)),
    "integers": ("not stored as", with_tensor(NAME, lambda tensor: tensor.to(torch.int16))),
    "complex": ("not stored as", with_tensor(NAME, lambda tensor: tensor.to(torch.complex64))),
    "float64": ("not stored as", with_tensor(NAME, torch.Tensor.double)),
    "float8": ("not stored as", with_tensor(NAME, lambda tensor: tensor.to(torch.float8_e4m3fn))),
    "booleans": ("not stored as", with_tensor(NAME, torch.Tensor.bool)),
    "not a number": ("finite", with_tensor(NAME, lambda tensor: tensor * NAN)),
    "infinite": ("finite", with_tensor(NAME, lambda tensor: (tensor.float() + 1e6).half())),
    "infinite bfloat16": ("finite", with_tensor(NAME, lambda tensor: (tensor + INFINITY).bfloat16())),
    "one too many": ("do not fit", with_tensor("more", torch.Tensor.half)),
    "one too few": ("do not fit", without(NAME)),
    "none": ("do not fit", lambda _: stored({})),
    "another shape": ("do not fit", with_tensor(NAME, lambda tensor: tensor[:1])),
    "one axis more": ("do not fit", with_tensor(NAME, lambda tensor: tensor[None])),
    "too many numbers": ("do not fit", with_tensor(NAME, lambda tensor: torch.zeros(2**20, dtype=torch.float16))),
}  # fmt: skip


@pytest.mark.parametrize(("words", "make"), STRANGE_WEIGHTS.values(), ids=STRANGE_WEIGHTS)
def test_invalid_weights_are_refused(model_folder: Path, words: str, make: Callable[[Path], bytes]) -> None:
    rewrite(model_folder, make(model_folder))
    assert words in sentence(model_folder)


@pytest.mark.parametrize("dtype", WEIGHT_TYPES)
def test_weights_are_used_as_float32(model_folder: Path, dtype: torch.dtype) -> None:
    rewrite(model_folder, stored({name: tensor.to(dtype) for name, tensor in weights(model_folder).items()}))
    model = models.load(model_folder)
    assert {p.dtype for p in (*model.encoder.parameters(), *model.denoiser.parameters())} == {torch.float32}
    for name, tensor in model.encoder.state_dict().items():
        torch.testing.assert_close(tensor, weights(model_folder)[f"encoder.{name}"].float())


class Runs:
    """Unpickling this makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("form", ["pickle", "torch", "zip bomb", "beside"])
def test_no_code_is_run_and_no_file_written(model_folder: Path, tmp_path: Path, form: str) -> None:
    mark = tmp_path / "ran"
    file = model_folder / "model.safetensors"
    if form == "pickle":
        rewrite(model_folder, pickle.dumps(Runs(mark)))
    elif form == "torch":
        torch.save({"encoder.head.bias": Runs(mark)}, file)
        rewrite(model_folder, file.read_bytes())
    elif form == "zip bomb":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("../../ran", bytes(2**26))
        rewrite(model_folder, file.read_bytes())
    else:
        for name in ("__init__.py", "model.py", "sitecustomize.py", "conftest.py"):
            (model_folder / name).write_text(f"import os; os.mkdir({str(mark)!r})")
        (model_folder / "model.pt").write_bytes(pickle.dumps(Runs(mark)))
    before = sorted(tmp_path.rglob("*"))
    if form == "beside":
        models.load(model_folder)
        assert len(models.available(model_folder.parent)) == 1
    else:
        assert "damaged or of another format" in sentence(model_folder)
    assert sorted(tmp_path.rglob("*")) == before and not mark.exists()
