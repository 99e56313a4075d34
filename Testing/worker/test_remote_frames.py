"""What may travel to another computer, and how: frames, names of files, names of hosts. No connection is made."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import threading
import time
import zlib
from pathlib import Path

import pytest

from diffusion_segmentation.errors import InputError
from diffusion_segmentation.remote import frames, hosts, models, names
from diffusion_segmentation.remote.frames import CONTROL, DATA, END, FILE, HEADER, PACKED, FileReceiver, Frames
from diffusion_segmentation.segmentation import result_folder


def sent(path: Path, about: dict | None = None) -> bytes:
    """The frames of a file."""
    stream = io.BytesIO()
    Frames(io.BytesIO(), stream).send_file(path, about or {"name": "report.json"})
    return stream.getvalue()


def received(stream: bytes, target: Path) -> None:
    receiver = FileReceiver(lambda about: target, lambda about, error: None)
    for kind, payload in Frames(io.BytesIO(stream), io.BytesIO()).receive():
        receiver.take(kind, payload)


@pytest.mark.parametrize("size", [0, 1, frames.CHUNK_BYTES, 3 * frames.CHUNK_BYTES + 5])
def test_a_file_arrives_as_it_was(tmp_path: Path, size: int) -> None:
    path, target = tmp_path / "a", tmp_path / "b"
    path.write_bytes(bytes(range(256)) * (size // 256) + b"\n\r\n\x1a"[: size % 256])
    received(sent(path), target)
    assert target.read_bytes() == path.read_bytes() and sorted(tmp_path.iterdir()) == [path, target]


def test_a_greeting_is_skipped_and_something_else_is_refused() -> None:
    stream = io.BytesIO(b"Welcome\r\nto the host\n" + frames.MARKER + HEADER.pack(CONTROL, 2) + b"{}")
    connection = Frames(stream, io.BytesIO())
    assert connection.skip_greeting() == "Welcome\r\nto the host"
    assert list(connection.receive()) == [(CONTROL, b"{}")]
    with pytest.raises(frames.FrameError):
        Frames(io.BytesIO(b"x" * (frames.MAX_GREETING_BYTES + frames.CHUNK_BYTES)), io.BytesIO()).skip_greeting()
    with pytest.raises(EOFError):
        Frames(io.BytesIO(b"bye"), io.BytesIO()).skip_greeting()


def test_an_altered_cut_or_exploding_file_does_not_appear(tmp_path: Path) -> None:
    path, target = tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"0123456789" * 10)
    stream = sent(path)
    end = stream.rindex(HEADER.pack(END, 78))
    received(stream[:-10], target)
    given_up = stream[:end] + HEADER.pack(END, 2) + b"{}"
    received(given_up, target)
    altered = HEADER.pack(FILE, 2) + b"{}" + HEADER.pack(DATA, 1) + b"x" + stream[end:]
    bomb = zlib.compress(b"0" * (frames.CHUNK_BYTES + 1))
    for bad in (altered, HEADER.pack(FILE, 2) + b"{}" + HEADER.pack(PACKED, len(bomb)) + bomb):
        with pytest.raises(frames.FrameError):
            received(bad, target)
    assert not target.exists()
    for bad in (b"?" + b"\0" * 20, HEADER.pack(DATA, 2**31)):
        with pytest.raises(frames.FrameError):
            list(Frames(io.BytesIO(bad), io.BytesIO()).receive())


def test_only_files_that_the_protocol_knows_travel() -> None:
    assert set(names.RESULT_FILES) == {result_folder.REPORT, *result_folder.FILES}
    assert names.RESULT_FILES[-1] == result_folder.REPORT
    for good in ("report.json", "finished-12/entropy.nrrd", "preview-4.seg.nrrd", "preview-4-entropy.nrrd"):
        assert names.is_result(good)
    bad = ("../report.json", "/etc/passwd", "a/report.json", "finished-1/../report.json", "finished-1/preview-1.nrrd")
    for name in (
        *bad,
        "preview-1/entropy.nrrd",
        "report.json\n",
        "REPORT.json",
        "",
        None,
        5,
        "finished-1\\report.json",
    ):
        assert not names.is_result(name)
    for name in ("in-0.nrrd", "in-12.nii.gz", "segmentation.seg.nrrd"):
        assert names.is_input(name)
    for name in ("../in-0.nrrd", "in-0", "in-0.nrrd/..", "authorized_keys", ".bashrc", "in-0.nrrd\n"):
        assert not names.is_input(name)
    for name in ("..", ".ssh", "a/b", "a\\b", "", "a\nb"):
        assert not names.is_model_name(name)


def test_a_message_travels_without_paths_and_names_of_patients(tmp_path: Path) -> None:
    volume, mask = tmp_path / "Doe^John.nii.gz", tmp_path / "mask of Doe.seg.nrrd"
    for path in (volume, mask, tmp_path / "Doe.dcm"):
        path.touch()
    message = {"type": "import", "job": "1", "folder": str(tmp_path), "volume": str(volume), "masks": [str(mask)] * 2}
    packed = names.Packed({**message, "source": str(tmp_path / "Doe.dcm")})
    assert "Doe" not in json.dumps(packed.message) and str(tmp_path) not in json.dumps(packed.message)
    assert packed.message["source"] is None and packed.message["masks"] == ["in-1.seg.nrrd"] * 2
    unpacked = names.unpack(packed.message, Path("/in"), Path("/out"))
    assert unpacked["volume"] == "/in/in-0.nii.gz" and unpacked["folder"] == "/out"
    with pytest.raises(names.UnknownFileError):
        names.unpack({**packed.message, "volume": "../../.ssh/id_ed25519"}, Path("/in"), Path("/out"))
    for name in ("folder", "head.mhd", "missing.nrrd"):
        (tmp_path / "folder").mkdir(exist_ok=True)
        (tmp_path / "head.mhd").touch()
        with pytest.raises(InputError):
            names.Packed({**message, "volume": str(tmp_path / name)})


@pytest.mark.parametrize("host", ["-oProxyCommand=x", "", "a b", "a;b", "a$(b)", "a`b`", "user@-x", "a\nb", "a'b"])
def test_a_host_cannot_be_an_option_or_a_command(host: str) -> None:
    with pytest.raises(InputError, match="is not the name of a computer"):
        hosts.ssh_command(host)


def test_the_host_follows_the_options_and_the_interpreter_is_quoted() -> None:
    command = hosts.ssh_command("me@gpu", "~/my env/bin/python; rm")
    assert command[-3:-1] == ["--", "me@gpu"] and "BatchMode=yes" in command
    assert not any("StrictHostKeyChecking" in word for word in command)
    show = ["sh", "-c", f'set -- {command[-1]}; echo "$2"']
    assert subprocess.check_output(show, env={"HOME": "/h"}).decode().strip() == "/h/my env/bin/python; rm"
    assert shlex.split(hosts.remote_command("/a b/python"))[1] == "/a b/python"


def test_a_model_is_the_same_only_with_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFUSION_SEGMENTATION_MODELS", str(tmp_path / "home" / "models"))
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "metadata.json").write_text('{"diffusion_segmentation": {"name": "mine"}}')
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "source.json").write_text('{"source": "/home/doe"}')
    ((_, model),) = models.local_models(str(folder))
    assert set(model.files) == {"metadata.json", "model.safetensors"}
    store = models.Store(tmp_path / "agent" / "models")
    assert store.find([model]) is None and store.missing([model]) == ["mine"]
    assert store.place([model], "mine", "source.json") is None
    for file in model.files:
        target = store.place([model], "mine", file)
        assert target is not None
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((folder / file).read_bytes())
    kept = store.install([model])
    assert store.find([model]) == kept and kept.is_relative_to(tmp_path / "home" / "received")
    (kept / "metadata.json").write_text("{}")
    assert store.find([model]) is None


def test_reasons_are_read_from_what_ssh_says() -> None:
    assert "older version" in hosts.explain("gpu", "python3", ["error: invalid choice: 'remote-worker' (choose"], 2)
    unknown = hosts.explain("gpu", "python3", ["x" * 500], 3)
    assert unknown.startswith("The background process on 'gpu' could not start (xxx") and len(unknown) < 250


@pytest.mark.slow
def test_a_side_that_handles_what_has_arrived_does_not_take_the_other_for_lost(monkeypatch):
    monkeypatch.setattr(frames, "SECONDS_WITHOUT_BEAT", 0.2)
    lost = threading.Event()
    side = frames.Frames(io.BytesIO(), io.BytesIO())
    heartbeat = frames.Heartbeat(side, lost.set)
    assert not lost.wait(1.2), "nothing is being read"
    side.waiting = time.monotonic()
    assert lost.wait(5)
    heartbeat.stop()
