"""Sections of the panel, one module each."""
