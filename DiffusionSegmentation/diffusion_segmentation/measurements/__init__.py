"""Measurements of label maps, and answers to questions about them from the samples of a run."""
