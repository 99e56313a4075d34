"""Model folders from anywhere: each is a model, or one sentence; never code that runs, a crash, a hang, much memory.

In Testing/engine/test_model.py already: what a damaged copy looks like. What is damaged at random is in fuzz_models.py.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import pickle
import shutil
import signal
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as stored

from diffusion_segmentation.errors import ModelError
from diffusion_segmentation.model import folder as models

PATIENCE_SECONDS = 10
Edit = Callable[[dict[str, Any], dict[str, Any]], Any]


@pytest.fixture(autouse=True)
def soon(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that waits for a pipe, or reads a device without end, fails instead."""
    if not hasattr(signal, "SIGALRM") or request.node.get_closest_marker("slow"):
        yield
        return

    def fail(*_: Any) -> None:
        raise TimeoutError("hung")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(PATIENCE_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def folder(a_model_folder: Path, tmp_path: Path) -> Path:
    """A sound model, the only one in its folder of models."""
    return shutil.copytree(a_model_folder, tmp_path / "models" / "random")


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metadata.json").read_text(encoding="utf-8"))


def change(folder: Path, edit: Edit) -> None:
    """`edit` gets the whole of the metadata and our section. Numbers may be NaN, text may be half a character."""
    metadata = read(folder)
    edit(metadata, metadata["diffusion_segmentation"])
    (folder / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")


def rewrite(folder: Path, weights: bytes) -> None:
    """Other weights, with their checksum in the metadata."""
    (folder / "model.safetensors").write_bytes(weights)
    change(folder, lambda _, section: section.update(sha256=hashlib.sha256(weights).hexdigest()))


def sentence(folder: Path) -> str:
    """What is said of a folder that is refused, and that it is left out where models are listed."""
    with pytest.raises(ModelError) as caught:
        models.load(folder)
    text = str(caught.value)
    assert text.endswith(".") and text.isprintable() and len(text) < 300 and str(folder.parent) not in text
    assert models.available(folder.parent) == []
    return text


def test_a_sound_model_is_listed(folder: Path) -> None:
    assert [metadata["version"] for metadata in models.available(folder.parent)] == ["0.0.1"]


def labels(count: int) -> list[dict[str, Any]]:
    return [
        {"label": n, "id": f"i{n}", "name": "x", "color": [1, 1, 1], "terminology": ""} for n in range(1, count + 1)
    ]


def curve(**changed: Any) -> Edit:
    return lambda _, section: section["process"]["loss_curve"].update(changed)


def first_label(**changed: Any) -> Edit:
    return lambda _, section: section["labels"][0].update(changed)


def ours(**changed: Any) -> Edit:
    return lambda _, section: section.update(changed)


def whole(**changed: Any) -> Edit:
    return lambda metadata, _: metadata.update(changed)


def head(**changed: Any) -> Edit:
    scores = {"mean_dice": 0.8, "ece": 0.1, "wrong_at_entropy": {"0.4": None, "0.6": 0}}
    return ours(card={"heads": {"one": scores | changed}})


NAN, INFINITY = float("nan"), float("inf")
WRONG: dict[str, tuple[str, list[Edit]]] = {
    "version": ("version", [whole(version=3), whole(version=""), whole(version="1\n2"), lambda m, _: m.pop("version")]),
    "description": (
        "description",
        [whole(description=["x"]), whole(description="\x1b[2J"), whole(description="x" * 9**5)],
    ),
    "intended use": ("intended_use", [whole(intended_use=None), whole(intended_use="\0")]),
    "name with folders": ("name", [ours(name=name) for name in ("../../x", "a/b", "a\\b", "..", ".", "")]),
    "name of strange text": ("name", [ours(name=name) for name in ("a\nb", "a\x1b[2J", "\u202ea", "x" * 101, " ", 5)]),
    "title": ("title", [ours(title=title) for title in ("x" * 201, "a\u2028b", "a\0", ["x"], "")]),
    "checksum": ("sha256", [ours(sha256=value) for value in (5, None, [], "", "x" * 64, "0" * 63, "0" * 10**5)]),
    "map source": ("map_source", [ours(map_source=value) for value in (None, True, [], {})]),
    "spacing": ("working_spacing_mm", [ours(working_spacing_mm=value) for value in (True, "1", 1e-9, 1e9, [1], None)]),
    "no labels": ("labels", [ours(labels=value) for value in ([], {}, [[]], [1], None)]),
    "many labels": ("labels", [ours(labels=labels(128)), ours(labels=labels(9999))]),
    "label": ("labels", [first_label(label=value) for value in (True, 1.0, "1", 0)]),
    "ids twice": ("labels", [first_label(id="structure_2")]),
    "id": ("labels", [first_label(id=value) for value in ("", "a\nSegment1_ID:=b", "x" * 201, 1, None)]),
    "structure": ("labels", [first_label(name=value) for value in ("", "\t", "a\nb", "x" * 201, {}, "\x7f")]),
    "terminology": ("labels", [first_label(terminology=value) for value in ("a~b\n", "x" * 1001, None)]),
    "colour": ("labels", [first_label(color=value) for value in ([1, 1], [True, 0, 0], [0, 0, 2], "rgb", [0, 0, "1"])]),
    "axes": ("network", [lambda _, s, n=n: s["network"].update(dims=n) for n in (True, 2.0, 4, "3", None, [3])]),
    "window": ("window", [ours(window=value) for value in ([True] * 3, [64.0] * 3, [1024] * 3, [1] * 3, "big", 64)]),
    "steps": ("steps", [ours(steps={"cpu": n, "gpu": 3}) for n in (True, 10**9, 0, -1, 2.5, "3", None)]),
    "curve with strange losses": ("process", [curve(cross_entropy=[0.9, n, 0.1, 0.0]) for n in ("1", None, -1, 1e300)]),
    "curve of booleans": ("process", [curve(cross_entropy=[True, True, False, False])]),
    "curve that does not rise": ("process", [curve(log_snr=[-11, 1, -3, 7]), curve(log_snr=[-3, -3, 1, 7])]),
    "curve out of range": ("process", [curve(log_snr=[-1e9, -3, 1, 7]), curve(log_snr=[-11, -3, 1, 90])]),
    "curve of a point": ("process", [curve(log_snr=[1], cross_entropy=[1]), curve(log_snr=[], cross_entropy=[])]),
    "long curve": ("process", [curve(log_snr=[n / 1e4 for n in range(20_000)], cross_entropy=[0] * 20_000)]),
    "intensity": (
        "intensity",
        [ours(intensity={"window": w}) for w in ([0, 1e-9], [1, 0], [True, 2], [0, 1e300], ["0", "1"], [1], 5, None)],
    ),
    "input range": (
        "input_range",
        [
            ours(input_range={"spacing_mm": r, "extent_mm": [1, 9]})
            for r in ([2, 1], [0, 1], [-1, 1], ["a", "b"], [True, 2])
        ],
    ),
    "modality": (
        "input_range",
        [lambda _, s, m=m: s["input_range"].update(modality=m) for m in (5, "M\nR", "x" * 101)],
    ),
    "training": ("training", [ours(training=value) for value in ([], "x", 5, {"data": []}, {"data": None})]),
    "card": ("card", [ours(card=[]), ours(card={"heads": []}), ours(card={"heads": {"one": {}}}), ours(card="x")]),
    "scores": (
        "card",
        [head(mean_dice="0.8"), head(ece=None), head(wrong_at_entropy={"0.4": 1e-320}), head(wrong_at_entropy=[])],
    ),
}


@pytest.mark.parametrize(("entry", "edit"), [(entry, edit) for entry, edits in WRONG.values() for edit in edits])
def test_entries_of_a_wrong_type_or_size(folder: Path, entry: str, edit: Edit) -> None:
    change(folder, edit)
    assert f"incomplete or wrong in its entry '{entry}'" in sentence(folder)


def test_what_an_entry_may_be_is_not_refused(folder: Path) -> None:
    change(folder, head())
    change(folder, whole(description="Two\nlines of “text”, 日本\u3000語\r\n\tand a tab"))
    change(folder, ours(name="random", title="Tête \u00a0日本", intensity=None, training={"minutes": 1}))
    change(folder, ours(window=[1024, 64, 64], steps={"cpu": 1, "gpu": 1000}, working_spacing_mm=2))
    assert len(models.available(folder.parent)) == 1


@pytest.mark.parametrize(
    "network",
    [
        {"encoder": {"channels": [True, 16], "blocks": [1, 1]}},
        {"encoder": {"channels": [8, 16], "blocks": [True, 1]}},
        {"encoder": {"channels": [8] * 5000, "blocks": [1] * 5000}},
        {"encoder": {"channels": {"8": 8}, "blocks": [1]}},
        {"denoiser": {"channels": [8, 16], "blocks": True}},
        {"denoiser": {"channels": [8, 16], "blocks": 1, "strata": True}},
        {"denoiser": {"channels": [8, 16], "blocks": 1, "gain": True}},
        {"denoiser": {"channels": [8, 16], "blocks": 10**20}},
        {"denoiser": []},
    ],
)
def test_networks_that_are_none(folder: Path, network: dict[str, Any]) -> None:
    change(folder, lambda _, section: section["network"].update(network))
    assert "entry 'network'" in sentence(folder)


def test_a_network_too_large_is_refused_before_it_takes_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(folder, lambda _, s: s["network"].update(encoder={"channels": [512] * 6, "blocks": [8] * 6}))
    allocate = torch.empty

    def empty(*size: Any, **how: Any) -> torch.Tensor:
        made = allocate(*size, **{**how, "device": "meta"})
        if made.numel() > 2**20 and "meta" not in (str(how.get("device")), str(torch.get_default_device())):
            raise MemoryError
        return allocate(*size, **how)

    monkeypatch.setattr(torch, "empty", empty)
    assert "1267 million weights" in sentence(folder)
    with pytest.raises(ModelError, match="million weights"):
        models.build(read(folder)["diffusion_segmentation"]["network"], 3)


FOREIGN: dict[str, bytes | Callable[[bytes], bytes]] = {
    "nothing": b"",
    "UTF-16": lambda text: text.decode().encode("utf-16"),
    "with a byte-order mark": lambda text: b"\xef\xbb\xbf" + text,
    "no UTF-8": lambda text: text.replace(b"Random", b"R\xffndom"),
    "half a character": lambda text: text.replace(b"Random", b"R\\ud800ndom"),
    "half a character elsewhere": lambda text: text.replace(b"{", b'{"seed": "\\udfff",', 1),
    "nested without end": lambda text: text.replace(b"{", b'{"deep": ' + b"[" * 10**5 + b"]" * 10**5 + b",", 1),
    "nested deeply": lambda text: text.replace(b"{", b'{"deep": ' + b"[" * 150 + b"]" * 150 + b",", 1),
    "nested without end, cut": b'{"a":' * 10**5,
    "infinite": lambda text: text.replace(b"4.0", b"Infinity"),
    "NaN": lambda text: text.replace(b"0.9", b"NaN"),
    "NaN where nobody looks": lambda text: text.replace(b"{", b'{"seed": NaN,', 1),
    "beyond float": lambda text: text.replace(b"0.9", b"1e999"),
    "a number without end": lambda text: text.replace(b"{", b'{"seed": ' + b"9" * 10**6 + b",", 1),
    "a list": b"[]",
    "a number": b"1",
    "a list inside": b'{"diffusion_segmentation": []}',
    "text inside": b'{"diffusion_segmentation": "schema"}',
    "a pickle": pickle.dumps({"diffusion_segmentation": {"schema": 1}}),
    "schema of another type": lambda text: text.replace(b'"schema": 1', b'"schema": true'),
    "schema as a number with a point": lambda text: text.replace(b'"schema": 1', b'"schema": 1.0'),
    "schema that fills the screen": lambda text: text.replace(b'"schema": 1', b'"schema": "' + b"x" * 9999 + b'"'),
    "too long": lambda text: text + b" " * 2**22,
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_metadata_that_are_none(folder: Path, content: bytes | Callable[[bytes], bytes]) -> None:
    file = folder / "metadata.json"
    text = file.read_bytes()
    file.write_bytes(content(text) if callable(content) else content)
    assert file.read_bytes() != text
    assert "is not valid" in sentence(folder)


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
def test_files_that_are_no_files(folder: Path, name: str, make: Callable[[Path], None]) -> None:
    make(folder / name)
    assert f"The {name} of the model 'random' is a link or not a file" in sentence(folder)


@pytest.mark.parametrize("name", ["metadata.json", "model.safetensors"])
def test_a_file_larger_than_any_memory(folder: Path, name: str) -> None:
    with (folder / name).open("r+b") as file:
        file.truncate(2**41)  # without a byte of it on the disk
    assert ("is not valid" if name == "metadata.json" else "do not fit") in sentence(folder)


def test_a_folder_may_be_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "random").symlink_to(folder, target_is_directory=True)
    assert models.find(str(tmp_path / "linked" / "random")) == tmp_path / "linked" / "random"
    assert len(models.available(tmp_path / "linked")) == 1


@pytest.mark.parametrize("name", ["nowhere", "a\0b", "x" * 300, "loop", "file"])
def test_folders_that_are_none(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelError, match=r"^[^\n]{,250}\.$"):
        models.load(tmp_path / name)
    with pytest.raises(ModelError, match="There is no model"):
        models.find(str(tmp_path / name))


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "x" * 100_000, "a/" * 5000, "\0", "\udcff"])
def test_names_that_are_none_are_answered_in_a_line(name: str) -> None:
    with pytest.raises(ModelError) as caught:
        models.find(name)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300


def test_a_name_does_not_lead_out_of_the_shipped_models(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "SHIPPED", folder)
    for name in ("../random", "./../random", ""):
        with pytest.raises(ModelError, match="There is no model"):
            models.find(name)
    monkeypatch.setattr(models, "SHIPPED", folder.parent)
    assert models.find("random") == folder


def test_a_model_does_not_pass_for_another(folder: Path) -> None:
    """Not in the list under a name that is not its folder's, nor its metadata beside another's weights."""
    shutil.copytree(folder, folder.parent / "another")
    assert len(models.available(folder.parent)) == 1
    shutil.rmtree(folder)
    assert models.available(folder.parent) == []


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return models.safetensors.load((folder / "model.safetensors").read_bytes())


NAME = "encoder.head.bias"


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
def test_strange_weights(folder: Path, words: str, make: Callable[[Path], bytes]) -> None:
    rewrite(folder, make(folder))
    assert words in sentence(folder)


@pytest.mark.parametrize("dtype", models.WEIGHT_TYPES)
def test_weights_are_used_as_float32(folder: Path, dtype: torch.dtype) -> None:
    rewrite(folder, stored({name: tensor.to(dtype) for name, tensor in weights(folder).items()}))
    model = models.load(folder)
    assert {p.dtype for p in (*model.encoder.parameters(), *model.denoiser.parameters())} == {torch.float32}
    for name, tensor in model.encoder.state_dict().items():
        torch.testing.assert_close(tensor, weights(folder)[f"encoder.{name}"].float())


class Runs:
    """Unpickling this makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("form", ["pickle", "torch", "zip bomb", "beside"])
def test_no_code_is_run_and_nothing_written(folder: Path, tmp_path: Path, form: str) -> None:
    mark = tmp_path / "ran"
    file = folder / "model.safetensors"
    if form == "pickle":
        rewrite(folder, pickle.dumps(Runs(mark)))
    elif form == "torch":
        torch.save({"encoder.head.bias": Runs(mark)}, file)
        rewrite(folder, file.read_bytes())
    elif form == "zip bomb":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("../../ran", bytes(2**26))
        rewrite(folder, file.read_bytes())
    else:
        for name in ("__init__.py", "model.py", "sitecustomize.py", "conftest.py"):
            (folder / name).write_text(f"import os; os.mkdir({str(mark)!r})")
        (folder / "model.pt").write_bytes(pickle.dumps(Runs(mark)))
    before = sorted(tmp_path.rglob("*"))
    if form == "beside":
        models.load(folder)
        assert len(models.available(folder.parent)) == 1
    else:
        assert "damaged or of another format" in sentence(folder)
    assert sorted(tmp_path.rglob("*")) == before and not mark.exists()


def test_a_copy_is_no_model_before_it_is_whole(folder: Path, tmp_path: Path) -> None:
    """Whichever file comes first, wherever it stops, and where its room on the disk is taken beforehand."""
    names = ("metadata.json", "model.safetensors")
    for first, second in (names, names[::-1]):
        copied = tmp_path / f"{first} first" / "random"
        copied.mkdir(parents=True)
        for name in (first, second):
            data = (folder / name).read_bytes()
            sentence(copied)
            for share in (0, 1, len(data) // 2, len(data) - 2):
                (copied / name).write_bytes(data[:share])
                sentence(copied)
                (copied / name).write_bytes(data[:share].ljust(len(data), b"\0"))
                sentence(copied)
            (copied / name).write_bytes(data)
        assert len(models.available(copied.parent)) == 1


def test_saving_that_stops_halfway_leaves_no_model_with_others_weights(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models.load(folder)
    model.encoder.head.bias.data += 1
    replace, done = os.replace, []

    def once(source: Path, target: Path) -> None:
        if done:
            raise OSError("killed")
        done.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", once)
    with pytest.raises(OSError, match="killed"):
        models.save(folder, model.metadata, model.encoder, model.denoiser)
    assert "checksum" in sentence(folder)


@pytest.mark.slow
def test_damaged_folders_end_in_a_model_or_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    # Imported by its name, by which its children find it too.
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    tally = importlib.import_module("fuzz_models").fuzz(400, seed=1)
    assert tally.inputs == 400 and tally.accepted > 5 and tally.refused > 200
    assert tally.sound, str(tally)
