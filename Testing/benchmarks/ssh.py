"""Runs on another computer by ssh, against a real sshd on this one: cuts of the connection, and the overhead of a run.

    python Testing/run.py bench ssh [--cuts N] [--longest S] [--volume FILE] [--runs N]

Each cut hits a run that keeps its finished samples ten times a second, at a random moment from its start on. After it
the finished samples that had arrived must be whole, and the other computer must be empty within ten seconds. Ratios of
the time of a run through ssh to that of a local one are of pairs of runs in this process, one after the other.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "worker"), str(Path(__file__).parents[1])]

import conftest  # noqa: E402
from loopback import FAKE_ENGINE, Loopback, missing  # noqa: E402
from remote_cuts import CUTS, Relay, cut  # noqa: E402
from small_inputs import write_ball  # noqa: E402

MODEL = "brain-structures"
PATIENCE_SECONDS = 900.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cuts", type=int, default=100)
    parser.add_argument("--longest", type=float, default=5.0, help="most seconds from a start to its cut, default: 5")
    parser.add_argument("--volume", type=Path, help="for the overhead; default: no measurement of it")
    parser.add_argument("--runs", type=int, default=3, help="pairs of runs for the overhead")
    parser.add_argument("--samples", type=int, default=8)
    options = parser.parse_args()
    if problem := missing():
        sys.exit(f"This benchmark needs sshd: {problem}.")
    with tempfile.TemporaryDirectory(prefix="ssh-benchmark-") as folder:
        loopback = Loopback(Path(folder) / "loopback")
        try:
            cuts(loopback, options.cuts, options.longest, Path(folder))
            if options.volume:
                overhead(loopback, options, Path(folder))
        finally:
            loopback.close()


def cuts(loopback: Loopback, count: int, longest_s: float, folder: Path) -> None:
    """Cut `count` runs and print what was lost."""
    loopback.configure(worker=(FAKE_ENGINE,))
    volume, rng = folder / "ball.nrrd", random.Random(0)
    write_ball(volume)
    durations: dict[str, list[float]] = {kind: [] for kind in CUTS}
    failed, with_samples = [], 0
    for number in range(count):
        kind, delay = CUTS[number % len(CUTS)], rng.uniform(0, longest_s)
        try:
            outcome = cut(loopback, kind, delay, folder / f"job-{number}", volume)
        except AssertionError as error:
            failed.append(f"{number} {kind} after {delay:.2f} s: {error}")
            continue
        durations[kind].append(outcome.remote_s)
        with_samples += outcome.before > 0
        print(f"{number} {kind} after {delay:.2f} s: {outcome.before} -> {outcome.after}, {outcome.remote_s:.1f} s")
    print(f"{count} cuts, {with_samples} of them with finished samples here; {len(failed)} failed", *failed, sep="\n")
    for kind, seconds in durations.items():
        if seconds:
            print(f"{kind}: {len(seconds)} cuts, the other computer was empty after at most {max(seconds):.1f} s")


def overhead(loopback: Loopback, options: argparse.Namespace, folder: Path) -> None:
    """Print the ratio of the time of a run through ssh to that of a local run."""
    loopback.configure()
    conftest.PATIENCE_SECONDS = PATIENCE_SECONDS
    clients = conftest.Clients(folder)
    os.environ["OMP_NUM_THREADS"] = "1"
    local, relay = clients.real(), Relay(loopback)
    ratios = []
    try:
        local.next("hello"), relay.next("hello", seconds=PATIENCE_SECONDS)
        for number in range(options.runs + 1):
            seconds = []
            for name, client in (("local", local), ("ssh", relay)):
                output = folder / f"{name}-{number}"
                output.mkdir(mode=0o700)
                start = time.monotonic()
                fields = {"samples": options.samples, "device": "cpu", "volume": str(options.volume), "model": MODEL}
                common = {"type": "run", "job": f"{name}-{number}", "folder": str(output), "steps": None, "seed": 0}
                client.send(**common, **fields)
                last = client.next("done", "error", **({"seconds": PATIENCE_SECONDS} if name == "ssh" else {}))
                assert last is not None and last["type"] == "done", last
                seconds.append(time.monotonic() - start)
            print(f"local {seconds[0]:.1f} s, ssh {seconds[1]:.1f} s", flush=True)
            if number:  # the first pair loads the model
                ratios.append(seconds[1] / seconds[0])
    finally:
        clients.end()
        relay.end()
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file()) / 1e6
    print(
        f"ssh to local: {statistics.median(ratios):.3f} (of {sorted(round(r, 3) for r in ratios)}), {size:.0f} MB back"
    )


if __name__ == "__main__":
    main()
