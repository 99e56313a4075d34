"""The client with a fake worker: all messages arrive, and no process survives."""

import os
import sys
import time
from pathlib import Path

import pytest

from DiffusionSegmentationLib.runs import worker_client, worker_process
from DiffusionSegmentationLib.runs.worker_client import WorkerClient, workerCommand, workerEnvironment

FAKE = Path(__file__).with_name("fake_worker.py")


class Listener:
    """A client with a fake worker, and all its messages."""

    def __init__(self, *arguments):
        self.client = WorkerClient([sys.executable, str(FAKE), *arguments], workerEnvironment(os.environ))
        self.messages = []
        self.reasons = []
        self.client.received.connect(self.messages.append)
        self.client.ended.connect(self.reasons.append)

    def until(self, condition, seconds=20.0):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, (self.messages[-3:], self.reasons, list(self.client.log)[-5:])
            self.client.poll()
            time.sleep(0.01)

    def types(self):
        return [message["type"] for message in self.messages]


@pytest.fixture
def listen():
    listeners = []

    def start(*arguments):
        listeners.append(Listener(*arguments))
        listeners[-1].client.start()
        return listeners[-1]

    yield start
    for listener in listeners:
        ending = listener.client.stop(0.0)
        if ending is not None:
            ending.join()


def runMessage(folder="unused"):
    return {
        "type": "run",
        "job": "1",
        "folder": str(folder),
        "volume": "unused.nrrd",
        "model": "fake",
        "samples": 3,
        "steps": None,
        "seed": 0,
        "device": "cpu",
    }


def isAlive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2] if Path("/proc").is_dir() else True


def test_starting_and_stopping_do_not_block(listen):
    started = time.monotonic()
    listener = listen("good")
    assert time.monotonic() - started < 0.5
    assert listener.client.running and listener.client.hello is None
    listener.until(lambda: listener.client.hello)
    assert [device["id"] for device in listener.client.hello["devices"]] == ["cpu", "cuda:0"]
    stopped = time.monotonic()
    ending = listener.client.stop()
    assert time.monotonic() - stopped < 0.5
    assert not listener.client.running
    ending.join(5.0)
    assert not ending.is_alive()
    assert listener.reasons == []  # a requested stop is not reported as an end


def test_the_worker_ends_when_its_stdin_is_closed(listen):
    listener = listen("good")
    listener.until(lambda: listener.client.hello)
    pid = listener.client._process._process.pid
    listener.client.stop(5.0).join()
    assert not isAlive(pid)


def test_the_end_is_reported_after_all_messages(listen):
    listener = listen("crash")
    listener.until(lambda: listener.client.hello)
    listener.client.send(runMessage())
    listener.until(lambda: listener.reasons)
    assert "ended unexpectedly (exit code 134)" in listener.reasons[0]
    assert "bad_alloc" in listener.client.log[-1]
    assert not listener.client.running
    listener.client.send(runMessage())  # no worker receives it: no error
    listener.client.poll()


def test_the_error_of_a_failed_start_is_the_last_line_of_stderr(listen):
    listener = listen("no-start")
    listener.until(lambda: listener.reasons)
    assert "could not start" in listener.reasons[0]
    assert "No module named 'torch'" in listener.reasons[0]


def test_a_python_that_does_not_exist_is_one_sentence():
    client = WorkerClient(workerCommand("/no/such/python"), {})
    reasons = []
    client.ended.connect(reasons.append)
    client.start()
    deadline = time.monotonic() + 5
    while not reasons and time.monotonic() < deadline:
        client.poll()
    assert "could not be started" in reasons[0]


def test_garbage_on_stdout_goes_to_the_log(listen, tmp_path):
    listener = listen("garbage", "0.01")
    listener.until(lambda: listener.client.hello)
    listener.client.send({**runMessage(tmp_path), "job": "g"})
    listener.until(lambda: "progress" in listener.types())
    listener.until(lambda: any("surprise" in line for line in listener.client.log))
    assert any("UTF-8" in line for line in listener.client.log)


@pytest.mark.skipif(os.name == "nt", reason="reads the child's process state the POSIX way")
def test_killing_includes_the_children(listen):
    listener = listen("deaf")
    listener.until(lambda: listener.client.hello)
    listener.client.send(runMessage())
    listener.until(lambda: any(line.startswith("child ") for line in listener.client.log))
    child = int(next(line for line in listener.client.log if line.startswith("child ")).split()[1])
    assert isAlive(child)
    listener.client.kill()
    listener.until(lambda: listener.reasons)
    assert listener.reasons == ["The background process was stopped."]
    deadline = time.monotonic() + 5
    while isAlive(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not isAlive(child)


@pytest.mark.skipif(os.name == "nt", reason="Windows knows neither sessions nor process groups")
def test_the_worker_has_its_own_process_group_in_the_same_session(listen):
    listener = listen("good")
    listener.until(lambda: listener.client.hello)
    pid = listener.client._process._process.pid
    assert os.getpgid(pid) == pid != os.getpgid(0) and os.getsid(pid) == os.getsid(0)


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_children_of_a_worker_that_was_killed_do_not_hide_its_end(listen):
    listener = listen("deaf")
    listener.until(lambda: listener.client.hello)
    listener.client.send(runMessage())
    listener.until(lambda: any(line.startswith("child ") for line in listener.client.log))
    os.kill(listener.client._process._process.pid, 9)  # as the kernel does when memory runs out
    listener.until(lambda: listener.reasons, seconds=5)
    assert "memory ran out" in listener.reasons[0]


def test_it_can_be_started_again(listen):
    listener = listen("crash")
    for count in (1, 2):
        listener.until(lambda: listener.client.hello)
        listener.client.send(runMessage())
        listener.until(lambda count=count: len(listener.reasons) == count)
        listener.client.start()
    listener.until(lambda: listener.client.hello)


def test_the_log_is_bounded(listen, monkeypatch):
    listener = listen("good")
    listener.client._addToLog([f"line {n}" for n in range(worker_client.LOG_LINES + 10)])
    assert len(listener.client.log) == worker_client.LOG_LINES


def test_the_environment_is_a_copy_without_the_other_python():
    startup = {"PATH": "/bin", "PYTHONHOME": "/opt/Slicer/lib/Python", "PYTHONPATH": "/opt/Slicer/lib"}
    environment = workerEnvironment(startup)
    assert "PYTHONHOME" not in environment
    assert environment["PATH"] == "/bin"
    assert Path(environment["PYTHONPATH"], "diffusion_segmentation", "worker", "protocol.py").is_file()
    assert environment["PYTHONUTF8"] == environment["PYTHONUNBUFFERED"] == "1"
    assert startup["PYTHONHOME"]
    assert workerCommand("py") == ["py", "-X", "utf8", "-m", "diffusion_segmentation", "worker"]


@pytest.mark.skipif(os.name != "posix", reason="groups of processes")
def test_a_group_is_not_killed_after_its_leader_was_reaped(monkeypatch):
    """The ID of a reaped process may be reused, and a late kill would end the group of another process."""
    killed = []
    monkeypatch.setattr(worker_process.os, "killpg", lambda pid, signal: killed.append(reaped(pid)))

    def reaped(pid):
        try:
            return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) and False
        except ChildProcessError:
            return True

    for _ in range(5):
        process = worker_process.WorkerProcess([sys.executable, "-c", ""], None)
        deadline = time.monotonic() + 10
        while not any(isinstance(arrival, worker_process.End) for arrival in process.arrivals()):
            assert time.monotonic() < deadline
        process.end(1.0)
        process.kill()
    assert not any(killed)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="groups of processes")
@pytest.mark.parametrize("waits", [True, False])
def test_children_of_a_worker_that_ended_by_itself_end_too(monkeypatch, tmp_path, waits):
    """Also if the system cannot detect the end without reaping."""
    if not waits:
        monkeypatch.delattr(worker_process.os, "waitid")
    note = tmp_path / "child"
    child = "[sys.executable, '-c', 'import time; time.sleep(600)']"
    code = f"import subprocess, sys; nowhere = subprocess.DEVNULL; p = subprocess.Popen({child}, stdin=nowhere, "
    code += f"stdout=nowhere, stderr=nowhere); open({str(note)!r}, 'w').write(str(p.pid))"
    process = worker_process.WorkerProcess([sys.executable, "-c", code], None)
    deadline = time.monotonic() + 10
    while not any(isinstance(arrival, worker_process.End) for arrival in process.arrivals()):
        assert time.monotonic() < deadline
    process.end(1.0)
    while os.path.exists(f"/proc/{note.read_text()}") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _alive(int(note.read_text()))


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[-1].split()[0]
