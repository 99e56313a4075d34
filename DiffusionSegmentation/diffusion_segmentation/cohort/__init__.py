"""Segmentation of many cases by several workers, on one machine or on a cluster of Ray (extra `[cohort]`)."""
