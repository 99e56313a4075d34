"""The background process that Slicer starts, and its protocol.

No module is imported here, because Slicer's own process imports `worker.protocol`.
"""
