"""One run of the command `segment` on another computer, through a relay."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ..errors import Cancelled, DiffusionSegmentationError, InputError
from ..images.input_names import inputs_of
from ..segmentation import result_folder
from ..worker import protocol as messages
from . import hosts
from .models import METADATA, local_models
from .names import FINISHED, RESULT_FILES

LEAVE_SECONDS = 4.0  # for the relay to end after a cancel


def segment(
    host: str,
    python: str,
    volume: Path | tuple[Path, ...] | Mapping[str, Path],
    output: Path,
    options: Mapping[str, Any],
    progress: Callable[[Any], None],
) -> dict[str, Any]:
    """Segment on `host` into the folder `output`, as `pipeline.segment` does; returns the report.

    `options` are further fields of the message `run`. Raises InputError and DiffusionSegmentationError, one sentence;
    finished samples of a run that the connection has ended are then in a subfolder that the sentence names.
    """
    command = [sys.executable, "-X", "utf8", "-m", "diffusion_segmentation", "relay"]
    command += [f"--host={hosts.check_host(host)}", f"--host-python={hosts.check_python(python)}"]
    with result_folder.new_folder(output):
        result_folder.require_replaceable(output)
        files = _files(volume, options["model"])
        with tempfile.TemporaryDirectory(prefix=".remote-", dir=output) as folder:
            paths = {"folder": folder, **files}
            message = {"type": "run", "job": uuid.uuid4().hex, **paths, **options}
            last = _run(command, message, progress)
            if last["type"] == "error":
                raise _explained(last, Path(folder), output)
            if last["type"] == "cancelled":
                raise Cancelled
            with result_folder.replacing(output) as new:
                for name in RESULT_FILES:
                    if (Path(folder) / name).is_file():
                        shutil.move(Path(folder) / name, new / name)
    return last["report"]


def _files(volume: Path | tuple[Path, ...] | Mapping[str, Path], model: str) -> dict[str, Any]:
    """The fields of the message that name the files of the inputs. Raises InputError."""
    if isinstance(volume, Path):
        return {"volume": str(volume.absolute())}
    if not isinstance(volume, Mapping):
        known = local_models(model)
        if not known:
            raise InputError("The inputs of a model that only the other computer has are named: --input NAME=FILE.")
        section = json.loads((known[0][0] / METADATA).read_text(encoding="utf-8"))["diffusion_segmentation"]
        inputs = inputs_of(section)
        if len(inputs) != len(volume):
            listed = ", ".join(one.name for one in inputs)
            raise InputError(f"{len(volume)} files were given and the model has the inputs {listed}; give one each.")
        volume = {one.name: path for one, path in zip(inputs, volume, strict=True)}
    named = {name: str(path.absolute()) for name, path in volume.items()}
    return {"volume": next(iter(named.values())), "inputs": named}


def _run(command: list[str], message: Mapping[str, Any], progress: Callable[[Any], None]) -> dict[str, Any]:
    """Run the relay for one job; returns its last message."""
    group: dict[str, Any] = {"process_group": 0}  # Ctrl+C is for this process, which cancels the job
    if os.name == "nt":
        group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}  # type: ignore[attr-defined]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **group) as relay:
        assert relay.stdin is not None and relay.stdout is not None
        try:
            for received in _messages(relay.stdout):
                kind = received["type"]
                if kind == "hello":
                    if problem := messages.compatible(received):
                        raise DiffusionSegmentationError(problem)
                    relay.stdin.write(messages.encode(message))
                    relay.stdin.flush()
                elif kind == "progress":
                    left = {"seconds_left": received["secondsLeft"], "note": received.get("note") or ""}
                    progress(SimpleNamespace(**{key: received[key] for key in PROGRESS}, **left))
                elif kind in ("done", "partial", "cancelled", "error"):
                    return received
        finally:
            relay.stdin.close()  # the relay, and the agent, end with it
            try:
                relay.wait(LEAVE_SECONDS)
            except subprocess.TimeoutExpired:
                relay.kill()
    raise DiffusionSegmentationError("The process that connects to the other computer ended without a message.")


PROGRESS = ("stage", "sample", "samples", "step", "steps")


def _messages(stream: Any) -> Iterator[dict[str, Any]]:
    for line in stream:
        yield messages.decode(line, messages.FROM_WORKER)


def _explained(error: Mapping[str, Any], folder: Path, output: Path) -> DiffusionSegmentationError:
    """The error of a run; its finished samples are moved from `folder` into a subfolder of `output`."""
    sentence = error["message"]
    for finished in folder.iterdir():
        if FINISHED.fullmatch(finished.name):
            kept = output / f"{finished.name}-{uuid.uuid4().hex[:4]}"
            shutil.move(finished, kept)
            count = int(finished.name.partition("-")[2])
            samples = "The sample" if count == 1 else f"The {count} samples"
            sentence = f"{sentence} {samples} that had finished {'is' if count == 1 else 'are'} in '{kept.name}'."
    explained = DiffusionSegmentationError(sentence)
    explained.kind = error["kind"]
    return explained
