"""An engine of cohorts that sleeps in place of a segmentation and writes a result of one file."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path

from diffusion_segmentation.cohort.engine import RUNNING, Prepared, put_in_place
from diffusion_segmentation.cohort.index import is_done


class SleepingEngine:
    """Each case takes `seconds`. Files `pids/N` name the processes; each run that ended left a file `results/KEY=*`."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds

    def start(self, threads: int) -> None:
        for name in ("pids", "results", RUNNING):
            (self.folder / name).mkdir(exist_ok=True, parents=True)
        (self.folder / "pids" / str(os.getpid())).touch()

    def prepare(self, case) -> Prepared:
        return Prepared(case.name, is_done(self.folder, case.name))

    def run(self, case, key: str) -> None:
        print(f"stdout of {case.name}", flush=True)  # as a library could
        if case.name.endswith("broken"):
            raise ValueError(f"{case.name} is broken")
        time.sleep(self.seconds)
        work = self.folder / RUNNING / uuid.uuid4().hex
        work.mkdir()
        (work / "report.json").write_text("{}", encoding="utf-8")
        put_in_place(work, self.folder / "cases" / key)
        (self.folder / "results" / f"{key}={uuid.uuid4().hex}").touch()

    def forget(self) -> None:
        pass
