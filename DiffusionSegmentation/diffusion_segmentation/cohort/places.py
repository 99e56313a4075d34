"""Where the workers of a cohort run: their nodes, cores and GPUs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError

CORES_OF_A_WORKER = 4
"""Cores for each worker on a CPU, unless the number of workers is given."""


@dataclass(frozen=True)
class Place:
    """Where a worker runs: a node of Ray, with this share of its cores, and one of its GPUs or none."""

    node: str
    cores: float
    gpus: int = 0


def places(nodes: Sequence[dict[str, Any]], workers: int | None, gpus: bool) -> list[Place]:
    """Places of `workers` workers on `nodes`, as `ray.nodes` lists them; they share the cores of their node.

    With `gpus`, if there are any, one for each; otherwise one for CORES_OF_A_WORKER cores of each node unless
    `workers` is given, spread in proportion to the cores. Raises InputError if no node has a core.
    """
    cores = {node["NodeID"]: node["Resources"].get("CPU", 0.0) for node in nodes if node["Alive"]}
    cores = {node: count for node, count in cores.items() if count > 0}
    if not cores:
        raise InputError("No machine of the cluster has a core for a worker; start Ray there with --num-cpus.")
    of_gpus = {node["NodeID"]: int(node["Resources"].get("GPU", 0)) for node in nodes if node["NodeID"] in cores}
    use_gpus = gpus and any(of_gpus.values())
    most = of_gpus if use_gpus else dict.fromkeys(cores, math.inf)
    if workers is None and not use_gpus:
        counts = {node: max(1, int(count / CORES_OF_A_WORKER)) for node, count in cores.items()}
    else:
        counts = dict.fromkeys(cores, 0)
        for _ in range(sum(of_gpus.values()) if workers is None else workers):
            free = [node for node in cores if counts[node] < most[node]]
            if not free:
                break
            counts[max(free, key=lambda node: (cores[node] / (counts[node] + 1), -counts[node]))] += 1
    return [
        Place(node, _share(cores[node] / count), int(use_gpus)) for node, count in counts.items() for _ in range(count)
    ]


def _share(cores: float) -> float:
    """Cores as Ray takes them: whole ones, or a part of one."""
    return math.floor(cores) if cores >= 1 else math.floor(100 * cores) / 100
