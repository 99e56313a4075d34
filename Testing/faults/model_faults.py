"""Random faults of a small valid model folder: metadata, text, header and bytes of the weights, other formats."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import os
import pickle
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

SOUND = {
    "version": "0.0.1",
    "description": "Two classes.",
    "diffusion_segmentation": {
        "schema": 1,
        "name": "small",
        "title": "Random weights",
        "map_source": "samples",
        "map_prior": 8,
        "start": {
            "covariance": {"scales_mm": [6.0, 20.0], "weights": [[0.5, 0.3]] * 3, "shared": [0.2] * 3},
            "log_snr": -1.0,
        },
        "calibration": {"data": {"kind": "none"}, "cases": 3, "start": "copula"},
        "working_spacing_mm": 4.0,
        "window": [32, 32, 32],
        "steps": {"cpu": 3, "gpu": 3},
        "intensity": {"window": [-200.0, 300.0]},
        "input_range": {"modality": "MR", "spacing_mm": [0.5, 6.0], "extent_mm": [40, 400]},
        "labels": [
            {"label": n, "id": f"part_{n}", "name": f"Part {n}", "color": [0.1, 0.5, 1], "terminology": "a~b^c^d~^^"}
            for n in (1, 2)
        ],
        "network": {
            "encoder": {"channels": [8, 8], "blocks": [1, 1]},
            "denoiser": {"channels": [8, 8], "blocks": 1, "strata": 2, "gain": 8},
        },
        "process": {
            "input_scale": 0.5,
            "loss_curve": {"log_snr": [-11.0, -3.0, 1.0, 7.0], "cross_entropy": [0.9, 0.8, 0.1, 0.0]},
        },
        "training": {"data": {"kind": "none"}},
        "input_statistics": {"scans": 9},
        "card": {"heads": {"one": {"mean_dice": 0.8, "ece": 0.1, "wrong_at_entropy": {"0.4": 0.1}}}},
    },
}


class _Runs:
    """Unpickling this would create a folder of this name."""

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (os.path.join(tempfile.gettempdir(), "a-model-that-ran"),)


def _zip_bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**20))
    return file.getvalue()


PICKLE = pickle.dumps(_Runs())
OTHER_FORMATS = [PICKLE, _zip_bomb(), b"", b"\x89HDF\r\n\x1a\n", b"version https://git-lfs.github.com/spec/v1\n", b"{}"]

VALUES = [
    *[None, True, False, 0, -1, 1, 2, 3, 7, 8, 16, 127, 128, 512, 1024, 2**31, 2**63, -(2**63), 10**24, 10**40],
    *[0.0, -0.0, 0.5, 3.0, 1e-320, 1e-9, 1e30, 1e308, float("nan"), float("inf"), -float("inf")],
    *["", " ", "x", "1", "nan", "a/b", "..", "..\\b", "%s%n", "{name}", "\0", "\n", "\x1b[2J", "\ud800", "\u202e", "é"],
    *[
        "x" * 99,
        "x" * 5000,
        "direct",
        [],
        {},
        [[]],
        [None],
        {"": {}},
        [1, 2],
        [8, 8, 8],
        [512] * 6,
        [8] * 6,
        [8] * 3000,
    ],
    *[[1024] * 3, [64, 64], [0.0, 1.0], [1, 0], [1e308, -1e308], {"window": [0, 0]}, [{"label": 1}]],
]
BITS = [
    *[b"\xef\xbb\xbf", b"\xff", b"\0", b"[" * 100_000, b"[" * 200, b'{"a":' * 5000, b"9" * 5000, b"e999", b"NaN", b"-"],
    *[
        b"\xed\xa0\x80",
        b'"\\ud800"',
        b"Infinity",
        b",",
        b"}",
        b'"',
        b" " * 1000,
        b'"schema": 2,',
        b"1e-999",
        b"\\u0000",
    ],
]
TYPES = ["F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "U64", "BOOL", "C64", "F8_E4M3", "F8_E5M2"]
TYPES += ["F8_E8M0", "F4", "F6_E2M3", "", "f16", None, 16]
SIZES = [0, 1, 2, 3, 8, 27, 216, 2**31, 2**32, 2**62, 2**63, 2**64 - 1, 2**64, -1, 1.5, None, "8"]

Path_ = tuple[Any, ...]


def _paths(value: Any, path: Path_ = ()) -> list[Path_]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(deeper for key, entry in inner for deeper in _paths(entry, (*path, key)))]


PATHS = _paths(SOUND)[1:]


def _at(metadata: Any, path: Path_) -> Any:
    for key in path:
        metadata = metadata[key]
    return metadata


def _put(metadata: Any, path: Path_, value: Any) -> None:
    _at(metadata, path[:-1])[path[-1]] = value


_paths_ = st.sampled_from(PATHS)
_values = st.one_of(st.sampled_from(VALUES), st.sampled_from(VALUES), st.integers(), st.floats(), st.text(max_size=20))
_places = st.integers(0, 2**31)

ENTRY_FAULTS = st.one_of(
    st.tuples(st.just("set"), _paths_, _values),
    st.tuples(st.just("set"), _paths_, _values),
    st.tuples(st.just("remove"), _paths_, st.none()),
    st.tuples(st.just("nest"), _paths_, st.sampled_from([1, 2, 50, 200])),
    st.tuples(st.just("swap"), _paths_, _paths_),
    st.tuples(st.just("double"), _paths_, st.sampled_from([2, 3, 20])),
)
BYTE_FAULTS = st.one_of(
    st.tuples(st.just("flip"), _places, st.integers(1, 255)),
    st.tuples(st.just("cut"), _places, st.none()),
    st.tuples(st.just("insert"), _places, st.sampled_from(BITS)),
)
HEADER_FAULTS = st.one_of(
    st.tuples(st.just("dtype"), _places, st.sampled_from(TYPES)),
    st.tuples(st.just("shape"), _places, st.lists(st.sampled_from(SIZES), max_size=6)),
    st.tuples(st.just("data_offsets"), _places, st.lists(st.sampled_from(SIZES), max_size=3)),
    st.tuples(st.just("name"), _places, st.text(max_size=9)),
    st.tuples(st.just("remove"), _places, st.none()),
    st.tuples(st.just("empty"), _places, st.lists(st.sampled_from(SIZES), max_size=4)),
    st.tuples(
        st.just("retype"), _places, st.sampled_from([("F32", 2), ("I16", 1), ("BF16", 1), ("U8", 1), ("F64", 4)])
    ),
    st.tuples(st.just("number"), _places, st.sampled_from([b"\x00\x7e", b"\x00\x7c", b"\xff\x7b", b"\x01\x00"])),
    st.tuples(st.just("length"), st.none(), st.sampled_from([0, 1, 2**16, 2**32, 2**63, 2**64 - 1])),
)


@st.composite
def folders(draw: st.DrawFn) -> dict[str, Any]:
    """Faults of the metadata's entries, of its text, of the weights' header and bytes, and whether the checksum fits.

    `other` replaces the weights.
    """
    where = draw(st.sampled_from(["entries"] * 9 + ["text"] * 2 + ["header", "header", "bytes", "other", "both"]))
    some = st.lists(ENTRY_FAULTS, min_size=1, max_size=3)
    return {
        "entries": draw(some) if where in ("entries", "both") else [],
        "text": draw(st.lists(BYTE_FAULTS, min_size=1, max_size=2)) if where == "text" else [],
        "header": draw(st.lists(HEADER_FAULTS, min_size=1, max_size=2)) if where in ("header", "both") else [],
        "bytes": draw(st.lists(BYTE_FAULTS, min_size=1, max_size=2)) if where == "bytes" else [],
        "other": draw(st.sampled_from(OTHER_FORMATS)) if where == "other" else None,
        "fits": where not in ("header", "bytes", "other", "both") or draw(st.integers(0, 9)) > 0,
    }


def _with_entries(metadata: dict[str, Any], faults: list[tuple[str, Path_, Any]]) -> dict[str, Any]:
    metadata = copy.deepcopy(metadata)
    for kind, path, value in faults:
        # Entries removed by an earlier fault cannot be changed.
        with contextlib.suppress(KeyError, IndexError, TypeError, AttributeError, RecursionError):
            match kind:
                case "set":
                    _put(metadata, path, value)
                case "remove":
                    del _at(metadata, path[:-1])[path[-1]]
                case "nest":
                    inner = _at(metadata, path)
                    for _ in range(value):
                        inner = [inner]
                    _put(metadata, path, inner)
                case "swap":
                    _put(metadata, path, copy.deepcopy(_at(metadata, value)))
                case "double":
                    inner = _at(metadata, path)
                    _put(metadata, path, inner * value if isinstance(inner, list | str) else [inner] * value)
    return metadata


def _with_bytes(data: bytes, faults: list[tuple[str, int, Any]]) -> bytes:
    for kind, place, value in faults:
        at = place % (len(data) + 1)
        match kind:
            case "flip" if at < len(data):
                data = data[:at] + bytes([data[at] ^ value]) + data[at + 1 :]
            case "cut":
                data = data[:at]
            case "insert":
                data = data[:at] + value + data[at:]
    return data


def with_header(data: bytes, faults: list[tuple[str, Any, Any]]) -> bytes:
    """The weights with their header rewritten, and numbers in them replaced."""
    length = struct.unpack("<Q", data[:8])[0]
    header, numbers = json.loads(data[8 : 8 + length]), bytearray(data[8 + length :])
    claimed = None
    for kind, place, value in faults:
        name = list(header)[place % len(header)] if header and place is not None else ""
        match kind:
            case "dtype" | "shape" | "data_offsets" if name:
                header[name][kind] = value
            case "name" if name:
                header[value] = header.pop(name)
            case "remove" if name:
                del header[name]
            case "empty":
                header["none"] = {"dtype": "F16", "shape": [*value, 0], "data_offsets": [len(numbers), len(numbers)]}
            case "retype":
                # The number of values stays the same, so the number of bytes changes with the type.
                dtype, factor = value
                numbers = bytearray(factor) * len(numbers) if factor > 1 else numbers
                for tensor in header.values():
                    tensor |= {"dtype": dtype, "data_offsets": [factor * (n or 0) for n in tensor["data_offsets"]]}
            case "number" if len(numbers) > 2:
                at = place % (len(numbers) // 2) * 2
                numbers[at : at + 2] = value
            case "length":
                claimed = value
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if claimed is None else claimed) + text + bytes(numbers)


def write_sound(folder: Path) -> None:
    """The model that is damaged."""
    import torch

    from diffusion_segmentation.model.building import build
    from diffusion_segmentation.model.folder import save
    from diffusion_segmentation.networks import InputStatistics

    torch.manual_seed(0)
    input_statistics = InputStatistics(3, 8)
    for part in input_statistics.buffers():
        part.fill_(9.0)
    save(folder, SOUND, *build(SOUND["diffusion_segmentation"]["network"], 3), input_statistics)


class Writer:
    """Writes damaged copies of the sound model over one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metadata_file, self.weights_file = folder / "metadata.json", folder / "model.safetensors"
        self.metadata = json.loads(self.metadata_file.read_text(encoding="utf-8"))
        self.weights = self.written = self.weights_file.read_bytes()

    def write(self, faults: dict[str, Any]) -> None:
        weights = self.weights
        if faults["header"]:
            with contextlib.suppress(TypeError, AttributeError):  # two faults of one tensor
                weights = with_header(weights, faults["header"])
        weights = _with_bytes(weights, faults["bytes"])
        if faults["other"] is not None:
            weights = faults["other"]
        metadata = self.metadata
        if faults["fits"] and weights is not self.weights:
            section = metadata["diffusion_segmentation"] | {"sha256": hashlib.sha256(weights).hexdigest()}
            metadata = metadata | {"diffusion_segmentation": section}
        text = json.dumps(_with_entries(metadata, faults["entries"])).encode()
        self.metadata_file.write_bytes(_with_bytes(text, faults["text"]))
        if weights is not self.written:
            self.weights_file.write_bytes(weights)
            self.written = weights
