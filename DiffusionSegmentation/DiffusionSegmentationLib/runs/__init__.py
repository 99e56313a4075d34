"""Runs: job folders, worker process, batches. Independent of Qt."""
