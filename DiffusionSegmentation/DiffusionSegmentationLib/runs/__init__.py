"""Runs: job folders, the worker process and batches. No qt."""
