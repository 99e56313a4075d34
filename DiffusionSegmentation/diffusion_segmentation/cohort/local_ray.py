"""Ray for one command: started on this machine, or the cluster at an address."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
from collections.abc import Iterator
from typing import Any

from ..errors import DiffusionSegmentationError, InputError

STORE_BYTES = 100 * 2**20  # shared memory; cases and results are files, so Ray stores next to nothing

ALWAYS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_PROMPT_ENABLED": "0",
}
LOCAL = {
    # Only 127.0.0.1 is listened on; without this Ray takes the address of the network card on Linux.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Ray's memory monitor would end the newest case once 95 % of the memory is in use, cached files of other programs
    # included. `dispatch` plans the memory of all workers together, and a case that needs nearly all of it runs alone.
    "RAY_memory_monitor_refresh_ms": "0",
    # Other users of this machine cannot reach the workers: requests need a token, which only this command knows.
    "RAY_AUTH_MODE": "token",
}


def require_ray() -> None:
    """Raise InputError with the command to install if Ray is missing."""
    if importlib.util.find_spec("ray") is None:
        raise InputError("`cohort` needs Ray; install it with: pip install 'diffusion-segmentation[cohort]'")


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[list[dict[str, Any]]]:
    """Start Ray on this machine, or connect to the cluster at `address`; yields its nodes, as `ray.nodes` does.

    Locally there is no dashboard and nothing listens beyond 127.0.0.1. Raises InputError if there is none,
    DiffusionSegmentationError if Ray cannot start.
    """
    os.environ.update(ALWAYS)
    if address is None:
        os.environ.update({**LOCAL, "RAY_AUTH_TOKEN": secrets.token_hex(32)})
    import ray

    # Ray would keep the command line with the job; it can name patients.
    ray._private.utils.get_entrypoint_name = lambda: "diffusion-segmentation cohort"
    # Ray would print paragraphs about each lost worker into the progress; `dispatch` handles and counts them.
    ray._private.worker.print_to_stdstream = lambda *arguments, **options: None
    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address is None:
        options |= {"include_dashboard": False, "object_store_memory": STORE_BYTES}
    try:
        ray.init(address=address or "local", **options)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        if address is None:
            raise DiffusionSegmentationError(
                "Ray could not start on this machine; try again, or restart it."
            ) from error
        raise InputError(
            f"There is no Ray cluster at '{address}' that this command may use; start it with `ray start --head`, give "
            "the address that it shows, and set RAY_AUTH_MODE and the token as there."
        ) from error
    try:
        yield ray.nodes()
    finally:
        ray.shutdown()
