"""Runs in each Python of the other computer of loopback.py: changes only its worker, as the test asks."""

import os
import runpy
import sys

if sys.orig_argv[-1:] == ["worker"]:
    if script := os.environ.get("LOOPBACK_WORKER"):
        sys.argv = [script]
        runpy.run_path(script, run_name="__main__")
        os._exit(0)
    if interval := os.environ.get("LOOPBACK_INTERVAL"):
        from diffusion_segmentation.segmentation import partial_results

        partial_results.INTERVAL_SECONDS = float(interval)
