"""Runs in each Python of the other computer of loopback.py: changes only its worker, as the test asks."""

import os
import runpy
import sys

words = os.environ.get("LOOPBACK_WORKER")
if words and sys.orig_argv[-1:] == ["worker"]:
    sys.argv = words.split("|")
    runpy.run_path(sys.argv[0], run_name="__main__")
    os._exit(0)
