"""The Slicer side of DiffusionSegmentation: panel, runs, scene, review and report. Never imports torch."""
