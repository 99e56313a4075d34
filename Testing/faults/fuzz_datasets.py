"""Feeds damaged data sets to the reader: each must give readable cases or an error of one sentence within 5 s.

    python Testing/faults/fuzz_datasets.py --examples 100000 [--seed 0] [--keep FOLDER]

Small sound data sets, laid out as the Decathlon and nnU-Net v1 and v2 do, are changed at random: entries of
dataset.json replaced, removed, nested or made extreme, its text cut or flipped, files removed, renamed, doubled, made
empty or folders, images and labels exchanged. What is accepted has its first cases read, labels included. A child
process reads, so that a crash ends the child only. The last line has the counts of results; the exit status is 1 if
reading crashed, hung or raised an unexpected exception. `--keep` keeps those data sets.
"""

from __future__ import annotations

import copy
import json
import random
import shutil
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

import fuzzing
from fuzz_volumes import VOXELS, nifti
from fuzzing import Tally
from reader_process import Child

IMAGE = nifti(VOXELS.tobytes())
LABEL = nifti((VOXELS % 3).astype("<i2").tobytes())
ENDS = (
    ".nii",
    ".nii.gz",
    ".nrrd",
    ".mha",
    ".seg.nrrd",
    ".hdr",
    ".img",
    ".tif",
    ".png",
    ".txt",
    "",
    "_rater1.nii",
    "_0000.nii",
)

EXTREMES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, 2, -1, 255, 256, 2**31, 2**63, 10**400, 1.5, -0.0, 1e308, "", " ", "0", "1", "ignore"),
    *("a", "background", "a" * 500, "\n", "\0", "\ud800", "ü\u202e", "../..", "/", "/etc/passwd", "C:\\x", "~", "."),
    *(
        "imagesTr",
        "imagesTr/",
        "./imagesTr/c0.nii",
        "c0",
        "CT",
        "T1",
        [],
        {},
        [[]],
        [None],
        {"0": {}},
        [0, 1],
        {"": ""},
    ),
    *([["a", 1]], {"a": [1, 2]}, {"images": ["x"]}, {"image": 1, "label": 2}, ["imagesTr/c0.nii"] * 300),
)


def sound(rng: random.Random) -> tuple[dict[str, Any], dict[str, bytes]]:
    """dataset.json and files of a data set of three cases, in one of the layouts."""
    new = rng.random() < 0.5
    labels = {"background": 0, "a": 1, "b": 2} if new else {"0": "background", "1": "a", "2": "b"}
    listing: dict[str, Any] = {"name": "X", "labels": labels, "numTraining": 3, "file_ending": ".nii"}
    listing["channel_names" if new else "modality"] = {"0": "MRI"}
    form = rng.choice(("folders", "training", "v1", "v2"))
    suffix = "_0000" if form in ("folders", "v1") else ""
    files = {f"imagesTr/c{n}{suffix}.nii": IMAGE for n in range(3)} | {f"labelsTr/c{n}.nii": LABEL for n in range(3)}
    pairs = [{"image": f"./imagesTr/c{n}.nii", "label": f"./labelsTr/c{n}.nii"} for n in range(3)]
    if form in ("training", "v1"):
        listing["training"] = pairs
    if form == "v2":
        listing["dataset"] = {
            f"c{n}": {"images": [pair["image"]], "label": pair["label"]} for n, pair in enumerate(pairs)
        }
    return listing, files


def _places(value: Any, above: tuple = ()) -> list[tuple]:
    """Paths to every entry of a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [above] * bool(above) + [place for key, entry in inner for place in _places(entry, (*above, key))]


def changed(rng: random.Random, listing: Any) -> Any:
    """The listing with one entry replaced, removed, renamed or nested."""
    places = _places(listing)
    if not places:
        return copy.deepcopy(rng.choice(EXTREMES))
    *way, last = rng.choice(places)
    holder = listing
    for key in way:
        holder = holder[key]
    match rng.randrange(6):
        case 0:
            del holder[last]
        case 1 if isinstance(holder, dict):
            holder[str(rng.choice(EXTREMES))[:600]] = holder.pop(last)
        case 2:
            holder[last] = [copy.deepcopy(holder[last]) for _ in range(rng.choice((1, 2)))]
        case 3:
            holder[last] = {"0": holder[last]}
        case 4 if isinstance(holder, list):
            holder.append(copy.deepcopy(holder[last]))
        case _:
            holder[last] = copy.deepcopy(rng.choice(EXTREMES))
    return listing


def text_of(rng: random.Random, listing: Any) -> bytes:
    """The listing as it is written, at times cut, flipped, nested or in another encoding."""
    text = json.dumps(listing, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    match rng.randrange(16):
        case 0:
            return text[: rng.randrange(len(text) + 1)]
        case 1:
            at = rng.randrange(len(text))
            return text[:at] + bytes([rng.randrange(256)]) + text[at + 1 :]
        case 2:
            return rng.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"//\n", b"[" * 5000, b'{"labels":' * 3000)) + text
        case 3:
            return text.decode("utf-8", "replace").encode(rng.choice(("utf-16", "utf-8-sig", "latin-1")), "replace")
        case 4:
            return text.replace(
                rng.choice((b'"', b",", b":", b"}")), rng.choice((b"'", b",,", b"", b"1e400", b"NaN")), 1
            )
    return text


def volume_of(rng: random.Random, content: bytes) -> bytes:
    """A file of the data set, at times another one than it should be."""
    raw = bytearray(content)
    match rng.randrange(8):
        case 0:
            return b""
        case 1:
            return rng.choice((IMAGE, LABEL))
        case 2:
            struct.pack_into("<h", raw, 352 + 2 * rng.randrange(60), rng.choice((-1, 3, 255, 300)))
        case 3:  # half the labels are fractions: float32 in place of pairs of shorts
            struct.pack_into("<2h", raw, 70, 16, 32)
        case 4:
            struct.pack_into("<2h", raw, 252, rng.choice((0, 1)), 0)
        case 5:
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        case 6:
            return bytes(raw[: rng.randrange(len(raw))])
    return bytes(raw)


def write(rng: random.Random, folder: Path) -> None:
    """A data set with one to four faults."""
    listing, files = sound(rng)
    where = rng.choice(("listing", "listing", "files", "both"))
    for _ in range(rng.choice((1, 1, 2, 4)) if where != "files" else 0):
        listing = changed(rng, listing)
    for _ in range(rng.choice((1, 1, 2, 3)) if where != "listing" else 0):
        name = rng.choice(list(files) or ["imagesTr/c0.nii"])
        other = f"{name.partition('.')[0]}{rng.choice(ENDS)}"
        match rng.randrange(5):
            case 0:
                files.pop(name, None)
            case 1:
                files[other] = files.pop(name, b"")
            case 2:
                files[other] = files.get(name, b"")
            case 3:
                files[f"{name}/inner.nii"] = files.pop(name, b"")
            case _:
                files[name] = volume_of(rng, rng.choice((IMAGE, LABEL)))
    for name, content in files.items():
        path = folder / name
        if not any(above.is_file() for above in path.parents) and not path.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    if rng.random() > 0.01:
        (folder / "dataset.json").write_bytes(text_of(rng, listing))


def look_at_dataset(folder: Path) -> str:
    """Read a data set: its listing, and content, images and labels of the first cases."""
    from diffusion_segmentation.images.case_files import CaseFiles
    from diffusion_segmentation.images.dataset import read_dataset
    from diffusion_segmentation.images.file_digest import files_sha256
    from diffusion_segmentation.images.label_file import IGNORED, read_labels

    dataset = read_dataset(folder)
    names = [case.name for case in dataset.training]
    if len(set(names)) < len(names) or not all(case.labels for case in dataset.training):
        return "cases that cannot be told apart"
    for case in (*dataset.training[:2], *dataset.test[:1]):
        files_sha256(*case.files)
        image = CaseFiles(case.images).read(dataset.inputs)[0]
        for path in case.labels:
            values = set(read_labels(path, image, dataset.label_names, dataset.ignored).ravel().tolist())
            if not values <= {*range(len(dataset.label_names) + 1), IGNORED}:
                return "labels that are none"
    return "accepted"


def fuzz(examples: int, seed: int = 0, keep: Path | None = None) -> Tally:
    """Read `examples` damaged data sets; those that crash, hang or raise something else are copied to `keep`."""
    rng, tally, child = random.Random(seed), Tally(), Child(look_at_dataset)
    with tempfile.TemporaryDirectory(prefix="fuzz-datasets-") as root:
        for number in range(examples):
            folder = Path(root) / f"patients{number % 2}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            write(rng, folder)
            answer, seconds = child.ask(folder)
            tally.count(answer, seconds)
            if answer in ("crash", "hang"):
                child = Child(look_at_dataset)
            if keep and answer not in ("accepted", "refused"):
                shutil.copytree(folder, keep / f"{number}-{answer.partition(':')[0]}", dirs_exist_ok=True)
    child.end()
    return tally


if __name__ == "__main__":
    sys.exit(fuzzing.main(fuzz, __doc__))
