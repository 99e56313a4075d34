"""Runs on another computer by ssh: the relay here looks like a worker, the agent there runs one.

Standard library only but for `run`: the relay also runs in Slicer's Python, without torch.
"""
