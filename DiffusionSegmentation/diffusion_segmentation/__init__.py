"""The engine of DiffusionSegmentation, independent of 3D Slicer.

Importing this package or `diffusion_segmentation.worker.protocol` imports the standard library only, so that Slicer's
own process does not load torch.
"""

__version__ = "0.5.0"
"""Version of the Python package and of the extension. Models have versions of their own."""
