"""Runs on another computer, against a real sshd on this one. Without one the tests are skipped."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback import FAKE_ENGINE, GREETING, Loopback, missing
from remote_cuts import CUTS, Relay, cut

import diffusion_segmentation

pytestmark = [pytest.mark.skipif(bool(missing()), reason=missing() or "sshd"), pytest.mark.slow]


@pytest.fixture
def loopback(tmp_path: Path) -> Iterator[Loopback]:
    loopback = Loopback(tmp_path / "loopback")
    yield loopback
    loopback.close()


@pytest.fixture
def relays(loopback: Loopback) -> Iterator[Any]:
    started: list[Relay] = []

    def start() -> Relay:
        started.append(Relay(loopback))
        return started[-1]

    yield start
    for relay in started:
        relay.end()


def measured(report: dict[str, Any]) -> dict[str, Any]:
    """A report without what differs between two runs of the same kind."""
    return {key: value for key, value in report.items() if key not in ("timings_s", "memory_bytes")}


def test_a_result_has_the_bytes_of_a_local_one_and_the_model_is_sent_once(
    loopback: Loopback, relays: Any, real_worker: Any, tiny_model: Path, ball: Path, tmp_path: Path
) -> None:
    local, there, again = tmp_path / "here", tmp_path / "there", tmp_path / "again"
    real_worker.run("local", str(tiny_model), local, volume=str(ball))
    expected = real_worker.next("done")["report"]
    relay = relays()
    assert relay.next("hello")["devices"][0]["id"] == "cpu"
    folder = next(loopback.temporary.glob("DiffusionSegmentation-remote-*"))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    relay.run(there, ball, str(tiny_model))
    done = relay.next("done", "error")
    assert done["type"] == "done", done
    assert done["folder"] == str(there) and measured(done["report"]) == measured(expected)
    names = sorted(path.name for path in local.iterdir() if path.name != "report.json")
    assert sorted(path.name for path in there.iterdir() if path.name != "report.json") == names
    assert all((there / name).read_bytes() == (local / name).read_bytes() for name in names)
    model = next(loopback.there.glob("received/*/tiny/model.safetensors"))
    sent = model.stat().st_mtime_ns
    relay.run(again, ball, str(tiny_model))
    assert relay.next("done", "error")["type"] == "done"
    assert model.stat().st_mtime_ns == sent and len(list(loopback.there.glob("received/*"))) == 1
    assert GREETING in relay.log.read_text()
    relay.process.stdin.close()
    loopback.leaves_nothing(5.0)


@pytest.mark.parametrize("kind", CUTS)
def test_a_cut_loses_nothing_here_and_leaves_nothing_there(
    loopback: Loopback, kind: str, ball: Path, tmp_path: Path
) -> None:
    loopback.configure(worker=(FAKE_ENGINE,))
    outcome = cut(loopback, kind, 2.5, tmp_path / "job", ball)
    if kind != "relay killed" and outcome.before:
        assert "error" not in outcome.sentence.lower()


def test_a_cancelled_run_ends_and_the_next_one_works(
    loopback: Loopback, relays: Any, ball: Path, tmp_path: Path
) -> None:
    loopback.configure(worker=(FAKE_ENGINE,))
    relay = relays()
    relay.next("hello")
    job = relay.run(tmp_path / "one", ball, "patient")
    relay.next("progress")
    relay.send(type="cancel", job=job, keep=False)
    assert relay.next("cancelled")["job"] == job
    relay.run(tmp_path / "two", ball, "wrong_input")
    assert relay.next("error")["message"] == "The volume 'a.nrrd' is a 2-D image; give a 3-D volume."
    job = relay.run(tmp_path / "three", ball, "crash")
    lost = relay.next("error")
    assert lost["job"] == job and lost["ends"] and "ended unexpectedly (exit code 42)" in lost["message"]
    loopback.leaves_nothing(5.0)


FAILURES = {
    "is not a known computer": {"UserKnownHostsFile": "/dev/null"},
    "did not accept a key": {"IdentityFile": "other-key"},
    "cannot be reached": {"Port": 1},
    "was not found": {"HostName": "no-such-computer.invalid"},
}


def failure(relay: Relay) -> str:
    """The sentence of a relay that cannot start, which has no details for a person to read in it."""
    error = relay.next("hello", "error")
    assert error is not None and error["type"] == "error" and error["job"] is None, error
    assert relay.process.wait(10) == 1
    return error["message"]


def test_what_ssh_refuses_is_said_in_one_sentence(loopback: Loopback, relays: Any) -> None:
    for words, changed in FAILURES.items():
        key = {"IdentityFile": loopback.folder / "other-key"} if "IdentityFile" in changed else changed
        loopback.write_configuration(**key)
        assert words in failure(relays())


def test_what_is_missing_on_the_other_computer_is_said_in_one_sentence(loopback: Loopback, relays: Any) -> None:
    python = Path(loopback.python)
    wrapper = python.read_text()
    python.unlink()
    assert "There is no Python" in failure(relays())
    python.write_text(f"#!/bin/sh\nexec {sys.executable} -S -I -X utf8 -m diffusion_segmentation\n")
    python.chmod(0o755)
    assert "DiffusionSegmentation is not installed" in failure(relays())
    script = (
        "import sys, diffusion_segmentation as d; d.__version__ = '0.0.1'; from diffusion_segmentation import cli; "
    )
    command = f"{sys.executable} -c \"{script} sys.exit(cli.main(['remote-worker']))\""
    python.write_text(wrapper.rpartition("exec ")[0] + f"exec {command}\n")
    sentence = failure(relays())
    assert "has version 0.0.1" in sentence and diffusion_segmentation.__version__ in sentence
    loopback.leaves_nothing(5.0)


def test_the_command_segments_on_the_other_computer(
    loopback: Loopback, tiny_model: Path, ball: Path, tmp_path: Path
) -> None:
    folders = {}
    path = f"{loopback.bin}{os.pathsep}{os.environ['PATH']}"
    for place, options in (("here", []), ("there", ["--host", loopback.host, "--host-python", loopback.python])):
        folders[place] = tmp_path / place
        command = [sys.executable, "-m", "diffusion_segmentation", "segment", str(ball), "--model", str(tiny_model)]
        command += ["--samples", "2", "--device", "cpu", "--output", str(folders[place]), "--json", *options]
        done = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["samples"] == 2
    names = {place: sorted(one.name for one in folder.iterdir()) for place, folder in folders.items()}
    assert names["here"] == names["there"] == ["entropy.nrrd", "report.json", "segmentation.seg.nrrd"]
    for name in ("entropy.nrrd", "segmentation.seg.nrrd"):
        assert (folders["here"] / name).read_bytes() == (folders["there"] / name).read_bytes()
    reports = [measured(json.loads((folder / "report.json").read_text())) for folder in folders.values()]
    assert reports[0] == reports[1]
    loopback.leaves_nothing(5.0)


@pytest.mark.parametrize("cause", ["cut", "Ctrl+C"])
def test_the_command_keeps_what_had_finished_and_can_be_cancelled(
    loopback: Loopback, ball: Path, tmp_path: Path, cause: str
) -> None:
    loopback.configure(worker=(FAKE_ENGINE,))
    output, path = tmp_path / "out", f"{loopback.bin}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "diffusion_segmentation", "segment", str(ball), "--model", "finishing"]
    command += ["--output", str(output), "--host", loopback.host, "--host-python", loopback.python]
    environment = {**os.environ, "PATH": path}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, process_group=0)
    deadline = time.monotonic() + 30
    while not list(output.glob(".remote-*/finished-*/report.json")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.05)
    for pid in loopback.clients() if cause == "cut" else [process.pid]:
        os.kill(pid, signal.SIGKILL if cause == "cut" else signal.SIGINT)
    said = process.communicate(timeout=20)[1].splitlines()[-1]
    if cause == "cut":
        (kept,) = output.glob("finished-*")
        assert process.returncode == 1 and (kept / "report.json").is_file() and kept.name in said
    else:
        assert process.returncode == 130 and said == "Cancelled." and not output.exists()
    loopback.leaves_nothing()
