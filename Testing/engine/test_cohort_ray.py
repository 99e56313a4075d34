"""Cohorts on a real Ray of this machine: lost workers, Ctrl+C, what Ray stores and listens to, and the command."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import sleeping_engine
from sleeping_engine import SleepingEngine

from diffusion_segmentation.cohort import run as cohort_run
from diffusion_segmentation.cohort.cases import Case
from diffusion_segmentation.cohort.index import Index
from diffusion_segmentation.cohort.key import Settings
from diffusion_segmentation.cohort.local_ray import connected
from diffusion_segmentation.cohort.places import Place, places
from diffusion_segmentation.errors import InputError

NAME = "Doe^Jane"

with_ray = pytest.mark.skipif(sys.platform == "win32", reason="the support of Windows by Ray is beta")


def node(name: str, cores: float, gpus: int = 0, alive: bool = True) -> dict:
    return {"NodeID": name, "Alive": alive, "Resources": {"CPU": cores, "GPU": gpus}}


def test_workers_share_the_cores_of_their_machine():
    two = [node("a", 16.0), node("b", 8.0), node("gone", 64.0, alive=False)]
    assert places(two, None, True) == [Place("a", 4)] * 4 + [Place("b", 4)] * 2
    assert places(two, 3, True) == [Place("a", 8)] * 2 + [Place("b", 8)]
    assert places([node("a", 2.0)], None, True) == [Place("a", 2)]
    assert places([node("a", 2.0)], 8, True) == [Place("a", 0.25)] * 8
    assert places([node("a", 7.0)], 2, True) == [Place("a", 3)] * 2  # Ray takes whole cores


def test_each_gpu_has_one_worker():
    two = [node("a", 16.0, 2), node("b", 8.0)]
    assert places(two, None, True) == [Place("a", 8, 1)] * 2
    assert places(two, 8, True) == [Place("a", 8, 1)] * 2
    assert places(two, 1, True) == [Place("a", 16, 1)]
    assert places(two, 2, False) == [Place("a", 16), Place("b", 8)]


def test_a_cluster_without_cores_is_refused():
    with pytest.raises(InputError, match="No machine of the cluster has a core"):
        places([node("a", 0.0)], None, True)


def test_without_ray_a_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    request = cohort_run.CohortRequest([tmp_path], tmp_path / "out", "m", Settings())
    with pytest.raises(InputError, match=r"pip install 'diffusion-segmentation\[cohort\]'"):
        cohort_run.cohort(request)


@pytest.fixture(scope="module")
def nodes():
    """Ray on this machine, and its nodes. The environment of this process stays as it was."""
    before = dict(os.environ)
    with connected(None) as found:
        import ray

        ray.cloudpickle.register_pickle_by_value(sleeping_engine)  # workers cannot import it
        yield found
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def cohort(tmp_path, nodes, monkeypatch):
    """Function that runs cases of `names` with two sleeping workers; returns the index."""
    pages = []
    monkeypatch.setattr(cohort_run, "write_triage", pages.append)

    def run(names, seconds=0.1) -> Index:
        index = Index(tmp_path, [Case(name, (tmp_path / name,), "m") for name in names])
        request = cohort_run.CohortRequest([], tmp_path, "m", Settings(), workers=2)
        pages.clear()
        try:
            cohort_run._run(request, index, SleepingEngine(tmp_path, seconds), nodes)
        finally:
            assert pages[-1] == tmp_path
        return index

    return run


def stored(folder: Path) -> list[dict]:
    return json.loads((folder / "cohort.json").read_text(encoding="utf-8"))["cases"]


@pytest.mark.slow
@with_ray
def test_a_lost_worker_loses_no_case_and_names_stay_out_of_ray(cohort, tmp_path, nodes):
    killed = []

    def kill() -> None:
        while len(list(tmp_path.glob("results/*"))) < 4:
            time.sleep(0.05)
        killed.append(int(next(iter(tmp_path.glob("pids/*"))).name))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    cases = [f"{NAME}-{n}" for n in range(15)] + [f"{NAME}-broken"]
    index = cohort(cases, 0.3)
    killer.join()
    assert Counter(entry.state for entry in index.entries) == {"done": 15, "failed": 1}
    assert stored(tmp_path) == [entry.as_json() for entry in index.entries]
    assert f"{NAME}-broken is broken" in index.entries[-1].error
    assert len(list((tmp_path / "cases").iterdir())) == 15
    assert killed
    session = Path(nodes[0]["RayletSocketName"]).parents[1]
    files = [path for path in session.rglob("*") if path.is_file()]
    assert files and [path for path in files if b"Doe" in path.read_bytes()] == []


@pytest.mark.slow
@with_ray
def test_ctrl_c_keeps_what_is_finished_and_the_same_command_goes_on(cohort, tmp_path):
    def interrupt() -> None:
        while len(list(tmp_path.glob("results/*"))) < 3:
            time.sleep(0.05)
        signal.raise_signal(signal.SIGINT)

    cases = [str(n) for n in range(9)]
    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        cohort(cases, 0.5)
    first = {case["case"] for case in stored(tmp_path) if case["state"] == "done"}
    assert 1 <= len(first) < 9
    index = cohort(cases)
    assert {entry.state for entry in index.entries} == {"done"}
    repeated = Counter(path.name.partition("=")[0] for path in tmp_path.glob("results/*"))
    assert set(repeated) == set(cases) and all(repeated[name] == 1 for name in first)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ray_listens_on_this_machine_only(nodes):
    assert nodes[0]["NodeManagerAddress"] == "127.0.0.1"
    inodes = set()
    for process in descendants(os.getpid()):
        for handle in Path(f"/proc/{process}/fd").glob("*"):
            try:
                inodes.add(os.readlink(handle).removeprefix("socket:[").removesuffix("]"))
            except OSError:
                continue
    rows = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()]
    listening = [row[1].split(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes]
    assert len(listening) > 3
    assert set(listening) <= {"0100007F", "0000000000000000FFFF00000100007F"}


def descendants(process: int) -> list[int]:
    children = [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return [process, *(one for child in children for one in descendants(child))]


@pytest.mark.slow
@with_ray
def test_the_command_segments_and_says_what_failed(tmp_path, a_model_folder, a_head_file):
    folder, sessions = tmp_path / NAME, Path(tempfile.mkdtemp())
    folder.mkdir()
    shutil.copy(a_head_file, folder / "a.nrrd")
    (folder / "broken.nii.gz").write_bytes(b"no volume")
    options = [folder, "--model", a_model_folder, "--samples", "2", "--output", tmp_path / "out", "--workers", "1"]
    command = [sys.executable, "-m", "diffusion_segmentation", "cohort", *map(str, options), "--json"]
    path = os.pathsep.join(sys.path)
    environment = {**os.environ, "PYTHONPATH": path, "RAY_TMPDIR": str(sessions)}
    streams = {"capture_output": True, "encoding": "utf-8"}
    answer = subprocess.run(command, check=False, env=environment, timeout=300, **streams)
    try:
        assert answer.returncode == 1
        expected = {"cases": 2, "done": 1, "failed": 1, "left": 0, "folder": str(tmp_path / "out")}
        assert json.loads(answer.stdout) == expected
        assert "broken: The file 'broken.nii.gz' cannot be read" in answer.stderr
        assert "1 of 2 cases failed." in answer.stderr
        (done,) = (case for case in stored(tmp_path / "out") if case["state"] == "done")
        assert done["case"] == "a" and (tmp_path / "out" / "cases" / done["key"] / "samples.seq.nrrd").is_file()
        assert not (tmp_path / "out" / ".running").exists()
        files = [path for path in sessions.rglob("*") if path.is_file()]
        assert files and [path for path in files if b"Doe" in path.read_bytes()] == []
    finally:
        shutil.rmtree(sessions, ignore_errors=True)
