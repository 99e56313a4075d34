"""The worker as a real process with a small engine: messages, cancel, queue, failures, and how it ends."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from diffusion_segmentation.worker import protocol as messages

FINAL = ("done", "partial", "cancelled", "error")
SOON = 2.0
"""Seconds; a worker is to end within one, the second is for a busy machine. What must not be waited for takes 60."""


def test_hello_contains_protocol_versions_and_devices(workers) -> None:
    client = workers.fake(loading_seconds=0.01)
    hello = client.next()
    assert hello["type"] == "hello" and messages.compatible(hello) is None
    assert {"python", "diffusion_segmentation", "torch", "SimpleITK"} <= hello["versions"].keys()
    assert hello["devices"] == [{"id": "cpu", "name": "Abacus", "totalBytes": 8, "freeBytes": 4}]


def test_a_run_sends_its_stages_a_preview_and_the_report(workers, tmp_path: Path) -> None:
    folder = tmp_path / "Müller 図 1"
    folder.mkdir()
    client = workers.fake()
    client.run("1", "quick", folder, samples="auto", steps=3, seed=7)
    received = [client.next()]
    while received[-1]["type"] not in FINAL:
        received.append(client.next())
    assert {message["job"] for message in received} == {"1"}
    assert [
        m["stage"] for m in received if m["type"] == "progress"
    ] == "reading model encoding sampling writing".split()
    assert received[0].items() >= {"sample": 1, "samples": 2, "step": 0, "steps": 5, "secondsLeft": 1.5}.items()
    (preview,) = [m for m in received if m["type"] == "preview"]
    assert preview["segmentation"] == str(folder / "p.seg.nrrd") and preview["samples"] == 0
    done = received[-1]
    assert done["type"] == "done" and done["folder"] == str(folder)
    assert done["report"]["request"] == {
        "volume": str(folder / "a.nrrd"), "output": str(folder), "model": "quick", "samples": "auto", "steps": "3",
        "seed": "7", "device": "cpu", "region_mm": "None", "keep_samples": "True", "compress": "False",
        "previews": "True", "source": "None", "called": "The volume",
    }  # fmt: skip


def test_runs_wait_for_each_other(workers, tmp_path: Path) -> None:
    client = workers.fake()
    client.run("1", "patient", tmp_path)
    client.run("2", "quick", tmp_path)
    client.run("3", "quick", tmp_path)
    assert client.next()["job"] == "1"
    client.send(type="cancel", job="1", keep=True)
    ends = [client.next(*FINAL) for _ in range(3)]
    assert [(m["type"], m["job"]) for m in ends] == [("partial", "1"), ("done", "2"), ("done", "3")]


def test_cancel_drops_a_run(workers, tmp_path: Path) -> None:
    client = workers.fake()
    client.run("1", "patient", tmp_path)
    client.next("progress")
    client.send(type="cancel", job="1", keep=False)
    assert client.next() == {"type": "cancelled", "job": "1"}


def test_a_dropped_run_is_acknowledged_before_its_end_is_reported(workers, tmp_path: Path) -> None:
    client = workers.fake()
    client.run("1", "slow_to_end", tmp_path)
    client.next("progress")
    client.run("2", "quick", tmp_path)
    client.send(type="cancel", job="1", keep=False)
    assert client.next() == {"type": "cancelled", "job": "1", "over": False}
    assert client.next() == {"type": "cancelled", "job": "1"}
    assert client.next()["job"] == "2"


def test_cancel_of_a_waiting_run_is_answered_at_once_and_it_never_starts(workers, tmp_path: Path) -> None:
    client = workers.fake()
    client.run("1", "patient", tmp_path)
    client.next("progress")
    client.run("2", "quick", tmp_path)
    client.send(type="cancel", job="2", keep=True)
    assert client.next() == {"type": "cancelled", "job": "2"}  # while 1 still runs
    client.send(type="cancel", job="1", keep=False)
    assert client.next() == {"type": "cancelled", "job": "1"}
    client.send(type="bye")
    assert client.rest() == []


def test_drop_has_priority_over_keep_in_either_order(workers, tmp_path: Path) -> None:
    client = workers.fake()
    for job, order in (("1", (False, True)), ("2", (True, False))):
        client.run(job, "patient", tmp_path)
        client.next("progress")
        # In one write, so that the run sees both.
        client.line(b"".join(messages.encode({"type": "cancel", "job": job, "keep": keep}) for keep in order))
        end = client.next(*FINAL)
        assert end["type"] == "cancelled" or (job == "2" and end["type"] == "partial")  # it may have seen the first


BROKEN = {
    "bad UTF-8": b'{"type":"unload\xff"}',
    "no JSON": b"Traceback (most recent call last):",
    "no object": b'["run"]',
    "nothing": b"",
    "no type": b'{"job":"1"}',
    "unknown type": b'{"type":"segment"}',
    "wrong direction": b'{"type":"cancelled","job":"1"}',
    "missing field": b'{"type":"cancel","job":"1"}',
    "wrong field": b'{"type":"cancel","job":"1","keep":1}',
    "deep": b"[" * 100_000,
    "NaN": b'{"type":"cancel","job":"1","keep":NaN}',
    "too long": b'{"type":"unload","x":"' + b"x" * messages.MAX_LINE_BYTES + b'"}',
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_line_is_answered_and_survived(workers, tmp_path: Path, case: str) -> None:
    client = workers.fake()
    client.line(BROKEN[case] + b"\n")
    error = client.next()
    assert error["type"] == "error" and error["job"] is None and error["kind"] == "input"
    assert error["message"].endswith(".") and "\n" not in error["message"]
    client.run("1", "quick", tmp_path)
    assert client.next(*FINAL)["type"] == "done"


def test_a_broken_run_is_answered_with_its_job(workers, tmp_path: Path) -> None:
    client = workers.fake()
    client.line(b'{"type":"run","job":"1","folder":"f"}\n')
    error = client.next()
    assert error["type"] == "error" and error["job"] == "1"


def test_a_second_job_of_the_same_name_does_not_affect_the_first(workers, tmp_path: Path) -> None:
    client = workers.fake()
    client.run("1", "patient", tmp_path)
    client.next("progress")
    client.run("1", "quick", tmp_path)
    client.line(b'{"type":"run","job":"1"}\n')
    for _ in range(2):
        assert client.next("error")["job"] is None
    client.send(type="cancel", job="1", keep=True)
    assert client.next(*FINAL)["type"] == "partial"


def test_cancel_of_an_unknown_job_is_an_error_and_of_an_ended_one_is_not(workers, tmp_path: Path) -> None:
    client = workers.fake()
    client.send(type="cancel", job="never", keep=False)
    assert "never" in client.next()["message"]
    client.run("1", "quick", tmp_path)
    client.next("done")
    client.send(type="cancel", job="1", keep=False)
    client.send(type="bye")
    assert client.rest() == []


@pytest.mark.skipif(os.name == "nt", reason="prints by the C library of POSIX")
def test_libraries_cannot_print_into_or_read_from_the_protocol(workers, tmp_path: Path) -> None:
    client = workers.fake()
    client.run("1", "noisy", tmp_path)
    client.run("2", "quick", tmp_path)
    done = client.next()
    assert done["type"] == "done" and (done["report"]["read"], done["report"]["descriptor"]) == ("", 0)
    assert client.next("done")["job"] == "2"
    for words in ("printed by Python", "written to descriptor 1", "printed by C", "printed by a child"):
        assert words in client.log()


@pytest.mark.parametrize("model", ["hungry", "hungry_torch", "hungry_cpu"])
def test_too_little_memory_is_reported_and_the_model_unloaded(workers, tmp_path: Path, model: str) -> None:
    client = workers.fake()
    client.run("1", model, tmp_path)
    error = client.next()
    assert (error["type"], error["job"], error["kind"]) == ("error", "1", "memory")
    client.run("2", "quick", tmp_path)
    assert client.next("done")["report"]["cleared"] == 1


def test_a_full_gpu_names_the_device_to_try(workers, tmp_path: Path) -> None:
    client = workers.fake()
    client.run("1", "full_gpu", tmp_path)
    assert client.next("error")["tryDevice"] == "cpu"


def test_a_worker_whose_gpu_is_lost_reports_it_and_ends(workers, tmp_path: Path) -> None:
    client = workers.fake()
    client.run("1", "reset_gpu", tmp_path)
    error = client.next("error")
    assert (error["message"], error["tryDevice"]) == ("The graphics card stopped working.", "cpu") and error["ends"]
    assert client.rest() == [] and client.process.wait(5) == 1


def test_a_worker_whose_gpu_is_lost_during_a_cancel_reports_its_end(workers, tmp_path: Path) -> None:
    client = workers.fake()
    client.run("1", "reset_when_cancelled", tmp_path)
    client.next("progress")
    client.send(type="cancel", job="1", keep=False)
    assert client.rest() == [{"type": "cancelled", "job": "1", "ends": True}] and client.process.wait(5) == 1


def test_an_expected_error_keeps_its_kind_and_sentence(workers, tmp_path: Path) -> None:
    client = workers.fake()
    client.run("1", "wrong_input", tmp_path)
    error = client.next()
    assert error["kind"] == "input" and error["message"] == "The volume 'a.nrrd' is a 2-D image; give a 3-D volume."


def test_an_unexpected_error_is_one_sentence_with_the_traceback_as_details(workers, tmp_path: Path) -> None:
    client = workers.fake()
    client.run("1", "defective", tmp_path)
    error = client.next()
    assert error["kind"] == "internal" and "\n" not in error["message"] and "no such key" in error["message"]
    assert "in defective" in error["details"] and "in defective" in client.log()
    client.run("2", "quick", tmp_path)
    assert client.next("done")["job"] == "2"


def test_a_report_that_is_no_json_fails_its_job_only(workers, tmp_path: Path) -> None:
    client = workers.fake()
    client.run("1", "unspeakable", tmp_path)
    assert client.next()["type"] == "error"
    client.run("2", "quick", tmp_path)
    assert client.next("done")["job"] == "2"


def test_progress_is_limited_but_stages_and_last_steps_are_sent(workers, tmp_path: Path) -> None:
    client = workers.fake()
    start = time.monotonic()
    client.run("1", "burst", tmp_path)
    received = []
    while (message := client.next())["type"] == "progress":
        received.append((message["stage"], message["step"]))
    seconds = time.monotonic() - start
    assert received[0] == ("sampling", 0)
    assert received[-3:] == [("sampling", 999), ("writing", 0), ("writing", 1)]
    assert 5 <= len(received) <= 10 * seconds + 5


def test_unload_releases_the_model(workers, tmp_path: Path) -> None:
    client = workers.fake()
    for job, cleared in (("1", 0), ("2", 1)):
        client.run(job, "quick", tmp_path)
        assert client.next("done")["report"]["cleared"] == cleared
        client.send(type="unload")


def test_an_idle_worker_unloads_the_model_once(workers, tmp_path: Path) -> None:
    client = workers.fake(idle_seconds=0.1)
    client.run("1", "quick", tmp_path)
    assert client.next("done")["report"]["cleared"] == 0
    time.sleep(0.5)
    client.run("2", "quick", tmp_path)
    assert client.next("done")["report"]["cleared"] == 1


def test_the_end_of_stdin_ends_an_idle_worker(workers) -> None:
    client = workers.fake()
    assert client.leave() < SOON
    assert client.process.returncode == 0 and client.rest() == []


def test_bye_ends_the_worker_while_stdin_stays_open(workers, tmp_path: Path) -> None:
    client = workers.fake()
    client.run("1", "patient", tmp_path)
    client.run("2", "quick", tmp_path)
    client.next("progress")
    client.send(type="bye")
    assert client.rest() == [{"type": "cancelled", "job": "1"}]
    assert client.process.wait(SOON) == 0


@pytest.mark.skipif(os.name == "nt", reason="process groups of POSIX; on Windows the client ends the tree")
@pytest.mark.parametrize("polite", [False, True])
def test_the_end_of_stdin_ends_a_run_that_does_not_listen_and_its_children(
    workers, tmp_path: Path, polite: bool
) -> None:
    client = workers.fake()
    client.run("1", "deaf", tmp_path)
    client.next("progress")
    child = int((tmp_path / "child").read_text())
    assert alive(child)
    if polite:
        client.send(type="bye")
    assert client.leave() < SOON
    deadline = time.monotonic() + SOON
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(child)


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"  # ended, but nobody has asked for its status yet
    except FileNotFoundError:
        return False


def test_the_end_of_stdin_ends_a_worker_that_still_loads(workers) -> None:
    assert workers.fake(loading_seconds=60).leave() < SOON


def test_a_client_that_no_longer_reads_ends_the_worker(workers, tmp_path: Path) -> None:
    client = workers.fake()
    client.read_no_more()
    client.run("1", "burst", tmp_path)
    client.process.wait(10)


def test_a_crash_ends_the_stream(workers, tmp_path: Path) -> None:
    client = workers.fake()
    client.run("1", "crash", tmp_path)
    assert client.rest() == []
    assert client.process.wait(SOON) == 42
