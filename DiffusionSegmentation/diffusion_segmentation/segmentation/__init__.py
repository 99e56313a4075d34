"""Segmenting one volume: tiling, sampling, running statistics and result files."""
