"""Hostile metadata.json: wrong types and sizes, impossible networks, text that is not JSON."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from model_folders import Edit, change, read, sentence

from diffusion_segmentation.errors import ModelError
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.model.building import build

pytestmark = pytest.mark.usefixtures("time_limit")


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
def test_entries_of_a_wrong_type_or_size_are_refused(model_folder: Path, entry: str, edit: Edit) -> None:
    change(model_folder, edit)
    assert f"incomplete or wrong in its entry '{entry}'" in sentence(model_folder)


def test_valid_entries_are_accepted(model_folder: Path) -> None:
    change(model_folder, head())
    change(model_folder, whole(description="Two\nlines of “text”, 日本\u3000語\r\n\tand a tab"))
    change(model_folder, ours(name="random", title="Tête \u00a0日本", intensity=None, training={"minutes": 1}))
    change(model_folder, ours(window=[1024, 64, 64], steps={"cpu": 1, "gpu": 1000}, working_spacing_mm=2))
    assert len(models.available(model_folder.parent)) == 1


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
def test_invalid_networks_are_refused(model_folder: Path, network: dict[str, Any]) -> None:
    change(model_folder, lambda _, section: section["network"].update(network))
    assert "entry 'network'" in sentence(model_folder)


def test_a_network_that_is_too_large_is_refused_before_it_is_allocated(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(model_folder, lambda _, s: s["network"].update(encoder={"channels": [512] * 6, "blocks": [8] * 6}))
    allocate = torch.empty

    def empty(*size: Any, **how: Any) -> torch.Tensor:
        made = allocate(*size, **{**how, "device": "meta"})
        if made.numel() > 2**20 and "meta" not in (str(how.get("device")), str(torch.get_default_device())):
            raise MemoryError
        return allocate(*size, **how)

    monkeypatch.setattr(torch, "empty", empty)
    assert "1267 million weights" in sentence(model_folder)
    with pytest.raises(ModelError, match="million weights"):
        build(read(model_folder)["diffusion_segmentation"]["network"], 3)


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
def test_text_that_is_not_valid_metadata_is_refused(
    model_folder: Path, content: bytes | Callable[[bytes], bytes]
) -> None:
    file = model_folder / "metadata.json"
    text = file.read_bytes()
    file.write_bytes(content(text) if callable(content) else content)
    assert file.read_bytes() != text
    assert "is not valid" in sentence(model_folder)
