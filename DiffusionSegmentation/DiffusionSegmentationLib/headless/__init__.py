"""The scene code without a window, on PyPI's slicer-core."""
