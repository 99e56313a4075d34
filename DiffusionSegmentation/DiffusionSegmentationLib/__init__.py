"""The Slicer side of DiffusionSegmentation: panel, jobs, worker client, scene and display. Never imports torch."""
