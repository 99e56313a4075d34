"""The protocol: which messages are valid on each side."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from diffusion_segmentation.worker import protocol as messages

ENGINE = Path(__file__).resolve().parents[2] / "DiffusionSegmentation"

RUN = {
    "type": "run", "job": "1", "folder": "/tmp/ü", "volume": "a.nrrd", "model": "m", "samples": 8, "steps": None,
    "seed": 0, "device": "auto",
}  # fmt: skip
PROGRESS = {
    "type": "progress", "job": "1", "stage": "sampling", "sample": 1, "samples": None, "step": 0, "steps": 5,
    "secondsLeft": 1.5,
}  # fmt: skip
GOOD: list[dict[str, Any]] = [
    RUN,
    {**RUN, "samples": "auto", "steps": 5, "seed": 2**63 - 1},
    {**RUN, "regionMm": 20},
    {**RUN, "regionMm": None},
    {"type": "import", "job": "1", "folder": "f", "volume": "a.nrrd", "masks": ["b.nrrd", "c.npz"], "labels": None},
    {**RUN, "type": "update", "facts": "facts.nrrd", "rounds": 2, "ask": ["volume(a)"]},
    {"type": "ask", "job": "1", "folder": "f", "questions": ["volume(a) > 40", "distance(a, b)"]},
    {"type": "cancel", "job": "1", "keep": True},
    {"type": "unload"},
    {"type": "bye"},
    {"type": "hello", "protocol": 1, "versions": {}, "devices": [{"id": "cpu", "totalBytes": None}]},
    PROGRESS,
    {**PROGRESS, "secondsLeft": None, "steps": None, "samples": 8},
    {"type": "preview", "job": "1", "segmentation": "s", "entropy": "e", "samples": 0},
    {"type": "done", "job": "1", "folder": "f", "report": {"volumes": [1.5]}},
    {"type": "partial", "job": "1", "folder": "f", "report": {}},
    {"type": "answers", "job": "1", "answers": [{"question": "volume(a)", "value": 1.5}]},
    {"type": "cancelled", "job": "1"},
    {"type": "error", "job": None, "kind": "memory", "message": "Too much.", "details": ""},
]


@pytest.mark.parametrize("message", GOOD, ids=lambda message: message["type"])
def test_a_message_is_one_line_and_comes_back_as_it_was(message: dict[str, Any]) -> None:
    line = messages.encode(message)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert messages.decode(line) == message


def test_the_tables_are_covered_by_these_tests() -> None:
    assert {message["type"] for message in GOOD} == messages.TO_WORKER.keys() | messages.FROM_WORKER.keys()


@pytest.mark.parametrize("path", ["a\nb", "a\u2028b", "Müller 図", "lone \udcff surrogate", 'quote " and \\'])
def test_any_path_survives(path: str) -> None:
    line = messages.encode({**RUN, "volume": path})
    assert line.count(b"\n") == 1 and len(line.splitlines()) == 1
    assert messages.decode(line)["volume"] == path


@pytest.mark.parametrize("message", GOOD, ids=lambda message: message["type"])
def test_every_field_is_needed_on_both_sides(message: dict[str, Any]) -> None:
    for field in message.keys() - messages.OPTIONAL.get(message["type"], {}).keys():
        less = {key: value for key, value in message.items() if key != field}
        with pytest.raises(messages.MessageError):
            messages.encode(less)


@pytest.mark.parametrize(
    "wrong",
    [
        {**RUN, "samples": 0},
        {**RUN, "samples": True},
        {**RUN, "samples": 8.0},
        {**RUN, "samples": "many"},
        {**RUN, "steps": 0},
        {**RUN, "seed": -1},
        {**RUN, "regionMm": 0},
        {**RUN, "regionMm": "15"},
        {**RUN, "seed": False},
        {**RUN, "volume": ""},
        {**RUN, "job": 1},
        {**PROGRESS, "secondsLeft": "soon"},
        {"type": "cancel", "job": "1", "keep": 1},
        {**RUN, "type": "update"},
        {**RUN, "type": "update", "facts": "facts.nrrd", "rounds": 0},
        {"type": "ask", "job": "1", "folder": "f", "questions": []},
        {"type": "ask", "job": "1", "folder": "f", "questions": "volume(a)"},
        {"type": "answers", "job": "1", "answers": ["42 ml"]},
        {"type": "hello", "protocol": "1", "versions": {}, "devices": []},
        {"type": "hello", "protocol": 1, "versions": {}, "devices": ["cpu"]},
        {"type": "done", "job": "1", "folder": "f", "report": []},
        {"type": "error", "job": None, "kind": "other", "message": "m", "details": ""},
        {"type": "error", "job": None, "kind": [], "message": "m", "details": ""},
        {"type": ["run"]},
        {"type": "stop"},
        {},
    ],
)
def test_wrong_fields_are_refused_on_both_sides(wrong: dict[str, Any]) -> None:
    with pytest.raises(messages.MessageError):
        messages.encode(wrong)
    with pytest.raises(messages.MessageError) as caught:
        messages.decode(messages.json.dumps(wrong).encode())
    assert str(caught.value).endswith(".")


def test_unknown_fields_are_accepted() -> None:
    assert messages.decode(messages.encode({"type": "bye", "later": [1]})) == {"type": "bye", "later": [1]}


@pytest.mark.parametrize("value", [b"NaN", b"Infinity", b"-Infinity"])
def test_nan_and_infinite_numbers_are_refused(value: bytes) -> None:
    with pytest.raises(messages.MessageError, match="not valid JSON"):
        messages.decode(b'{"type":"bye","extra":' + value + b"}")
    with pytest.raises(messages.MessageError):
        messages.encode({"type": "bye", "extra": float(value)})


def test_a_table_lists_the_accepted_messages() -> None:
    with pytest.raises(messages.MessageError, match="unknown here"):
        messages.decode(messages.encode({"type": "bye"}), messages.FROM_WORKER)


def test_messages_that_are_too_long_are_refused_on_both_sides() -> None:
    filler = "x" * messages.MAX_LINE_BYTES
    with pytest.raises(messages.MessageError, match="too long"):
        messages.encode({"type": "bye", "filler": filler})
    with pytest.raises(messages.MessageError, match="longer than"):
        messages.decode(b'{"type":"bye","filler":"' + filler.encode() + b'"}')


def test_another_protocol_is_refused_in_one_sentence() -> None:
    hello = {"type": "hello", "protocol": messages.PROTOCOL, "versions": {}, "devices": []}
    assert messages.compatible(hello) is None
    sentence = messages.compatible({**hello, "protocol": messages.PROTOCOL + 1})
    assert sentence.endswith(".") and str(messages.PROTOCOL + 1) in sentence


def test_messages_need_the_standard_library_only() -> None:
    code = (
        "import sys; import diffusion_segmentation, diffusion_segmentation.worker.protocol;"
        "print(*{'torch', 'numpy', 'SimpleITK', 'monai', 'scipy'} & set(sys.modules))"
    )
    # -S: without site-packages nothing else could be imported anyway.
    command = [sys.executable, "-S", "-c", code]
    answer = subprocess.run(command, cwd=ENGINE, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == ""
