"""Result files: content, complete or absent, and equal bytes for equal input."""

from __future__ import annotations

import errno
import gzip
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from diffusion_segmentation.errors import DiffusionSegmentationError
from diffusion_segmentation.images import writing as results

TABLE = [
    {"label": 1, "id": "csf", "name": "Cerebrospinal fluid", "color": [0.2, 0.4, 1.0], "terminology": "a~b^c~d"},
    {"label": 2, "id": "kern", "name": "Tiefe Kerne ü 核", "color": [1, 0, 0.5], "terminology": "e~f^g~h"},
    {"label": 3, "id": "absent", "name": "Back\\slash", "color": [0, 0, 0], "terminology": "i~j^k~l"},
]


def oblique_reference() -> sitk.Image:
    rotation = np.linalg.qr(np.random.default_rng(5).standard_normal((3, 3)))[0]
    image = sitk.Image(7, 9, 11, sitk.sitkFloat32)
    image.SetSpacing((0.7, 1.3, 2.9))
    image.SetDirection(rotation.ravel().tolist())
    image.SetOrigin((-12.3456789012345, 1 / 3, 1e3))
    return image


REFERENCE = oblique_reference()
LABELS = np.zeros((11, 9, 7), np.uint8)
LABELS[2:6, 1:4, 3:5] = 1
LABELS[9, 7, 6] = 2
ENTROPY = np.random.default_rng(1).random((11, 9, 7)).astype(np.float32)
BOX = ((2, 3, 4), (4, 5, 6))
VOLUMES = [np.random.default_rng(n).integers(0, 4, (6, 5, 4)).astype(np.uint8) for n in range(3)]

WRITERS: dict[str, Callable[[Path, bool], None]] = {
    "labels.seg.nrrd": lambda path, compress: results.write_segmentation(path, LABELS, REFERENCE, TABLE, compress),
    "entropy.nrrd": lambda path, compress: results.write_volume(path, ENTROPY, REFERENCE, compress),
    "samples.seq.nrrd": lambda path, compress: results.write_sequence(path, VOLUMES, REFERENCE, BOX, compress),
    "report.json": lambda path, compress: results.write_report(path, {"seed": 0, "name": "Müller"}),
}


def read_nrrd(path: Path) -> tuple[dict[str, str], np.ndarray]:
    """An independent reader: fields and key/values as text, data with the slowest axis first."""
    header, _, data = path.read_bytes().partition(b"\n\n")
    magic, *rest = header.decode("utf-8").split("\n")
    assert magic == "NRRD0004"
    fields = dict(line.split(":=" if ":=" in line else ": ", 1) for line in rest)
    data = gzip.decompress(data) if fields["encoding"] == "gzip" else data
    dtype = {"uint8": "u1", "float": "<f4"}[fields["type"]]
    return fields, np.frombuffer(data, dtype).reshape([int(n) for n in fields["sizes"].split()][::-1])


def lps(image: sitk.Image, ijk: tuple[int, ...]) -> np.ndarray:
    return np.array(image.GetOrigin()) + np.reshape(image.GetDirection(), (3, 3)) @ (np.array(ijk) * image.GetSpacing())


@pytest.mark.parametrize("compress", [False, True])
def test_segmentation_has_labels_geometry_and_segments(tmp_path: Path, compress: bool) -> None:
    path = tmp_path / "segmentation.seg.nrrd"
    results.write_segmentation(path, LABELS, REFERENCE, TABLE, compress)
    read = sitk.ReadImage(str(path))
    assert (sitk.GetArrayFromImage(read) == LABELS).all()
    for ijk in ((0, 0, 0), (6, 8, 10), (1, 5, 2)):
        np.testing.assert_allclose(lps(read, ijk), lps(REFERENCE, ijk), rtol=0, atol=1e-9)
    assert read.GetMetaData("Segmentation_MasterRepresentation") == "Binary labelmap"
    for n, entry in enumerate(TABLE):
        written = {key: read.GetMetaData(f"Segment{n}_{key}") for key in ("ID", "Name", "LabelValue", "Layer", "Tags")}
        assert written == {
            "ID": entry["id"],
            "Name": entry["name"],
            "LabelValue": str(entry["label"]),
            "Layer": "0",
            "Tags": f"TerminologyEntry:{entry['terminology']}|Segmentation.Status:inprogress|",
        }
        assert [float(c) for c in read.GetMetaData(f"Segment{n}_Color").split()] == entry["color"]


def test_all_segments_of_the_layer_state_the_extent_of_all_of_them(tmp_path: Path) -> None:
    """Slicer clips the whole layer to the extent of its first segment; a tight one would lose the others."""
    path = tmp_path / "segmentation.seg.nrrd"
    results.write_segmentation(path, LABELS, REFERENCE, TABLE, False)
    fields, _ = read_nrrd(path)
    assert {fields[f"Segment{n}_Extent"] for n in range(3)} == {"3 6 1 7 2 9"}
    results.write_segmentation(path, LABELS * 0, REFERENCE, TABLE, False)
    fields, _ = read_nrrd(path)
    assert {fields[f"Segment{n}_Extent"] for n in range(3)} == {"0 -1 0 -1 0 -1"}


@pytest.mark.parametrize("compress", [False, True])
def test_entropy_keeps_its_values_and_geometry(tmp_path: Path, compress: bool) -> None:
    path = tmp_path / "entropy.nrrd"
    results.write_volume(path, ENTROPY, REFERENCE, compress)
    read = sitk.ReadImage(str(path))
    assert read.GetPixelID() == sitk.sitkFloat32
    assert (sitk.GetArrayFromImage(read) == ENTROPY).all()
    np.testing.assert_allclose(lps(read, (6, 8, 10)), lps(REFERENCE, (6, 8, 10)), rtol=0, atol=1e-9)


@pytest.mark.parametrize("compress", [False, True])
def test_sequence_has_the_list_first_and_its_own_origin(tmp_path: Path, compress: bool) -> None:
    path = tmp_path / "samples.seq.nrrd"
    results.write_sequence(path, VOLUMES, REFERENCE, BOX, compress, index_name="class")
    fields, data = read_nrrd(path)
    assert fields["kinds"] == "list domain domain domain"
    assert fields["sizes"] == "3 4 5 6"
    assert fields["space directions"].startswith("none (")
    assert fields["labels"] == '"class" "" "" ""'
    assert fields["axis 0 index values"] == "0 1 2"
    origin = [float(x) for x in fields["space origin"].strip("()").split(",")]
    np.testing.assert_allclose(origin, lps(REFERENCE, BOX[0]), rtol=0, atol=1e-9)
    for n, volume in enumerate(VOLUMES):
        assert (data[..., n] == volume).all()


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("compress", [False, True])
def test_the_same_input_gives_the_same_bytes(
    tmp_path: Path, name: str, compress: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "a" / name, tmp_path / "b" / f"other-{name}"
    first.parent.mkdir()
    second.parent.mkdir()
    WRITERS[name](first, compress)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1000)
    WRITERS[name](second, compress)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("name", WRITERS)
def test_paths_with_spaces_and_other_letters(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "Bilder von Müller 図"
    folder.mkdir()
    WRITERS[name](folder / f"é 中 {name}", False)
    assert [path.name for path in folder.iterdir()] == [f"é 中 {name}"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /dev/full, where each write finds no space")
@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("compress", [False, True])
def test_a_full_disk_is_named_and_leaves_the_old_file(tmp_path: Path, name: str, compress: bool) -> None:
    path = tmp_path / name
    path.write_bytes(b"the old file")
    stem, _, extension = name.partition(".")
    os.symlink("/dev/full", tmp_path / f"{stem}.part.{extension}")
    with pytest.raises(DiffusionSegmentationError, match=f"The disk is full, '{name}' was not written") as caught:
        WRITERS[name](path, compress)
    assert isinstance(caught.value.__cause__, OSError) and caught.value.__cause__.errno == errno.ENOSPC
    assert path.read_bytes() == b"the old file"
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError])
def test_interrupted_writing_leaves_no_file(tmp_path: Path, stop: type[BaseException]) -> None:
    class Stopping(np.ndarray):
        def __array_finalize__(self, parent: object) -> None:
            if self.ndim == 2:  # the first slice
                raise stop

    volumes = [VOLUMES[0], VOLUMES[1].view(Stopping)]
    with pytest.raises(stop):
        results.write_sequence(tmp_path / "samples.seq.nrrd", volumes, REFERENCE, BOX, False)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DiffusionSegmentationError, match=r"The folder for 'entropy\.nrrd' does not exist"):
        results.write_volume(tmp_path / "nowhere" / "entropy.nrrd", ENTROPY, REFERENCE, False)


def test_a_target_that_cannot_be_replaced_is_named(tmp_path: Path) -> None:
    (tmp_path / "report.json").mkdir()
    with pytest.raises(DiffusionSegmentationError, match=r"'report\.json'"):
        results.write_report(tmp_path / "report.json", {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]


def test_report_is_readable_and_holds_numbers_only(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    results.write_report(path, {"name": "Müller", "volumes": [1.5]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"name": "Müller", "volumes": [1.5]}
    assert "Müller" in path.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="JSON"):
        results.write_report(path, {"volumes": [float("nan")]})
    assert json.loads(path.read_text(encoding="utf-8"))["volumes"] == [1.5]


def test_arrays_of_other_shapes_raise_value_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="grid"):
        results.write_volume(tmp_path / "e.nrrd", ENTROPY[1:], REFERENCE, False)
    with pytest.raises(ValueError, match="box"):
        results.write_sequence(tmp_path / "s.nrrd", [VOLUMES[0].T], REFERENCE, BOX, False)
    with pytest.raises(ValueError, match="no entry"):
        results.write_segmentation(tmp_path / "s.seg.nrrd", LABELS + 2, REFERENCE, TABLE, False)
    assert list(tmp_path.iterdir()) == []
