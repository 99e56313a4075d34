"""Evaluation on a folder of labelled images."""
