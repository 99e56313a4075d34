"""The background process that Slicer starts, and its protocol.

Nothing is imported here, because Slicer's own process imports `worker.protocol`.
"""
