"""Messages and files in one stream of bytes.

A frame is a kind (1 byte), the length of its payload (4 bytes, big endian) and the payload:

    m   a message of the worker's protocol, JSON
    c   a message between relay and agent, JSON
    f   start of a file, JSON with its name; d, z: its next bytes, as they are or compressed; e: its end, with SHA-256
    b   heartbeat

The stream begins with MARKER. What comes before it, such as a greeting of the login shell, is skipped.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from ..errors import DiffusionSegmentationError
from ..runtime.stdio import write_all

MARKER = b"\nDiffusionSegmentation frames 1\n"
MESSAGE, CONTROL, FILE, DATA, PACKED, END, BEAT = b"m", b"c", b"f", b"d", b"z", b"e", b"b"
KINDS = (MESSAGE, CONTROL, FILE, DATA, PACKED, END, BEAT)
HEADER = struct.Struct(">cI")
CHUNK_BYTES = 256 * 2**10  # of a file in one frame; messages and heartbeats are sent between two
MAX_PAYLOAD_BYTES = 4 * 2**20  # a message of the worker's protocol
MAX_GREETING_BYTES = 2**20
SECONDS_BETWEEN_BEATS = 2.0
SECONDS_WITHOUT_BEAT = 8.0  # after which the other side is considered lost
PART = ".part"  # ending of a file that is being received


class FrameError(DiffusionSegmentationError):
    """The bytes of the other side are no frames."""


class Frames:
    """Frames over a pair of unbuffered streams; any thread may send, one receives.

    `arrived` is the time (time.monotonic) at which the last byte came, `waiting` that since which the next is awaited;
    None while nothing is read.
    """

    def __init__(self, source: IO[bytes] | io.RawIOBase, sink: IO[bytes] | io.RawIOBase) -> None:
        self._source, self._sink = source, sink
        self._buffer = bytearray()
        self._lock, self._file_lock = threading.Lock(), threading.Lock()
        self.arrived = time.monotonic()
        self.waiting: float | None = None

    def begin(self) -> None:
        with self._lock:
            write_all(self._sink, MARKER)  # type: ignore[arg-type]

    def skip_greeting(self) -> str:
        """Skip everything up to MARKER; returns it. Raises FrameError without a MARKER, EOFError at the end."""
        while (at := self._buffer.find(MARKER)) < 0:
            if len(self._buffer) > MAX_GREETING_BYTES:
                raise FrameError("The other computer sends something else than DiffusionSegmentation.")
            self._fill()
        greeting = bytes(self._buffer[:at]).decode("utf-8", errors="replace").strip()
        del self._buffer[: at + len(MARKER)]
        return greeting

    def send(self, kind: bytes, payload: bytes = b"") -> None:
        """Send one frame. Raises OSError if the stream is closed."""
        with self._lock:
            write_all(self._sink, HEADER.pack(kind, len(payload)) + payload)  # type: ignore[arg-type]

    def send_json(self, kind: bytes, value: Mapping[str, Any]) -> None:
        self.send(kind, json.dumps(value).encode("ascii"))

    def send_file(
        self, path: Path, about: Mapping[str, Any], proceed: Callable[[int], bool] = lambda sent: True
    ) -> bool:
        """Send a file; `about` says what it is. Returns False if it was given up.

        `proceed` is called before each part with the number of bytes sent so far, and returns whether to go on. Raises
        OSError if the file cannot be read or the stream is closed.
        """
        digest, sent = hashlib.sha256(), 0
        with self._file_lock, open(path, "rb", buffering=0) as file:
            self.send_json(FILE, about)
            whole = False
            try:
                while proceed(sent):
                    chunk = file.read(CHUNK_BYTES)
                    if not chunk:
                        whole = True
                        break
                    digest.update(chunk)
                    packed = zlib.compress(chunk, 1)
                    small = len(packed) < 0.9 * len(chunk)
                    self.send(PACKED if small else DATA, packed if small else chunk)
                    sent += len(chunk)
            finally:
                with contextlib.suppress(OSError):
                    self.send_json(END, {"sha256": digest.hexdigest()} if whole else {})
        return whole

    def receive(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield kind and payload of each frame until the stream ends. Raises FrameError."""
        while True:
            try:
                kind, length = HEADER.unpack(self._take(HEADER.size))
                if kind not in KINDS or length > MAX_PAYLOAD_BYTES:
                    raise FrameError("The connection carries something else than the frames of DiffusionSegmentation.")
                payload = self._take(length)
            except (EOFError, OSError, ValueError):
                return
            yield kind, payload

    def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._fill()
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    def _fill(self) -> None:
        self.waiting = time.monotonic()
        chunk = self._source.read(CHUNK_BYTES)
        self.waiting = None
        if not chunk:
            raise EOFError
        self._buffer += chunk
        self.arrived = time.monotonic()


class FileReceiver:
    """Writes the files of received frames.

    `place` is given what the sender says about a file and returns its path, or None to skip it; `failed` is called
    with the same and the error if it cannot be written.
    """

    def __init__(
        self, place: Callable[[dict[str, Any]], Path | None], failed: Callable[[dict[str, Any], OSError], None]
    ) -> None:
        self._place, self._failed = place, failed
        self._about: dict[str, Any] = {}
        self._path: Path | None = None
        self._file: IO[bytes] | None = None
        self._digest = hashlib.sha256()

    def take(self, kind: bytes, payload: bytes) -> None:
        """Handle a frame of kind FILE, DATA, PACKED or END. Raises FrameError if a file arrives altered."""
        try:
            if kind == FILE:
                self._start(read_json(payload))
            elif kind == END:
                self._finish(read_json(payload))
            elif self._file is not None:
                chunk = payload if kind == DATA else _unpacked(payload)
                self._digest.update(chunk)
                self._file.write(chunk)
        except OSError as error:
            self.close()
            self._failed(self._about, error)

    def close(self) -> None:
        """Give up the file that is being received."""
        if self._file is not None and self._path is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            with contextlib.suppress(OSError):
                _part(self._path).unlink()
        self._file = None

    def _start(self, about: dict[str, Any]) -> None:
        self.close()
        self._about, self._path, self._digest = about, self._place(about), hashlib.sha256()
        if self._path is not None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = open(_part(self._path), "wb")  # noqa: SIM115  # closed by `_finish` or `close`

    def _finish(self, end: dict[str, Any]) -> None:
        if self._file is None or self._path is None or "sha256" not in end:
            self.close()
            return
        if self._digest.hexdigest() != end["sha256"]:
            self.close()
            raise FrameError("A file was altered on its way.")
        self._file.close()
        self._file = None
        os.replace(_part(self._path), self._path)


def _part(path: Path) -> Path:
    return path.with_name(path.name + PART)


def _unpacked(payload: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        chunk = unpacker.decompress(payload, CHUNK_BYTES)
    except zlib.error as error:
        raise FrameError("A file was altered on its way.") from error
    if not unpacker.eof:
        raise FrameError("A part of a file is too long.")
    return chunk


def read_json(payload: bytes) -> dict[str, Any]:
    """The JSON object in a payload. Raises FrameError."""
    try:
        value = json.loads(payload.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FrameError("A frame is not valid JSON.") from error
    if not isinstance(value, dict):
        raise FrameError("A frame is not a JSON object.")
    return value


class Heartbeat:
    """Sends a heartbeat every two seconds; calls `lost` once if nothing has come from the other side for eight."""

    def __init__(self, frames: Frames, lost: Callable[[], None], alive: Callable[[], None] = lambda: None) -> None:
        """`alive` is called with each check, every half second."""
        self._frames, self._lost, self._alive = frames, lost, alive
        self._over = threading.Event()
        frames.arrived = time.monotonic()
        # Two threads: a write blocks when the line is dead.
        for work in (self._send, self._watch):
            threading.Thread(target=work, name="heartbeat", daemon=True).start()

    def stop(self) -> None:
        self._over.set()

    def _send(self) -> None:
        while not self._over.wait(SECONDS_BETWEEN_BEATS):
            try:
                self._frames.send(BEAT)
            except (OSError, ValueError):
                return

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            self._alive()
            waiting = self._frames.waiting
            since = None if waiting is None else max(waiting, self._frames.arrived)
            # While what arrived is being handled, as when a model is copied, nothing is read and nobody is lost.
            if since is not None and time.monotonic() - since > SECONDS_WITHOUT_BEAT:
                self._lost()
                return
