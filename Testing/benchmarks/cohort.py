"""Cohorts on test clusters of Ray: four workers beside one, lost workers and nodes, memory of the command.

    python Testing/run.py bench cohort [--only speed|losses|memory|real] [--output FILE]

`speed`, `losses` and `memory` use an engine that sleeps in place of a segmentation. `speed` and `losses` run on two
nodes of a cluster on this machine (`ray.cluster_utils`), and `losses` ends workers and one node.
`real` segments small heads with a small model with random weights, by one and by four workers with one thread each.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "Testing"), str(ROOT / "Testing" / "engine")]

import ray  # noqa: E402
import sleeping_engine  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402
from sleeping_engine import SleepingEngine  # noqa: E402

from diffusion_segmentation.cohort.cases import Case  # noqa: E402
from diffusion_segmentation.cohort.dispatch import Dispatcher  # noqa: E402
from diffusion_segmentation.cohort.engine import RUNNING, SegmentationEngine  # noqa: E402
from diffusion_segmentation.cohort.index import Entry  # noqa: E402
from diffusion_segmentation.cohort.key import Settings, model_sha256  # noqa: E402
from diffusion_segmentation.cohort.places import places  # noqa: E402
from diffusion_segmentation.cohort.slots import RayPool  # noqa: E402

CORES = 2  # of each node, as Ray counts them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measures = {"speed": speed, "losses": losses, "memory": memory, "real": real}
    parser.add_argument("--only", choices=measures, nargs="+", default=list(measures))
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    options = parser.parse_args()
    ray.cloudpickle.register_pickle_by_value(sleeping_engine)  # workers cannot import it
    results = {}
    for name in options.only:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": CORES, "include_dashboard": False})
        second = cluster.add_node(num_cpus=CORES)
        ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
        with tempfile.TemporaryDirectory() as folder:
            results[name] = measures[name](Path(folder), partial(cluster.remove_node, second, allow_graceful=False))
        ray.shutdown()
        cluster.shutdown()
        print(name, json.dumps(results[name]), flush=True)
    if options.output:
        options.output.write_text(json.dumps(results, indent=2), encoding="utf-8")


def cases(folder: Path, count: int) -> list[Entry]:
    return [Entry(Case(str(n), (folder / str(n),), "m")) for n in range(count)]


def seconds(entries: list[Entry], engine: Any, workers: int, tick=lambda dispatcher: None) -> float:
    """Seconds from the moment at which all workers are ready to the end of the last case."""
    with RayPool(engine, places(ray.nodes(), workers, gpus=False)) as pool:
        ray.get([actor.start.remote() for actor in pool._actors.values()])
        start = time.monotonic()
        dispatcher = Dispatcher(entries, pool, tick=lambda: tick(dispatcher))
        dispatcher.run()
        return time.monotonic() - start


def speed(folder: Path, remove_node: Any) -> dict[str, float]:
    """Four workers beside one, 60 cases of 1 s."""
    taken = {n: seconds(cases(folder, 60), SleepingEngine(folder / str(n), 1.0), n) for n in (1, 4)}
    return {"seconds_1": taken[1], "seconds_4": taken[4], "ratio": taken[1] / taken[4]}


def losses(folder: Path, remove_node: Any) -> dict[str, Any]:
    """200 cases of 1 s with four workers, of which one is ended every 8 s on average; the second node after 40 s."""
    ended, rng, over = [], random.Random(0), threading.Event()

    def lose() -> None:
        start = time.monotonic()
        node_is_there = True
        while not over.wait(rng.uniform(4.0, 12.0)):
            if node_is_there and time.monotonic() - start > 40:
                node_is_there = False
                remove_node()
            alive = [int(path.name) for path in folder.glob("pids/*") if Path(f"/proc/{path.name}").exists()]
            if alive:
                ended.append(rng.choice(alive))
                os.kill(ended[-1], signal.SIGKILL)

    thread = threading.Thread(target=lose)
    thread.start()
    entries = cases(folder, 200)
    try:
        taken = seconds(entries, SleepingEngine(folder, 1.0), 4)
    finally:
        over.set()
        thread.join()
    finished = Counter(path.name.partition("=")[0] for path in folder.glob("results/*"))
    results = [path.name for path in (folder / "cases").iterdir()]
    return {
        "seconds": taken,
        "workers_ended": len(ended),
        "nodes_ended": 1,
        "states": Counter(entry.state for entry in entries),
        "results": len(set(results)),
        "lost": 200 - len({entry.key for entry in entries if entry.state == "done"} & set(results)),
        "cases_that_ran_to_the_end_twice": sum(count > 1 for count in finished.values()),
    }


def memory(folder: Path, remove_node: Any) -> dict[str, Any]:
    """Resident memory (MB) of the command after each 100 of 1,000 cases of 0.05 s, four workers."""
    measured: dict[int, float] = {}

    def tick(dispatcher: Dispatcher) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        measured.setdefault(dispatcher.computed // 100 * 100, round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1))

    taken = seconds(cases(folder, 1000), SleepingEngine(folder, 0.05), 4, tick)
    return {"seconds": taken, "resident_mb": measured}


def real(folder: Path, remove_node: Any) -> dict[str, float]:
    """One and four workers with a small model on 16 small heads; each worker has one thread."""
    import numpy as np
    import SimpleITK as sitk
    from small_inputs import write_model

    write_model(folder / "model")
    model = str(folder / "model")
    k, j, i = np.ogrid[-1:1:60j, -1:1:80j, -1:1:70j]
    head = 300.0 * (k**2 + j**2 + i**2 < 0.8) - 100 * (k**2 + j**2 + i**2 < 0.3)
    files = [folder / f"head{n}.nrrd" for n in range(16)]
    for n, file in enumerate(files):
        noise = np.random.default_rng(n).normal(0, 5, head.shape)
        image = sitk.GetImageFromArray((head + noise).astype(np.float32))
        image.SetSpacing((2.5, 2.5, 2.5))
        sitk.WriteImage(image, file)
    taken = {}
    for workers in (1, 4):
        output = folder / f"out{workers}"
        (output / RUNNING).mkdir(parents=True)
        engine = SegmentationEngine(output, Settings(), "cpu", {model: model_sha256(model)})
        entries = [Entry(Case(file.stem, (file,), model)) for file in files]
        taken[workers] = seconds(entries, OneThread(engine), workers)
        assert all(entry.state == "done" for entry in entries), [entry.error for entry in entries]
    return {"seconds_1": taken[1], "seconds_4": taken[4], "ratio": taken[1] / taken[4]}


class OneThread:
    """An engine whose workers have one thread, however many cores they share."""

    def __init__(self, engine: SegmentationEngine) -> None:
        self.prepare, self.run, self.forget = engine.prepare, engine.run, engine.forget
        self._start = engine.start

    def start(self, threads: int) -> None:
        self._start(1)


if __name__ == "__main__":
    main()
