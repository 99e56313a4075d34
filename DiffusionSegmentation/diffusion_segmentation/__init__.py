"""The engine of DiffusionSegmentation: everything that needs no 3D Slicer.

Importing this package or `diffusion_segmentation.worker.protocol` imports the standard library only, so that
Slicer's own process can do it without paying for torch.
"""

__version__ = "0.4.0"
