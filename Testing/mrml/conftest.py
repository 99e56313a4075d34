"""Fixtures for tests on Slicer's own libraries, built with the functions in mrml_cases.py."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import slicer

from DiffusionSegmentationLib.headless import session

sys.path.insert(0, str(Path(__file__).parent))

from mrml_cases import VIEW_SIZE, Job, addVolume, obliqueIJKToRAS, segment


@pytest.fixture
def application() -> Iterator[session.Application]:
    """Slicer's scene and logics, new for every test."""
    application = session.boot()
    yield application
    application.close()


@pytest.fixture
def views(application: session.Application) -> dict:
    """Slice views by name."""
    application.addSliceViews(VIEW_SIZE)
    return application.sliceViews


@pytest.fixture
def volumeNode(application: session.Application) -> slicer.vtkMRMLScalarVolumeNode:
    """An oblique volume with unequal spacing."""
    return addVolume("Kopf é 頭", obliqueIJKToRAS())


@pytest.fixture
def job(volumeNode: slicer.vtkMRMLScalarVolumeNode, tmp_path: Path) -> Job:
    """The files of a run on `volumeNode`."""
    return segment(volumeNode, tmp_path / "job ü")
