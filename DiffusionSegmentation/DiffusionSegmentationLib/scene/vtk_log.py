"""Suppression of VTK's messages on stderr."""

import contextlib
from collections.abc import Iterator

import vtk


@contextlib.contextmanager
def quiet(verbosity: int = vtk.vtkLogger.VERBOSITY_OFF) -> Iterator[None]:
    """Print only messages up to `verbosity` (a level of vtkLogger) inside the `with` block."""
    before = vtk.vtkLogger.GetCurrentVerbosityCutoff()
    vtk.vtkLogger.SetStderrVerbosity(verbosity)
    try:
        yield
    finally:
        vtk.vtkLogger.SetStderrVerbosity(before)
