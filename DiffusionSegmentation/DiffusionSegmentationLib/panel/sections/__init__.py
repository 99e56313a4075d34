"""Sections of the panel, one module each. Each has `refresh` and `close`."""
