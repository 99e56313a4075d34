"""Fixtures that several files of this layer use; the scripts beside them can be imported."""

from __future__ import annotations

import shutil
import signal
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

TIME_LIMIT_SECONDS = 10


@pytest.fixture
def time_limit() -> Iterator[None]:
    """Fails a test that waits for a pipe, or reads a device without end."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def fail(*_: Any) -> None:
        raise TimeoutError("hung")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(TIME_LIMIT_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def model_folder(a_model_folder: Path, tmp_path: Path) -> Path:
    """A valid model, the only one in its folder of models."""
    return shutil.copytree(a_model_folder, tmp_path / "models" / "random")


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    """A `Bench` for real workers, for all tests of a file."""
    import worker_bench

    with worker_bench.bench() as bench:
        yield bench


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    """Voxels for detached headers: whole in d.raw, deflated in d.zraw, its slices in s0.raw to s3.raw."""
    from fuzz_volumes import VOXELS, write_data

    write_data(tmp_path)
    (tmp_path / "d.zraw").write_bytes(zlib.compress(VOXELS.tobytes()))
    return tmp_path


@pytest.fixture
def run(a_head_file: Path, a_model_folder: Path, tmp_path: Path) -> Callable[..., dict]:
    """Segments the head with the random model into `tmp_path / name` and returns the report."""
    from diffusion_segmentation.segmentation.pipeline import Request, segment

    def go(name: str, **changed: Any) -> dict:
        options = {key: changed.pop(key) for key in ("progress", "cancel", "models") if key in changed}
        given = {"model": str(a_model_folder), "samples": 9, "device": "cpu", "keep_samples": True} | changed
        return segment(Request(a_head_file, tmp_path / name, **given), **options).report

    return go
